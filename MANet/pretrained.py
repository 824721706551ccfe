"""Weights that come with the project: pretrained/<name>.npz, and <name>.json that says what they
are.

    python -m <Model>.pretrained --checkpoint=run --name=small --facts=facts.json

packs a checkpoint so. Every --checkpoint and --init_from takes such a name; without --checkpoint it
is `small`. The same file in all five model folders.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile

from common import files, weights
from common.lazy import np, tf

from . import cli, config

FOLDER = os.path.join(str(cli.MODEL), 'pretrained')
BITS = 10  # of the mantissa of float16
NAME = 'small'  # taken where no --checkpoint is given
FACTS = ('trained_on', 'license', 'commands', 'minutes', 'scores')  # that --facts has to say


def names() -> list[str]:
    """Names of the weights in pretrained/."""
    there = os.listdir(FOLDER) if os.path.isdir(FOLDER) else []
    return sorted(name[: -len('.npz')] for name in there if name.endswith('.npz'))


def choose(args) -> None:
    """Sets args.checkpoint to a checkpoint: of the weights that it names, or of `small` where
    nothing is given.

    Raises:
      ValueError: nothing is given and nothing has come along.
    """
    if args.checkpoint is None:
        if NAME not in names():
            raise ValueError('--checkpoint is needed: folder or prefix')
        print(f'no --checkpoint: the weights that come along, --checkpoint={NAME}', flush=True)
    args.checkpoint = resolve(args.checkpoint or NAME)


def network(checkpoint: str | None, device: str = 'auto', **values) -> tuple:
    """(prefix, settings) of a network, for Python: what the programs take from --checkpoint,
    --device and --set. As they do, it leaves TensorFlow's log to errors.

    Raises:
      FileNotFoundError, ValueError: no such checkpoint; an unknown setting, or a value that it
      cannot have.
    """
    tf.logging.set_verbosity(tf.logging.ERROR)
    texts = [f'{name}={value}' for name, value in values.items()]
    args = cli.options(cli.parser(''), checkpoint=checkpoint, device=device, set=texts)
    choose(args)
    prefix = weights.checkpoint_prefix(args.checkpoint)
    return prefix, cli.configure(args, config.get_config, prefix)


def resolve(checkpoint: str | None) -> str | None:
    """`checkpoint` as it is, or the prefix of the unpacked weights where it is one of names() and
    no file or folder."""
    if checkpoint in names() and not os.path.exists(checkpoint):
        print(f'{checkpoint}: {facts(checkpoint)["license"]}', flush=True)
        return unpack(checkpoint)
    return checkpoint


def unpack(name: str) -> str:
    """Writes pretrained/<name>.npz as a checkpoint with its config.json, once; returns its prefix.

    The folder is named after the contents and moved to its place when it is whole: newer weights
    and other processes make no difference.
    """
    source = os.path.join(FOLDER, f'{name}.npz')
    digest = files.fingerprint(source)[:6] + files.fingerprint(_told(name))[:6]
    parent = FOLDER if os.access(FOLDER, os.W_OK) else os.path.join('output', cli.MODEL.name)
    folder = os.path.join(os.path.abspath(parent), f'{name}-{digest}')
    prefix = os.path.join(folder, 'model.ckpt')
    if not os.path.isdir(folder):
        settings = facts(name)['settings']
        scratch = tempfile.mkdtemp(prefix=f'.{name}-', dir=cli.writable(parent))
        try:
            made = os.path.join(scratch, 'made')
            arrays = weights.read_npz(source)
            cli.write_checkpoint(arrays, os.path.join(made, 'model.ckpt'), settings, source)
            os.rename(made, folder)
        except OSError:
            if not os.path.isdir(folder):  # else another process was quicker
                raise
        finally:
            shutil.rmtree(scratch)
    return prefix


def facts(name: str) -> dict:
    """What pretrained/<name>.json says: settings, trained_on, license, commands, scores ..."""
    return files.read_json(_told(name))


def _told(name):
    return os.path.join(FOLDER, f'{name}.json')


def pack(checkpoint: str, name: str, told: dict, bits: int = BITS) -> str:
    """Writes a checkpoint's network as pretrained/<name>.npz, float16 where its range allows, and
    <name>.json; returns the path of the first. The same weights give the same bytes.

    Args:
      checkpoint: folder or prefix.
      name: of the files.
      told: what they are, the keys FACTS.
      bits: of the mantissa that are kept; fewer take less space, as zeros are compressed.

    Raises:
      ValueError: something is not told; the settings of the network are not known.
    """
    missing = [key for key in FACTS if key not in told]
    if missing:
        raise ValueError(f'--facts does not tell {", ".join(missing)}')
    prefix = weights.checkpoint_prefix(checkpoint)
    settings = cli.saved_settings(prefix)
    if not settings:
        raise ValueError(f'no config.json beside {prefix}: of which settings is it?')
    settings['trained_on'] = told['trained_on']
    found = weights.read_checkpoint(prefix)
    scope = f'{cli.MODEL.name.lower()}/'
    arrays = {
        key: _halved(np.asarray(array, np.float32), bits)
        for key, array in sorted(found.items())
        if key.startswith(scope) and not key.endswith(cli.SLOTS)
    }
    path = os.path.join(cli.writable(FOLDER), f'{name}.npz')
    with files.replacing(path) as temporary, open(temporary, 'wb') as file:
        np.savez_compressed(file, **arrays)
    text = {**told, 'updates': int(found['global_step']), 'settings': settings}
    text['commit'] = files.commit(str(cli.MODEL))
    text = json.dumps(text, indent=1, sort_keys=True)
    files.write_text(_told(name), text + '\n')
    return path


def _halved(array, bits=BITS):
    """As float16, rounded to `bits` of its mantissa; as it is where a value is too large."""
    if np.abs(array).max() >= 6e4:
        return array
    step = 1 << (BITS - bits)
    numbers = array.astype(np.float16).view(np.uint16).astype(np.uint32)
    numbers = (numbers + step // 2) // step * step
    return numbers.astype(np.uint16).view(np.float16)


@cli.program
def main(argv=None):
    """Packs and prints the size."""
    flags = cli.parser(__doc__)
    flags.add_argument('--checkpoint', required=True, help='folder or prefix')
    flags.add_argument('--name', default=NAME, help='of the files in pretrained/')
    flags.add_argument('--facts', required=True, help=f'JSON with {", ".join(FACTS)}')
    text = f'of the mantissa that are kept, at most {BITS}: fewer make smaller files'
    flags.add_argument('--bits', type=int, choices=range(3, BITS + 1), default=BITS, help=text)
    args = flags.parse_args(argv)
    path = pack(args.checkpoint, args.name, files.read_json(args.facts), args.bits)
    print(f'{path}: {os.path.getsize(path)} bytes')


if __name__ == '__main__':
    sys.exit(main())
