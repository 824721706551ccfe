"""MANet: interactive video object segmentation with memory aggregation, scribbles in and masks
out, corrected round by round (Miao, Wei, Yang, CVPR 2020).

Original code: lightas/CVPR2020_MANet (PyTorch). Commands, from the folder above this one:

    python -m MANet.train     --data_path=DAVIS --output_path=run --init_from=coco/model.ckpt
    python -m MANet.evaluate  --data_path=DAVIS --checkpoint=run --output_path=results
    python -m MANet.demo      --input=clip.mp4 --scribbles=round1.json --checkpoint=run
    python -m MANet.demo      --input=clip.mp4 --serve
    python -m MANet.convert   --source=MANet_davis2017.pdparams --output=published/model.ckpt
    python -m MANet.export    --checkpoint=run --output_path=exported

In Python: from MANet import Session (api.py).
"""

import importlib.util
import os
import sys

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')  # a fault is one message: without TensorFlow's

if importlib.util.find_spec('tensorflow') is None:
    sys.exit(f'{__name__}: {sys.executable} has no TensorFlow: `source env.sh` finds one that has')


def __getattr__(name):  # PEP 562: TensorFlow is imported when it is wanted
    if name == 'Session':
        from .api import Session

        return Session
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
