r"""SiamMask: a siamese network that tracks and segments an object given one box (Wang, Zhang,
Bertinetto, Hu, Torr, CVPR 2019).

Original code: foolwood/SiamMask (PyTorch). Commands, from the folder above this one:

    python -m SiamMask.prepare   --data_path=DATA --output_path=crops
    python -m SiamMask.train     --data_path=crops --output_path=base --init_from=resnet/model.ckpt
    python -m SiamMask.train     --data_path=crops --output_path=sharp --init_from=base \
                                 --preset=sharp
    python -m SiamMask.evaluate  --data_path=VOT2018 --checkpoint=sharp --output_path=out
    python -m SiamMask.demo      --input=clip.mp4 --box=300,100,60,80 --checkpoint=sharp
    python -m SiamMask.convert   --source=SiamMask_VOT.pth --output=published/model.ckpt
    python -m SiamMask.export    --checkpoint=sharp --output_path=exported

In Python: from SiamMask import Tracker (api.py).
"""

import importlib.util
import os
import sys

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')  # a fault is one message: without TensorFlow's

if importlib.util.find_spec('tensorflow') is None:
    sys.exit(f'{__name__}: {sys.executable} has no TensorFlow: `source env.sh` finds one that has')


def __getattr__(name):  # PEP 562: TensorFlow is imported when it is wanted
    if name == 'Tracker':
        from .api import Tracker

        return Tracker
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
