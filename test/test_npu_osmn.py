"""OSMN "as on the NPU": one process trains each kind of network for two updates through the strict
stand-in for npu_bridge, then evaluates."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = dict(
    height=64, width=64, guide_size=32, channels=0.07, log_steps=1, checkpoint_steps=2,
    test_height=48, test_width=80,
)  # fmt: skip
SMALL = ['--preset=smoke', '--batch_size=2', '--loss_scale=1024', '--device=npu', '--steps=2'] + [
    f'--set={k}={v}' for k, v in SETTINGS.items()
]
SCRIPT = """
import json, os, sys
from OSMN import evaluate, train

coco, davis, folder, flags = json.loads(sys.argv[1])
found = {}

def done(name, status):
    assert status == 0, name
    path = os.environ['NPU_STANDIN_REPORT']
    if os.path.exists(path):
        with open(path) as f:
            found[name] = json.load(f)
        os.remove(path)

flags.append(f'--data_path={coco}')
done('osvos', train.main([*flags, '--set=scales=[0.5,1.0]', f'--output_path={folder}/osvos']))
for base in ('deeplab', 'lite'):  # their segmentation
    more = [f'--set=base_model={base}', '--set=visual_modulator=False', '--steps=1']
    done(base, train.main([*flags, *more, f'--output_path={folder}/{base}']))
common = ['--device=npu', f'--data_path={davis}', '--sequences=drawn-x']
common += [f'--checkpoint={folder}/osvos', f'--output_path={folder}/results']
done('evaluate', evaluate.main(common))
with open(f'{folder}/found.json', 'w') as f:
    json.dump(found, f)
"""


def test_graphs_train_and_segment(drawn, tmp_path):
    environment = dict(
        os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), str(ROOT / 'test')]), JOB_ID='10087',
        TF_CPP_MIN_LOG_LEVEL='2', NPU_STANDIN_REPORT=str(tmp_path / 'report.json'),
    )  # fmt: skip
    given = json.dumps([drawn['coco'], drawn['davis2017'], str(tmp_path), SMALL])
    command = [sys.executable, '-W', 'ignore', '-c', SCRIPT, given]
    done = subprocess.run(command, env=environment, cwd=str(ROOT), capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads((tmp_path / 'found.json').read_text())
    for base, steps in (('osvos', 2), ('deeplab', 1), ('lite', 1)):
        assert found[base]['global_step'] == steps and found[base]['skipped'] == 0
        assert found[base]['run_config']['precision_mode'] == 'allow_mix_precision'
        assert found[base]['mixlist'] == {'black-list': {'to-add': ['ReduceSumD'], 'to-remove': []}}
        assert found[base]['loss_scale'] == 1024
        assert found[base]['keep_dtype_ops'] > 20  # loss, batch norm, fc8
    assert (tmp_path / 'results' / 'results.json').is_file()
