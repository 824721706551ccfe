"""Runs the commands of the READMEs, one card after the other, in copies of the collection on drawn
data: what is printed there works.

    python test/readme_commands.py [--only=OSVOS] [--list] [--output=DIR]

Commands run as printed but for what CHANGES says: trainings of full size are built and read one
batch (--dry_run), others do a few updates, published files that are not here give way to
--from_scratch, MANet's server has to print its address and is ended after 40 s. Each command is
printed with what was changed, its exit status and its seconds; one that fails is shown with its
last lines. Exit status 1 where one failed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CARDS = ('README.md', 'OSVOS', 'OSMN', 'SiamMask', 'ColorNet', 'MANet')
LEFT_OUT = (
    (r'run_tests\.sh', 'it runs the tests'),
    (r'intel', "Intel's build is installed from PyPI"),
    (r'RANK_TABLE_FILE', 'needs NPUs'),
    (r'^cd |\.\./vgg', 'needs an NPU'),
    (r'--hosts=10\.', 'needs a second machine'),
    (r'--select|--camera', 'needs a display'),
    (r'SiamMask\.convert|infer_vos_dul|color_dul|OSVOS_parent', 'the published file is not here'),
    (r'=parent\b.*=online\b|output_path=osvos\b|train_coco|osmn_coco', 'as the line before'),
    (r'siammask_vot|save_step|manet_davis', 'as the line before'),
    (r'common\.report parent', "its results are those of OSVOS's card"),
    (r'prepared|youtube_objects', 'the prepared data set is not here'),
    (r'--preset=stage2', 'needs a whole stage 1'),
    (r'--backend=davisinteractive', 'the package davisinteractive is not installed'),
)  # pattern, why the command is not run
CHANGES = (
    (r' (--init_from|--ckpt_path)=(vgg|resnet|coco)/model\.ckpt', ' --from_scratch'),
    (r'(--checkpoint=\w+)/model\.ckpt-\d+', r'\1'),
    (r'(train_full_1p\.sh .*)', r'\1 --preset=full --dry_run'),
    (r'(\.train .*--preset=(full|davis|youtube_vos|sharp|dul)\b.*)', r'\1 --dry_run'),
    (r'(\.train --train_config=.*)', r'\1 --dry_run'),
    (r'--init_from=\S+(.*--dry_run)', r'--from_scratch\1'),
    (r'(\.train (?!.*(--dry_run|--check_data)).*)', r'\1 --steps=6 --set=checkpoint_steps=2'),
    (r'(train_performance_1p\.sh.*|train_full_8p\.sh.*)', r'\1 --steps=6'),
    (r'--online_steps=\d+ --set online_rates=\S+', '--online_steps=2'),
    (r'(\.online (?!.*--online_steps).*)', r'\1 --set=online_steps=2'),
    (r'(\.online .*) --devices=[\d,]+', r'\1'),
    (r'(\.demo .*)', r'\1 --device=cpu'),
    (r'(MANet\.train .*--steps=6)', r'\1 --set=stage1_steps=2 --set=cycle=2'),
    (r'--search=penalty_k=\S+ --search=tracker_rate=\S+', '--search=penalty_k=0.08,0.1,0.01'),
    (r'--search=tracker_rate=\S+', '--search=tracker_rate=0.8,0.85,0.05'),
    (r'--workers=24', '--workers=2'),
    (r'--average=10', '--average=2'),
    (r'(python .*--serve\b.*)', r'timeout --signal=INT 40 \1 --port=0 | grep "^page: http"'),
)  # pattern, replacement
# runs that were --dry_run: the smoke one is taken
MADE_OF = ('base', 'sharp', 'run1', 'run2', 'whole')


def commands(text: str) -> list[str]:
    """The commands in the fenced blocks of a README, continued lines joined, without comments and
    optional parts in brackets."""
    found = []
    for block in re.findall(r'^```\w*\n(.*?)^```', text, re.M | re.S):
        for line in block.replace('\\\n', ' ').splitlines():
            line = re.sub(r'\s+#.*$|\s\[[^\]]*\]', '', line).strip()
            line = re.sub(r'\s+', ' ', line)
            if re.match(r'(python|bash|pip|cd|[A-Z_]+=\S+ bash) ', line):
                found.append(line)
    return found


def change(command: str) -> str:
    """A command as CHANGES has it."""
    for pattern, replacement in CHANGES:
        command = re.sub(pattern, replacement, command)
    return command


def copy_collection(folder: Path) -> None:
    """What is tracked or would be, as a clone has it."""
    listed = ['git', 'ls-files', '-co', '--exclude-standard', '-z']
    for name in subprocess.check_output(listed, cwd=str(ROOT)).decode().split('\0'):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(str(ROOT / name), str(folder / name))


def lay_out(folder: Path, sample: Path) -> str:
    """The names that the READMEs use, of drawn data; returns the box of the clip's object."""
    import cv2

    for name, target in (
        ('DAVIS', 'DAVIS'), ('COCO', 'coco'), ('YouTubeVOS', 'YouTubeVOS'), ('DATA', '.'),
        ('VOT2016', 'VOT'), ('OTB', 'VOT'), ('data', '.'), ('OSMN/data', 'coco'),
    ):  # fmt: skip
        (folder / name).symlink_to(sample / target)
    video = sample / 'DAVIS' / 'JPEGImages' / '480p' / 'drawn-x'
    names = sorted(path.name for path in video.iterdir())
    images = [cv2.resize(cv2.imread(str(video / name)), (428, 240)) for name in names]
    height, width = images[0].shape[:2]
    code = cv2.VideoWriter_fourcc(*'mp4v')
    writer = cv2.VideoWriter(str(folder / 'clip.mp4'), code, 10, (width, height))
    for image in images:
        writer.write(image)
    writer.release()
    (folder / 'frames').mkdir()
    for number, image in enumerate(images):
        cv2.imwrite(str(folder / 'frames' / f'{number:05d}.jpg'), image)
    mask = sample / 'DAVIS' / 'Annotations' / '480p' / 'drawn-x' / names[0].replace('jpg', 'png')
    first = cv2.imread(str(mask), cv2.IMREAD_GRAYSCALE)
    first = cv2.resize(first, (width, height), interpolation=cv2.INTER_NEAREST)
    cv2.imwrite(str(folder / 'first.png'), 255 * (first > 0).astype('uint8'))
    box = ','.join(map(str, cv2.boundingRect((first > 0).astype('uint8'))))
    (folder / 'masks').symlink_to(sample / 'DAVIS' / 'Annotations' / '480p')
    for number, name in enumerate(('round1', 'round2', 'fix')):
        path = [[0.4, 0.5], [0.5, 0.5], [0.6, 0.55]]
        round_ = {'frame': 3 * number, 'scribbles': [{'path': path, 'object_id': 1}]}
        (folder / f'{name}.json').write_text(json.dumps(round_))
    vot = {}
    for sequence in sorted(path for path in (sample / 'VOT').iterdir() if path.is_dir()):
        frames = sorted(str(path.relative_to(sample / 'VOT')) for path in sequence.rglob('*.jpg'))
        rows = (sequence / 'groundtruth.txt').read_text().split()
        boxes = [[float(number) for number in row.split(',')] for row in rows]
        size = cv2.imread(str(sample / 'VOT' / frames[0])).shape
        vot[sequence.name] = dict(img_names=frames, gt_rect=boxes, width=size[1], height=size[0])
        (folder / sequence.name).symlink_to(sequence)
    (folder / 'VOT2018.json').write_text(json.dumps(vot))
    return box


def run(command: str, folder: Path) -> tuple:
    """(exit status, seconds, output) of a command in a shell that has sourced env.sh."""
    begin = time.monotonic()
    done = subprocess.run(
        ['bash', '-c', f'source ./env.sh && {command}'], cwd=str(folder), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    return done.returncode, time.monotonic() - begin, done.stdout.decode(errors='replace')


def run_card(name: str, folder: Path, sample: Path) -> int:
    """Runs a README's commands in `folder`; the number that failed."""
    copy_collection(folder)
    box = lay_out(folder, sample)
    path = ROOT / name if name.endswith('.md') else ROOT / name / 'README.md'
    failed = 0
    smoke = re.compile(r'\.train (?!.*--preset).*--output_path=run\b')  # others need its result
    found = sorted(commands(path.read_text()), key=lambda each: not smoke.search(each))
    for command in found:
        why = next((why for pattern, why in LEFT_OUT if re.search(pattern, command)), None)
        if why:
            print(f'{name}: left out ({why}): {command}', flush=True)
            continue
        changed = change(command).replace('--box=300,100,60,80', f'--box={box}')
        for made in MADE_OF:
            path = folder / made
            if f'--output_path={made} ' in changed and path.is_symlink():
                path.unlink()
            written = f'--output_path={made} ' in changed or '--dry_run' in changed
            if f'={made}' in changed and not written and not path.exists():
                path.symlink_to('run')
        status, seconds, output = run(changed, folder)
        as_printed = '' if changed == command else f' (printed: {command})'
        print(f'{name}: exit {status}, {seconds:.0f} s: {changed}{as_printed}', flush=True)
        if status:
            failed += 1
            print('    ' + '\n    '.join(output.splitlines()[-12:]), flush=True)
    return failed


def main(argv=None) -> int:
    """Runs all; 1 where a command failed."""
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument('--only', action='append', choices=CARDS, help='may be given several times')
    flags.add_argument('--list', action='store_true', help='print the commands and stop')
    flags.add_argument('--output', help='folder of the copies; default: one that is removed')
    args = flags.parse_args(argv)
    cards = args.only or CARDS
    if args.list:
        for name in cards:
            path = ROOT / name if name.endswith('.md') else ROOT / name / 'README.md'
            print('\n'.join(f'{name}: {change(each)}' for each in commands(path.read_text())))
        return 0
    scratch = Path(args.output or tempfile.mkdtemp(prefix='readme-')).resolve()
    sample = scratch / 'sample'
    script = str(ROOT / 'test' / 'sample_data.py')
    subprocess.run([sys.executable, script, f'--output={sample}'], check=True)
    os.environ.pop('PYTHONPATH', None)
    os.environ.setdefault('VENV', str(scratch / 'venv'))  # one for all copies
    failed = 0
    for name in cards:
        folder = scratch / name.replace('.md', '')
        folder.mkdir()
        failed += run_card(name, folder, sample)
        if not args.output:
            shutil.rmtree(str(folder))
    if not args.output:
        shutil.rmtree(str(scratch))
    print(f'{failed} commands failed')
    return int(failed > 0)


if __name__ == '__main__':
    sys.exit(main())
