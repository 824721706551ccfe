"""Several ranks: who they are, the collectives of TensorFlow that average their gradients where
there is no NPU, and the step that all of them go on from.

The same file in all five model folders. On the NPU, HCCL averages (npu.py). Elsewhere each rank
starts a tf.distribute.Server and gradients are averaged by one CollectiveReduce over gRPC, so that
optimizers, hooks and a folder a rank stay as they are on the NPU.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time

from common import files
from common.lazy import tf

POLL = 1.5  # s between two looks at the other ranks
MISSES = 3  # looks in a row that find nobody: the rank is gone
INSTANCE = 1000  # collectives outside of the training graph; those inside count from 1


def rank() -> tuple[int, int]:
    """This process's rank and the number of ranks: RANK_ID and RANK_SIZE, or CM_WORKER_SIZE in the
    form without a rank table (ascend: Huawei's HCCL manual)."""
    count = os.environ.get('CM_WORKER_SIZE') or os.environ.get('RANK_SIZE') or 1
    return int(os.environ.get('RANK_ID') or 0), int(count)


def check_cards() -> None:
    """Checks the environment of a run on several NPUs.

    Raises:
      ValueError: neither a rank table nor the CM_* form, both at once, a rank outside the table, a
      device or an address that is listed twice.
    """
    number, count = rank()
    if count == 1:
        return
    if not 0 <= number < count or not os.environ.get('RANK_ID'):
        raise ValueError(f'RANK_ID={os.environ.get("RANK_ID")}: expected 0..{count - 1}')
    table = os.environ.get('RANK_TABLE_FILE')
    if os.environ.get('CM_CHIEF_IP'):
        _check_chief(table)
    else:
        _check_table(table, count)


def _check_chief(table):
    needed = ('CM_CHIEF_PORT', 'CM_CHIEF_DEVICE', 'CM_WORKER_IP', 'CM_WORKER_SIZE')
    missing = [name for name in needed if not os.environ.get(name)]
    unwanted = [name for name in ('RANK_TABLE_FILE', 'RANK_SIZE') if os.environ.get(name)]
    if missing or unwanted:
        raise ValueError(
            f'CM_CHIEF_IP is set: also needed {missing}, to be unset {unwanted} (CM_* and a rank '
            'table exclude each other)'
        )


def _check_table(path, count):
    if not path or not os.path.isfile(path):
        raise ValueError(
            f'{count} ranks need RANK_TABLE_FILE or CM_CHIEF_IP, tried {path!r}; the README shows '
            'the form of the table'
        )
    content = files.read_json(path)
    try:
        devices = [
            (server['server_id'], device['device_id'], device['device_ip'], int(device['rank_id']))
            for server in content['server_list']
            for device in server['device']
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f'{path}: {error!r}. Expected server_list: [{{server_id, device: [{{device_id, '
            'device_ip, rank_id}]}]; the README shows one'
        ) from None
    numbers = sorted(number for _, _, _, number in devices)
    if numbers != list(range(count)):
        raise ValueError(f'{path} lists the ranks {numbers}, expected 0..{count - 1}')
    for what, values in (
        ('a device', [(server, device) for server, device, _, _ in devices]),
        ('a device_ip', [address for _, _, address, _ in devices]),
    ):
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise ValueError(f'{path} lists {what} twice: {twice[0]}')


def hosts() -> list[str]:
    """host:port of every rank, from WORKER_HOSTS.

    Raises:
      ValueError: not one a rank, or not of this form.
    """
    found = [host for host in os.environ.get('WORKER_HOSTS', '').split(',') if host]
    wrong = [host for host in found if not host.rpartition(':')[2].isdigit() or ':' not in host]
    if len(found) != rank()[1] or len(set(found)) != len(found) or wrong:
        raise ValueError(
            f'{rank()[1]} ranks without an NPU need WORKER_HOSTS=host:port,... one a rank, not '
            f'{",".join(found)!r}; bash test/train_full_8p.sh --device=cpu --ranks=N sets it'
        )
    return found


class _Server:
    """The server of this process, its session configuration, and the event that ends the watch."""

    server = config = None
    left = threading.Event()


def join(config: tf.ConfigProto) -> tf.ConfigProto:
    """Starts this process's server, once, and returns the configuration that its sessions take.

    Estimator and sessions find the server through TF_CONFIG.

    Args:
      config: of a session of one rank; its threads are shared with the other ranks of this machine.
    """
    if _Server.server is None:
        number, _ = rank()
        every = hosts()
        here = every[number].rpartition(':')[0]
        neighbors = sum(host.rpartition(':')[0] == here for host in every)
        threads = max(1, config.intra_op_parallelism_threads // neighbors)
        config.intra_op_parallelism_threads = threads
        config.experimental.collective_group_leader = '/job:worker/replica:0/task:0'
        config.device_filters.append(f'/job:worker/task:{number}')
        config.isolate_session_state = True
        print(f'rank {number} of {len(every)} at {every[number]}', flush=True)
        _Server.server = tf.distribute.Server({'worker': every}, 'worker', number, config=config)
        _Server.config = config
        os.environ['TF_CONFIG'] = json.dumps({'session_master': _Server.server.target})
    return _Server.config


def _others():
    number, _ = rank()
    return {other: host for other, host in enumerate(hosts()) if other != number}


def _wait():
    """Waits until all ranks have started; TimeoutError after HCCL_CONNECT_TIMEOUT seconds."""
    limit = float(os.environ.get('HCCL_CONNECT_TIMEOUT') or 600)
    end = time.monotonic() + limit
    for other, host in _others().items():
        while not _answers(host):
            if time.monotonic() > end:
                raise TimeoutError(
                    f'rank {other} at {host} has not started within {limit:.0f} s '
                    '(HCCL_CONNECT_TIMEOUT)'
                )
            time.sleep(0.2)


def _watch(left):
    """Ends this process when another rank is gone, for which a collective would wait for ever."""
    missed = dict.fromkeys(_others(), 0)
    while not left.wait(POLL):
        for other, host in _others().items():
            missed[other] = 0 if _answers(host) else missed[other] + 1
            if missed[other] >= MISSES and not left.is_set():
                print(
                    f'rank {rank()[0]}: rank {other} at {host} is gone: this rank ends too. The '
                    'same command goes on from the last checkpoint that all ranks have',
                    file=sys.stderr, flush=True,
                )  # fmt: skip
                os._exit(1)  # the main thread waits inside TensorFlow, where no exception reaches


def _answers(host):
    name, _, port = host.rpartition(':')
    try:
        with socket.create_connection((name, int(port)), POLL):
            return True
    except OSError:
        return False


def all_reduce(tensor, instance, final):
    """The sum over the ranks of this rank's tensor, on its CPU; with final='Div' the mean."""
    number, count = rank()
    with tf.device(f'/job:worker/replica:0/task:{number}/device:CPU:0'):
        return tf.raw_ops.CollectiveReduce(
            input=tensor, group_size=count, group_key=1, instance_key=instance,
            merge_op='Add', final_op=final, subdiv_offsets=[0],
        )  # fmt: skip


def _every(value):
    """A whole number of every rank, given by each; returns when all have given theirs."""
    number, count = rank()
    given = [value if other == number else 0 for other in range(count)]
    with tf.Graph().as_default():
        result = all_reduce(tf.constant(given, tf.int32), INSTANCE, 'Id')
        with tf.Session(_Server.server.target, config=_Server.config) as session:
            return [int(each) for each in session.run(result)]


def agree(folder: str, device: str) -> None:
    """Has all ranks go on from the newest step that every one of them has: ranks that were killed
    between two saves hold different ones. To be called before a training; leave() ends it.

    Args:
      folder: of this rank's checkpoints, .../<rank>/ckpt; its file `checkpoint` names that step
        afterwards, or is moved aside where there is none.
      device: 'cpu': the ranks ask one another; 'npu': the folders of this server's other ranks are
        looked at.

    Raises:
      ValueError: this rank has no checkpoint of that step. TimeoutError: a rank has not started.
    """
    if rank()[1] == 1:
        return
    mine = _steps(folder)
    if device == 'npu':
        common = set(mine).intersection(*(_steps(each) for each in _folders(folder)))
        step = max(common, default=-1)
    else:
        _wait()
        _Server.left = threading.Event()
        threading.Thread(target=_watch, args=[_Server.left], daemon=True).start()
        step = min(_every(max(mine, default=-1)))
    if not mine or step == max(mine):
        return
    path = os.path.join(folder, 'checkpoint')
    if step == -1:
        os.replace(path, f'{path}.aside')
        print('another rank has no checkpoint: all ranks start at step 0', flush=True)
        return
    if step not in mine:
        raise ValueError(f'{folder} has no checkpoint of step {step}, the newest of all ranks')
    kept = [name for number, name in mine.items() if number <= step]
    tf.train.update_checkpoint_state(folder, mine[step], kept)
    print(f'all ranks go on from step {step}, the newest that every one of them has', flush=True)


def _folders(folder):
    """The folders of this server's ranks, `folder` being one of them: .../<rank>/ckpt."""
    parent, name = os.path.split(os.path.abspath(folder))
    parent, count = os.path.dirname(parent), rank()[1]
    every = [os.path.join(parent, str(number), name) for number in range(count if count > 1 else 0)]
    return [each for each in every if os.path.isdir(each)]


def _steps(folder):
    """{step: prefix} of a folder's checkpoints that are whole."""
    state = tf.train.get_checkpoint_state(folder) if os.path.isdir(folder) else None
    prefixes = state.all_model_checkpoint_paths if state else []
    return {
        int(prefix.rpartition('-')[2]): prefix
        for prefix in prefixes
        if os.path.isfile(f'{prefix}.index') and prefix.rpartition('-')[2].isdigit()
    }


def leave(device: str) -> None:
    """Waits until all ranks have trained; a rank may end from then on."""
    if rank()[1] > 1 and device != 'npu':
        _every(0)
        _Server.left.set()


def slowest(folder: str) -> dict:
    """speed.json of this rank's run in `folder`, .../<rank>/ckpt, or of that rank of this server
    whose rate is lowest; {} where no rank has one."""
    paths = [os.path.join(each, 'speed.json') for each in [folder, *_folders(folder)]]
    speeds = [files.read_json(path) for path in paths if os.path.isfile(path)]
    return min(speeds, key=lambda speed: speed['fps'], default={})
