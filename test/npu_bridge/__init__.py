"""A strict stand-in for Huawei's npu_bridge (TF Adapter), for tests on CPU only.

Written from the public interface: Ascend/tensorflow branches r1.1.1 - r1.15 and the CANN manuals.
Where the real one ignores a mistake or fails hours later on the device, this one raises at once.

    PYTHONPATH=test NPU_STANDIN_VERSION=r1.15 NPU_STANDIN_REPORT=report.json JOB_ID=10087 \\
        python -m OSVOS.train --device=npu ...

Environment: NPU_STANDIN_VERSION: adapter branch whose signatures hold (r1.15);
NPU_STANDIN_REPORT: JSON file written when a training ends (report.py);
NPU_STANDIN_OVERFLOW_STEPS: '3,4', apply attempts, counted from 1, that overflow.
"""

from __future__ import annotations
