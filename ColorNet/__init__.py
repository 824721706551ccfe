r"""ColorNet: dense correspondence learned from unlabelled video by reconstructing colors, and video
object segmentation by propagating a first mask along it.

Original code: icewaterq/colorNet_DUL (PyTorch), on visinf/dense-ulearn-vos (Araslanov,
Schaub-Meyer, Roth, NeurIPS 2021). Commands, from the folder above this one:

    python -m ColorNet.train     --data_path=DATA --output_path=run [--coco] \
                                 [--train_config=ColorNet/config/train_config_default_M.json]
    python -m ColorNet.evaluate  --data_path=DAVIS --checkpoint=run --output_path=results
    python -m ColorNet.demo      --input=clip.mp4 --mask=first.png --checkpoint=run
    python -m ColorNet.convert   --source=color_dul_300_M.pkl --output=published/model.ckpt
    python -m ColorNet.export    --checkpoint=run --output_path=exported

In Python: from ColorNet import segment (api.py).
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
