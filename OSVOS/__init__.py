"""OSVOS: one-shot video object segmentation, Caelles et al., CVPR 2017 (arXiv 1611.05198).

Original code: OSVOS-TensorFlow (scaelles), OSVOS-PyTorch (kmaninis), and the MindSpore port whose
hyper-parameters the preset `full` takes. Commands, from the repository root:

    python -m OSVOS.train    --data_path=DAVIS --output_path=run       # the parent network
    python -m OSVOS.online   --data_path=DAVIS --checkpoint=run --output_path=online
    python -m OSVOS.evaluate --data_path=DAVIS --online_path=online --output_path=results
    python -m OSVOS.demo     --input=VIDEO --mask=FIRST.png --checkpoint=run --output_path=demo
    python -m OSVOS.convert  --source=vgg_16.ckpt --output=vgg/model.ckpt
    python -m OSVOS.export   --checkpoint=run --output_path=exported

In Python: from OSVOS import segment (api.py).
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
