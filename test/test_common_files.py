"""common/files.py: files that are never half written, natural order, fingerprints, claims."""

from __future__ import annotations

import json
import os
import threading
import time

import pytest

from common import files


def test_replacing_leaves_the_old_file_or_the_new_one(tmp_path):
    path = str(tmp_path / 'scores.json')
    files.write_text(path, 'old ä')
    with pytest.raises(RuntimeError), files.replacing(path) as temporary:
        assert temporary.endswith('.json') and os.path.dirname(temporary) == str(tmp_path)
        with open(temporary, 'w') as f:
            f.write('half')
        assert (tmp_path / 'scores.json').read_text(encoding='utf-8') == 'old ä'
        raise RuntimeError
    assert (tmp_path / 'scores.json').read_text(encoding='utf-8') == 'old ä'
    with files.replacing(path) as temporary, open(temporary, 'w') as f:
        f.write('new')
    assert (tmp_path / 'scores.json').read_text() == 'new'
    assert os.listdir(str(tmp_path)) == ['scores.json']
    with pytest.raises(FileNotFoundError), files.replacing(path):
        pass  # nothing written: nothing replaced
    assert (tmp_path / 'scores.json').read_text() == 'new'


def test_writers_of_one_file_do_not_meet(tmp_path):
    """Ranks share a folder: as many temporary files as writers, which are no frames of it."""
    path = str(tmp_path / 'a.png')
    names = set()
    with files.replacing(path) as first, files.replacing(path) as second:
        for temporary in (first, second):
            with open(temporary, 'w') as f:
                f.write(temporary)
            names.add(temporary)
        assert len(names) == 2 and files.listed(str(tmp_path), ('.png',)) == []
    assert (tmp_path / 'a.png').read_text() == first  # the last that ended
    threads = [threading.Thread(target=files.write_text, args=(path, str(n))) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / 'a.png').read_text() in map(str, range(20))
    assert os.listdir(str(tmp_path)) == ['a.png']


def test_natural_order():
    names = ['10.png', '9.png', '1.png', 'b2', 'b10', 'b1c3', 'b1c20', '²', '', '01.png', 'a']
    assert files.naturally_sorted(names) == [
        '', '01.png', '1.png', '9.png', '10.png', 'a', 'b1c3', 'b1c20', 'b2', 'b10', '²',
    ]  # fmt: skip


def test_listed(tmp_path):
    for name in ('10.png', '9.PNG', '1.jpg', '._1.png', 'notes.txt'):
        (tmp_path / name).write_text('')
    (tmp_path / '.hidden.jpg').write_text('')
    found = files.listed(str(tmp_path), ('.png', '.jpg'))
    assert found == [str(tmp_path / name) for name in ('1.jpg', '9.PNG', '10.png')]
    assert files.listed(str(tmp_path), ('.bmp',)) == []
    (tmp_path / '1.png').write_text('')
    with pytest.raises(ValueError, match='has 1.jpg and 1.png: .*move one of them away'):
        files.listed(str(tmp_path), ('.png', '.jpg'))
    assert len(files.listed(str(tmp_path), ('.png',))) == 3


def test_stem_and_split_names():
    assert files.stem('/a.b/c.d.png') == 'c.d'
    assert files.split_names(' b, a,,b ,') == ['b', 'a']
    assert files.split_names('') == files.split_names(None) == []


def test_fingerprint_tells_contents_not_places(tmp_path, monkeypatch):
    monkeypatch.setattr(files, 'SAMPLE', 10)
    path = tmp_path / 'clip.mp4'
    path.write_bytes(bytes(range(100)))
    first = files.fingerprint(str(path))
    assert len(first) == 16
    path.rename(tmp_path / 'moved.mp4')
    path = tmp_path / 'moved.mp4'
    assert files.fingerprint(str(path)) == first
    for position in (0, 9, 90, 99):  # first and last bytes
        data = bytearray(range(100))
        data[position] = 200
        path.write_bytes(bytes(data))
        assert files.fingerprint(str(path)) != first
    path.write_bytes(bytes(range(101)))
    assert files.fingerprint(str(path)) != first
    with pytest.raises(FileNotFoundError, match='no such file: .*absent'):
        files.fingerprint(str(tmp_path / 'absent'))


def test_fingerprint_of_a_folder(tmp_path):
    folder = tmp_path / 'frames'
    folder.mkdir()
    for n in range(3):
        (folder / f'{n}.png').write_text(str(n))
    first = files.fingerprint(str(folder))
    (folder / '.DS_Store').write_text('hidden')
    assert files.fingerprint(str(folder)) == first
    (folder / '1.png').write_text('2')
    assert files.fingerprint(str(folder)) != first
    (folder / '1.png').write_text('1')
    (folder / '2.png').rename(folder / '3.png')
    assert files.fingerprint(str(folder)) != first


def test_a_folder_is_claimed_for_what_its_results_are_made_from(tmp_path):
    folder = str(tmp_path / 'new' / 'demo')
    facts = {'input': 'abc', 'steps': 5, 'scales': (1, 2)}
    files.claim(folder, facts)
    files.claim(folder, facts)  # the same again
    assert json.loads((tmp_path / 'new' / 'demo' / 'made_from.json').read_text())['steps'] == 5
    for other in ({**facts, 'steps': 6}, {'input': 'abc', 'steps': 5}, {**facts, 'seed': 1}):
        with pytest.raises(
            ValueError, match='demo holds results of something else .* there, .* now'
        ):
            files.claim(folder, other)
    with pytest.raises(ValueError, match=r'steps: 5 there, 6 now\). Choose another --output_path'):
        files.claim(folder, {**facts, 'steps': 6})


def test_a_checkpoint_of_unknown_origin_is_not_taken(tmp_path):
    (tmp_path / 'other').write_text('')
    files.claim(str(tmp_path), {'input': 'abc'})  # a folder of other things is
    os.remove(str(tmp_path / 'made_from.json'))
    (tmp_path / 'checkpoint').write_text('')
    with pytest.raises(ValueError, match="input: None there, 'abc' now"):
        files.claim(str(tmp_path), {'input': 'abc'})


def test_read_json(tmp_path):
    path = tmp_path / 'a.json'
    for content in (b'{', b'\xff\xfe', b'[' * 100_000):
        path.write_bytes(content)
        with pytest.raises(ValueError, match='a.json is no JSON: '):
            files.read_json(str(path))
    path.write_text('{"ä": [1]}', encoding='utf-8')
    assert files.read_json(str(path)) == {'ä': [1]}
    with pytest.raises(FileNotFoundError, match='no such file: .*b.json'):
        files.read_json(str(tmp_path / 'b.json'))


def test_a_file_that_cannot_be_read_on_is_named(tmp_path, monkeypatch, capfd):
    """Once, by every process for itself: readers are forked from one that reads too."""
    monkeypatch.setattr(files, 'SLOW', 0.1)
    files._watch_reads.cache_clear()
    stuck = str(tmp_path / '00012.jpg')
    with files.reading(str(tmp_path / 'quick.jpg')):
        pass
    with files.reading(stuck):
        child = os.fork()
        if child == 0:
            end = time.monotonic() + 30
            with files.reading(stuck + ' of a reader'):
                while os.fstat(2).st_size < 2 * len(stuck) + 120 and time.monotonic() < end:
                    time.sleep(0.02)  # until both lines are written
            os._exit(0)
        os.waitpid(child, 0)
    told = capfd.readouterr().err.splitlines()
    names = sorted(line.split(' has been read for ')[0] for line in told)
    assert names == [stuck, stuck + ' of a reader']
    files._watch_reads.cache_clear()
