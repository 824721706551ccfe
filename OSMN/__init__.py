"""OSMN: video object segmentation via network modulation, Yang et al. 2018 (arXiv 1802.01218).

Original code: linjieyangsc/video_seg; the model zoo's OSMN_ID1103 trains its first stage. Commands,
from the repository root:

    python -m OSMN.train    --data_path=COCO --output_path=run1 --init_from=vgg/model.ckpt
    python -m OSMN.train    --data_path=DAVIS --output_path=run2 --preset=davis --init_from=run1
    python -m OSMN.evaluate --data_path=DAVIS --checkpoint=run2 --output_path=results
    python -m OSMN.online   --data_path=DAVIS --checkpoint=run2 --output_path=online
    python -m OSMN.demo     --input=VIDEO --mask=FIRST.png --checkpoint=run2 --output_path=demo
    python -m OSMN.convert  --source=vgg_16.ckpt --output=vgg/model.ckpt
    python -m OSMN.export   --checkpoint=run2 --output_path=exported

In Python: from OSMN import segment (api.py).
"""

import importlib.util
import os
import sys

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')  # a fault is one message: without TensorFlow's

if importlib.util.find_spec('tensorflow') is None:
    sys.exit(f'{__name__}: {sys.executable} has no TensorFlow: `source env.sh` finds one that has')


def __getattr__(name):  # PEP 562: TensorFlow is imported when it is wanted
    if name == 'segment':
        from .api import segment

        return segment
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
