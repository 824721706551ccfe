"""The hook that prints and records how a training goes, and ends one that goes nowhere.

The same file in all five model folders.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import os
import time

from common import console, files, plots
from common.lazy import tf

from . import ranks

STALLED = 200  # attempts without an update before a run gives up: the loss scale has collapsed


class ProgressHook(tf.train.SessionRunHook):
    """Prints step, loss, speed and remaining time; measures throughput without the first interval.

    The first interval holds graph compilation, minutes on the NPU. `fps` is None until a second one
    has ended. Attempts that do not advance the step (loss-scale overflows), or whose loss is not
    finite, end the run after STALLED of them in a row.
    """

    def __init__(self, cfg, folder: str, loss_path: str | None = None):
        """`folder` of the run, whose speed.json keeps throughput and last loss for the result block
        of a run that is killed before it; `loss_path`: a file that gets one loss a line. The
        graph's loss is named `train_loss`."""
        self.folder = folder
        self.steps, self.images = cfg.train_steps, cfg.batch_size * ranks.rank()[1]
        left = self.steps - cfg.get('start_step', 0)
        self.every = max(1, min(cfg.log_steps, left // 3))
        self.loop = cfg.iterations_per_loop
        # fewer than the updates after which the last good checkpoint would be deleted, at least 3
        kept = cfg.get('checkpoint_steps', STALLED) * (cfg.get('keep_checkpoints', 5) - 1)
        self.patience = max(3, min(STALLED, kept // self.loop - 1))  # a spike alone ends no run
        self.loss_path, self.fps, self.last_loss = loss_path, None, None

    def begin(self):
        """Finds the step, the loss and, on the NPU, the loss scale."""
        named = tf.get_default_graph().get_tensor_by_name
        self.fetches = {'step': tf.train.get_global_step(), 'loss': named('train_loss:0')}
        with contextlib.suppress(KeyError):
            self.fetches['scale'] = named('progress_loss_scale:0')
        recorded = tf.get_collection('record')
        self.fetches['record'] = {t.op.name.split('record_')[-1]: t for t in recorded}
        self.time = self.step = self.start = self.seen = None
        self.attempts = self.not_finite = 0

    def before_run(self, run_context):
        """Asks for step and loss with every call."""
        return tf.train.SessionRunArgs(self.fetches)

    def after_run(self, run_context, run_values):
        """Prints a line every interval."""
        values, now = run_values.results, time.monotonic()
        step = int(values['step'])  # of before or after this update: reads are not ordered
        self.last_loss = float(values['loss'])
        self.attempts = 0 if self.seen is None or step > self.seen else self.attempts + 1
        self.seen = step
        if self.attempts > STALLED:
            raise RuntimeError(
                f'{STALLED} steps in a row overflowed at step {step}, loss scale '
                f'{values.get("scale")}: lower --learning_rate or --loss_scale'
            )
        self.not_finite = 0 if math.isfinite(self.last_loss) else self.not_finite + 1
        if self.not_finite >= self.patience:
            good = step - self.patience * self.loop
            raise RuntimeError(
                f'the loss was not finite for {self.patience} steps in a row, up to step {step}: '
                f'lower --learning_rate. The checkpoints are kept; those up to step {good} are of '
                'before, if any is left: --init_from takes one, with another --output_path'
            )
        target = self.steps if self.step is None else min(self.step + self.every, self.steps)
        if self.step is None or step + self.loop >= target:
            step = int(run_context.session.run(self.fetches['step']))
            if self.step is None:
                self.step, self.time = step, now
            elif step >= target > self.step:
                self._report(step, now, values.get('scale'))
                self._record(step, values)

    def _report(self, step, now, scale):
        seconds = (now - self.time) / (step - self.step)
        if self.start is None:
            self.start = (step, now)
        else:
            self.fps = self.images * (step - self.start[0]) / (now - self.start[1])
        eta = datetime.timedelta(seconds=round(seconds * (self.steps - step)))
        more = f' loss_scale {float(scale):g}' if scale is not None else ''
        console.show(
            f'step {step}/{self.steps} loss {self.last_loss:.6g} {seconds:.4f} s/step '
            f'{self.images / seconds:.2f} img/s eta {eta}{more}',
            what='training',
            done=step,
            of=self.steps,
            loss=self.last_loss,
            images_per_second=self.images / seconds,
            seconds_left=eta.total_seconds(),
        )
        if self.loss_path:
            with open(self.loss_path, 'a') as f:
                f.write(f'{self.last_loss:.6g}\n')
        if self.fps:
            speed = {'fps': self.fps, 'loss': self.last_loss, 'images': self.images}
            files.write_text(os.path.join(self.folder, 'speed.json'), json.dumps(speed))
        self.step, self.time, self.speed = step, now, self.images / seconds

    def _record(self, step, values):
        """Adds a line to progress.jsonl, of which training.png is drawn, and the same scalars to
        TensorBoard's events."""
        row = {'loss': self.last_loss, 'images_per_second': self.speed, **values['record']}
        if 'scale' in values:
            row['loss_scale'] = values['scale']
        row = {key: float(value) for key, value in row.items() if math.isfinite(value)}
        with open(os.path.join(self.folder, plots.PROGRESS), 'a') as f:
            f.write(json.dumps({'step': step, **row}) + '\n')
        found = [tf.Summary.Value(tag=f'progress/{k}', simple_value=v) for k, v in row.items()]
        writer = tf.summary.FileWriterCache.get(self.folder)
        writer.add_summary(tf.Summary(value=found), step)
        writer.flush()
