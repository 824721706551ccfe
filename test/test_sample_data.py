"""test/sample_data.py: the same seed draws the same files, in seconds, in the official forms."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import sample_data

from common import davis, masks


def digest(folder):
    hashes = [
        hashlib.sha1(p.read_bytes()).hexdigest()
        for p in sorted(Path(folder).rglob('*'))
        if p.is_file()
    ]
    return len(hashes), hashlib.sha1(''.join(hashes).encode()).hexdigest()


def test_seeds(tmp_path, drawn):
    again = sample_data.draw(str(tmp_path / 'a'), ('davis',))['davis']
    other = sample_data.draw(str(tmp_path / 'b'), ('davis',), seed=1)['davis']
    assert digest(again) == digest(drawn['davis'])
    assert digest(other) != digest(again)


def test_what_is_there_is_kept(tmp_path):
    path = Path(sample_data.draw(str(tmp_path), ('coco',))['coco'])
    before = (path / 'annotations').stat().st_mtime_ns
    sample_data.draw(str(tmp_path), ('coco',))
    assert (path / 'annotations').stat().st_mtime_ns == before
    with pytest.raises(FileExistsError, match='not this drawing'):
        sample_data.draw(str(tmp_path), ('coco',), seed=5)
    empty = tmp_path / 'other' / 'coco'
    empty.mkdir(parents=True)
    assert digest(sample_data.draw(str(empty.parent), ('coco',))['coco']) == digest(path)
    with pytest.raises(ValueError, match="no set .'cocoa'"):
        sample_data.draw(str(tmp_path), ('cocoa',))


def test_program(tmp_path, capsys):
    assert sample_data.main([f'--output={tmp_path}', '--sets=coco']) == 0
    assert str(tmp_path) in capsys.readouterr().out
    assert sample_data.main([f'--output={tmp_path}', '--sets=cocoa']) == 1


def test_a_drawing_that_fails_leaves_nothing(tmp_path, capsys, monkeypatch):
    """A full disk, an error of OpenCV: one message, and the next call draws anew."""

    def fail(error):
        def draw_part(root, draw):
            (root / 'half').write_text('half')
            raise error

        return draw_part

    for error in (OSError('no space left'), cv2.error('of OpenCV'), KeyboardInterrupt()):
        monkeypatch.setitem(sample_data.SETS, 'coco', ('coco', fail(error)))
        if isinstance(error, KeyboardInterrupt):
            with pytest.raises(KeyboardInterrupt):
                sample_data.main([f'--output={tmp_path}', '--sets=coco'])
        else:
            assert sample_data.main([f'--output={tmp_path}', '--sets=coco']) == 1
            assert capsys.readouterr().err == f'sample_data: error: {error}\n'
        assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert sample_data.main([f'--output={tmp_path}', '--sets=coco']) == 0
    assert [path.name for path in tmp_path.iterdir()] == ['coco']


def test_another_process_that_was_faster(tmp_path, monkeypatch):
    """Its drawing stays; something else in the place is an error."""

    def overtaken(root, draw):
        other = tmp_path / 'coco'
        other.mkdir()
        (other / 'theirs').write_text('')
        if finished:
            (other / sample_data.FINISHED).write_text('')

    monkeypatch.setitem(sample_data.SETS, 'coco', ('coco', overtaken))
    finished = True
    sample_data.draw(str(tmp_path), ('coco',))
    assert (tmp_path / 'coco' / 'theirs').is_file()
    assert [path.name for path in tmp_path.iterdir()] == ['coco']
    shutil.rmtree(str(tmp_path / 'coco'))
    finished = False
    with pytest.raises(FileExistsError, match='coco could not be put in place'):
        sample_data.draw(str(tmp_path), ('coco',))


def test_objects_move_deform_and_leave(drawn):
    paths = davis.masks(drawn['davis'], 'drawn-f')
    first, last = (masks.read_mask(p) for p in (paths[0], paths[-1]))
    assert first.any() and not last.any()
    paths = davis.masks(drawn['davis'], 'drawn-c')
    first, later = (masks.read_mask(p) > 0 for p in (paths[0], paths[5]))
    assert first.any() and later.any() and not np.array_equal(first, later)
    official = (Path(drawn['davis']) / 'ImageSets' / '480p' / 'val.txt').read_text().split('\n')[0]
    assert official == '/JPEGImages/480p/drawn-x/00000.jpg /Annotations/480p/drawn-x/00000.png '


def test_a_few_megabytes(drawn):
    size = sum(
        p.stat().st_size for path in drawn.values() for p in Path(path).rglob('*') if p.is_file()
    )
    assert size < 8e6
