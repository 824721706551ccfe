"""Several ranks (ranks.py, the same file in all folders): who they are, what they average, what is
left of a rank that dies, and the step from which all go on.

Everything runs in processes of its own: a process has one server.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from OSVOS import ranks
from OSVOS.config import get_config
from OSVOS.model import network

ROOT = Path(__file__).resolve().parent.parent
UNSET = ('RANK_ID', 'RANK_SIZE', 'RANK_TABLE_FILE', 'WORKER_HOSTS', 'CM_CHIEF_IP', 'CM_WORKER_SIZE')
TINY = [
    '--device=cpu', '--preset=smoke', '--set=height=36', '--set=width=64', '--set=channels=0.07',
    '--set=optimizer=sgd', '--set=learning_rate=0.01', '--set=weight_decay=0.01',
    '--set=log_steps=1', '--set=checkpoint_steps=2', '--set=keep_checkpoints=5',
    '--set=workers=1', '--seed=4',
]  # fmt: skip


@pytest.fixture(autouse=True)
def no_ranks(monkeypatch):
    """Takes away what the shell that runs the tests may say of ranks."""
    for name in UNSET:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def environ(monkeypatch):
    """environ(NAME=value, ...) sets variables of this process's environment."""

    def put(**values):
        for name, value in values.items():
            monkeypatch.setenv(name, str(value))

    return put


def table(folder, *devices, **changes):
    """Path of a rank table of (server, device, address, rank)."""
    servers = {}
    for server, device, address, number in devices:
        row = {'device_id': str(device), 'device_ip': address, 'rank_id': str(number)}
        servers.setdefault(server, []).append(row)
    rows = [{'server_id': server, 'device': found} for server, found in servers.items()]
    path = folder / 'table.json'
    path.write_text(json.dumps(dict({'server_list': rows, 'status': 'completed'}, **changes)))
    return str(path)


def test_rank_of_both_forms(environ):
    assert ranks.rank() == (0, 1)
    environ(RANK_ID=3, RANK_SIZE=8)
    assert ranks.rank() == (3, 8)
    environ(CM_WORKER_SIZE=16, RANK_SIZE='')
    assert ranks.rank() == (3, 16)


FIRST = ('10.0.0.1', 0, '192.168.100.100', 0)


@pytest.mark.parametrize(
    'second, message',
    [
        (('10.0.0.1', 1, '192.168.100.101', 2), r'lists the ranks \[0, 2\], expected 0..1'),
        (('10.0.0.1', 0, '192.168.100.101', 1), r"a device twice: \('10.0.0.1', '0'\)"),
        (('10.0.0.2', 0, '192.168.100.100', 1), 'a device_ip twice: 192.168.100.100'),
    ],
)
def test_rank_tables_that_cannot_work(second, message, environ, tmp_path):
    environ(RANK_ID=1, RANK_SIZE=2, RANK_TABLE_FILE=table(tmp_path, FIRST, second))
    with pytest.raises(ValueError, match=message):
        ranks.check_cards()


def test_what_else_cannot_work(environ, tmp_path):
    ranks.check_cards()  # one rank needs nothing
    environ(RANK_SIZE=2)
    with pytest.raises(ValueError, match='RANK_ID=None: expected 0..1'):
        ranks.check_cards()
    environ(RANK_ID=2)
    with pytest.raises(ValueError, match='RANK_ID=2: expected 0..1'):
        ranks.check_cards()
    environ(RANK_ID=1)
    with pytest.raises(ValueError, match='need RANK_TABLE_FILE or CM_CHIEF_IP, tried None'):
        ranks.check_cards()
    environ(RANK_TABLE_FILE=table(tmp_path, server_list=[{'server_id': '1', 'device': [{}]}]))
    with pytest.raises(ValueError, match="table.json: KeyError.'device_id'"):
        ranks.check_cards()
    (tmp_path / 'table.json').write_text('{"server_list": [],}')
    with pytest.raises(ValueError, match='table.json'):
        ranks.check_cards()
    environ(RANK_TABLE_FILE=table(tmp_path, FIRST, ('10.0.0.1', 1, '192.168.100.101', 1)))
    ranks.check_cards()
    environ(CM_CHIEF_IP='10.0.0.1', CM_CHIEF_PORT=29688, CM_CHIEF_DEVICE=0, CM_WORKER_SIZE=2)
    with pytest.raises(ValueError, match=r"\['CM_WORKER_IP'\], to be unset \['RANK_TABLE_FILE'"):
        ranks.check_cards()


def test_hosts(environ):
    environ(RANK_SIZE=2)
    for given in ('', 'a:1', 'a:1,a:1', 'a:1,b', 'a:1,b:x', 'a:1,b:2,c:3'):
        environ(WORKER_HOSTS=given)
        with pytest.raises(ValueError, match='need WORKER_HOSTS=host:port'):
            ranks.hosts()
    environ(WORKER_HOSTS='a:1,b:2')
    assert ranks.hosts() == ['a:1', 'b:2']


def saved(folder, *steps):
    """Folder .../ckpt with checkpoints of these steps, as far as ranks.py looks at them."""
    folder.mkdir(parents=True)
    for step in steps:
        (folder / f'model.ckpt-{step}.index').write_text('')
    if steps:
        paths = [f'model.ckpt-{step}' for step in steps]
        tf.train.update_checkpoint_state(str(folder), paths[-1], paths)
    return str(folder)


def test_cards_of_a_server_go_on_from_the_newest_common_step(environ, tmp_path, capsys):
    first = saved(tmp_path / '0' / 'ckpt', 10, 20, 30)
    saved(tmp_path / '1' / 'ckpt', 10, 20)
    saved(tmp_path / '7' / 'ckpt', 5)  # of an earlier run on more cards
    environ(RANK_SIZE=2, RANK_ID=0)
    ranks.agree(first, 'npu')
    assert tf.train.latest_checkpoint(first).endswith('model.ckpt-20')
    assert 'all ranks go on from step 20' in capsys.readouterr().out
    assert (tmp_path / '0' / 'ckpt' / 'model.ckpt-30.index').is_file()  # nobody's files are deleted
    ranks.agree(first, 'npu')
    assert capsys.readouterr().out == ''


def test_a_card_without_a_checkpoint_has_all_start_again(environ, tmp_path, capsys):
    first = saved(tmp_path / '0' / 'ckpt', 10)
    second = saved(tmp_path / '1' / 'ckpt')
    environ(RANK_SIZE=2, RANK_ID=0)
    ranks.agree(first, 'npu')
    assert tf.train.latest_checkpoint(first) is None
    assert 'all ranks start at step 0' in capsys.readouterr().out
    assert (tmp_path / '0' / 'ckpt' / 'checkpoint.aside').is_file()
    environ(RANK_ID=1)
    ranks.agree(second, 'npu')
    assert tf.train.latest_checkpoint(second) is None


def test_the_rate_is_that_of_the_slowest_rank(environ, tmp_path):
    for number, fps in ((0, 5.0), (1, 3.0), (2, 1.0)):
        folder = tmp_path / str(number) / 'ckpt'
        folder.mkdir(parents=True)
        (folder / 'speed.json').write_text(json.dumps({'fps': fps}))
    first = str(tmp_path / '0' / 'ckpt')
    assert ranks.slowest(first)['fps'] == 5.0
    environ(RANK_SIZE=2)
    assert ranks.slowest(first)['fps'] == 3.0
    assert ranks.slowest(str(tmp_path / 'none' / '0' / 'ckpt')) == {}


def environment(**more):
    """Of a process: this one's without ranks, one thread."""
    found = {name: value for name, value in os.environ.items() if name not in UNSET}
    found.update(PYTHONPATH=str(ROOT), PYTHON=sys.executable, **more)
    return found


def wrapper(collection, *flags, namespace=None):
    """Starts train_full_8p.sh of OSVOS; its output is a pipe of text."""
    inside = ['ip', 'netns', 'exec', namespace] if namespace else []
    script = str(collection / 'OSVOS' / 'test' / 'train_full_8p.sh')
    return subprocess.Popen(
        [*inside, 'bash', script, '--batch_size=1', *TINY, *flags],
        env=environment(), universal_newlines=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


@pytest.fixture
def collection(tmp_path):
    """The collection in a folder of its own, so that runs of it leave nothing here."""
    target = tmp_path / 'collection'
    (target / 'OSVOS').mkdir(parents=True)
    for name in ('common', 'env.sh', 'requirements.txt'):
        (target / name).symlink_to(ROOT / name)
    for path in (ROOT / 'OSVOS').glob('*.*'):
        (target / 'OSVOS' / path.name).symlink_to(path)
    (target / 'OSVOS' / 'test').mkdir()
    for path in (ROOT / 'OSVOS' / 'test').glob('*.sh'):
        (target / 'OSVOS' / 'test' / path.name).write_text(path.read_text())
    return target


@pytest.fixture
def start(tmp_path):
    """--init_from of random weights: those that a graph draws follow from the order of its nodes,
    which a loop over passes changes."""
    cfg = get_config('smoke')
    cfg.update(channels=0.07)
    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(1)
        network({'image': tf.zeros([1, 36, 64, 3])}, cfg, training=False)
        tf.train.create_global_step()
        session.run(tf.global_variables_initializer())
        (tmp_path / 'start').mkdir()
        path = tf.train.Saver().save(session, str(tmp_path / 'start' / 'model.ckpt'))
    return f'--init_from={path}'


def weights_of(folder):
    """{variable: array} of the newest checkpoint."""
    reader = tf.train.load_checkpoint(str(folder))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def kill_rank(process, collection, number):
    """Kills a rank's program when the run has its first checkpoint."""
    log = collection / 'OSVOS' / 'test' / 'output' / number / f'train_{number}.log'
    end = time.monotonic() + 600
    while not (log.is_file() and re.search('^step 3/', log.read_text(), re.M)):
        assert time.monotonic() < end and process.poll() is None, process.stdout.read()
        time.sleep(0.05)
    for path in Path('/proc').glob('[0-9]*/environ'):
        try:
            names = path.read_bytes().split(b'\0')
            command = (path.parent / 'cmdline').read_bytes()
        except OSError:  # ended meanwhile, or somebody else's
            continue
        mine = str(collection).encode() in command and b'OSVOS.train' in command
        if mine and f'RANK_ID={number}'.encode() in names:
            os.kill(int(path.parent.name), signal.SIGKILL)


def test_two_ranks_train_as_one_through_a_kill(collection, drawn, start, tmp_path):
    """Two ranks of one image give the weights of one rank that takes two, one by one, to the bit,
    also where a rank was killed on the way and had saved less than the other. (OSVOS balances its
    classes over what one pass holds, so a pass of two images is another loss.)"""
    data = f'--data_path={drawn["davis"]}'
    process = wrapper(collection, data, start, '--ranks=2', '--steps=2000')
    kill_rank(process, collection, '1')
    printed = process.communicate(timeout=600)[0]
    assert process.returncode == 1 and 'rank 1 failed, the other ranks are ended' in printed
    output = collection / 'OSVOS' / 'test' / 'output'
    steps = [tf.train.load_variable(str(output / n / 'ckpt'), 'global_step') for n in '01']
    last = max(steps) + 4
    behind = output / '1' / 'ckpt'  # as if it had been killed just before its last save
    state = tf.train.get_checkpoint_state(str(behind))
    tf.train.update_checkpoint_state(
        str(behind), state.all_model_checkpoint_paths[-2], state.all_model_checkpoint_paths[:-1]
    )
    process = wrapper(collection, data, start, '--ranks=2', f'--steps={last}')
    printed = process.communicate(timeout=600)[0]
    assert process.returncode == 0, printed
    assert printed.count('resuming from step') == 2
    assert len(set(re.findall(r'resuming from step (\d+)', printed))) == 1
    assert printed.count('Final Performance') == 1  # rank 0's
    result = (output / '0' / 'OSVOS_bs1_2p_acc.log').read_text()
    assert 'RankSize = 2' in result
    assert all((output / n / 'finished').is_file() for n in '01')

    alone = subprocess.run(
        [sys.executable, '-m', 'OSVOS.train', data, start, *TINY, '--batch_size=2',
         '--set=accumulate=2', f'--steps={last}', f'--output_path={tmp_path}/alone'],
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert alone.returncode == 0, alone.stdout.decode()
    expected = weights_of(tmp_path / 'alone')
    for number in '01':
        found = weights_of(output / number / 'ckpt')
        assert sorted(found) == sorted(expected)
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value, err_msg=f'rank {number}: {name}')


def run_ip(*words):
    """Whether `ip` does what is asked."""
    try:
        return subprocess.run(['ip', *words], stderr=subprocess.DEVNULL).returncode == 0
    except OSError:
        return False


@pytest.fixture
def two_hosts():
    """(name, address) of two network namespaces that are joined by a cable."""
    names = [f'ranks{os.getpid()}{letter}' for letter in 'ab']
    addresses = ['10.231.7.1', '10.231.7.2']
    try:
        made = all(run_ip('netns', 'add', name) for name in names) and run_ip(
            'link', 'add', 'cable', 'netns', names[0],
            'type', 'veth', 'peer', 'name', 'cable', 'netns', names[1],
        )  # fmt: skip
        for name, address in zip(names, addresses):
            made = made and run_ip('-n', name, 'addr', 'add', f'{address}/24', 'dev', 'cable')
            made = made and run_ip('-n', name, 'link', 'set', 'cable', 'up')
            made = made and run_ip('-n', name, 'link', 'set', 'lo', 'up')
        if not made:
            pytest.skip('no network namespaces here: they need root and iproute2')
        yield list(zip(names, addresses))
    finally:
        for name in names:
            run_ip('netns', 'del', name)


@pytest.mark.skipif(
    sys.version_info[:2] != (3, 7), reason='once; two ranks train and are killed on both stacks'
)
def test_two_hosts_train_together_and_a_lost_one_ends_the_other(collection, drawn, two_hosts):
    hosts = ','.join(f'{address}:29711' for _, address in two_hosts)
    flags = [f'--data_path={drawn["davis"]}', f'--hosts={hosts}', '--steps=100000']
    processes = [wrapper(collection, *flags, namespace=name) for name, _ in two_hosts]
    kill_rank(processes[1], collection, '1')
    killed = time.monotonic()
    printed = processes[0].communicate(timeout=600)[0]
    assert processes[0].returncode == 1
    assert 'rank 0: rank 1 at 10.231.7.2:29711 is gone: this rank ends too' in printed
    print(f'the other host ended {time.monotonic() - killed:.1f} s later')
    assert 'rank 1 failed' in processes[1].communicate(timeout=600)[0]


@pytest.mark.parametrize(
    'flags, message',
    [
        (['--hosts=192.0.2.7:9000'], "none of these addresses is this machine's"),
        (['--hosts=127.0.0.1'], "'127.0.0.1' is not host:port"),
        (['--hosts=no.such.host.example:1'], 'there is no host no.such.host.example'),
        (['--ranks=two'], '--ranks=two: expected a whole number'),
        (['--ranks=2', '--set=accumulate=2'], 'accumulate=2: without an NPU'),
    ],
)
def test_wrong_flags_of_several_ranks(flags, message, collection, drawn):
    process = wrapper(collection, f'--data_path={drawn["davis"]}', '--steps=2', *flags)
    printed = process.communicate(timeout=600)[0]
    assert process.returncode == 1 and message in printed and 'Traceback' not in printed
