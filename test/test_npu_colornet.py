"""ColorNet "as on the NPU": its training graphs, both branches and dense-ulearn-vos, and its
propagation run through the strict stand-in for npu_bridge, in one process of their own. (What
npu.py alone does is tested in test_npu_osvos.py.)"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = dict(
    channels=0.05, size=64, video_len=2, log_steps=1, checkpoint_steps=2, workers=0,
    test_height=48, test_width=80, radius=4.0,
)  # fmt: skip
SMALL = ['--device=npu', '--batch_size=2', '--steps=2', '--loss_scale=1024'] + [
    f'--set={k}={v}' for k, v in SETTINGS.items()
]
PROGRAM = """
import json, os, sys
from ColorNet import evaluate, train

videos, davis, folder, flags = json.loads(sys.argv[1])
found = {}


def done(name, status):
    assert status == 0, name
    path = os.environ['NPU_STANDIN_REPORT']
    if os.path.exists(path):
        with open(path) as f:
            found[name] = json.load(f)
        os.remove(path)


flags.append(f'--data_path={videos}')
done('both', train.main([*flags, '--preset=smoke', f'--output_path={folder}/both']))
done('dul', train.main([*flags, '--preset=dul', f'--output_path={folder}/dul']))
done('evaluate', evaluate.main(['--device=npu', f'--data_path={davis}', '--sequences=drawn-x',
                                f'--checkpoint={folder}/both', f'--output_path={folder}/out']))
with open(f'{folder}/found.json', 'w') as f:
    json.dump(found, f)
"""


def test_graphs_train_and_propagate(drawn, tmp_path):
    environment = dict(
        os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), str(ROOT / 'test')]), JOB_ID='10087',
        TF_CPP_MIN_LOG_LEVEL='2', NPU_STANDIN_REPORT=str(tmp_path / 'report.json'),
        NPU_STANDIN_OVERFLOW_STEPS='2',
    )  # fmt: skip
    arguments = json.dumps([drawn['youtube_vos'], drawn['davis'], str(tmp_path), SMALL])
    command = [sys.executable, '-W', 'ignore', '-c', PROGRAM, arguments]
    done = subprocess.run(command, env=environment, cwd=str(ROOT), capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads((tmp_path / 'found.json').read_text())
    for name in ('both', 'dul'):
        assert found[name]['global_step'] == 2 and found[name]['skipped'] >= 1, name
        assert found[name]['loss_scale'] == 1024
        assert found[name]['run_config']['precision_mode'] == 'allow_mix_precision'
        mixlist = {'black-list': {'to-add': ['ReduceSumD'], 'to-remove': []}}
        assert found[name]['mixlist'] == mixlist
    assert found['both']['keep_dtype_ops'] > 200  # losses, batch norm
    assert len(list((tmp_path / 'out' / 'masks' / 'drawn-x').iterdir())) == 10
