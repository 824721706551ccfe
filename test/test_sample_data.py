"""test/sample_data.py: the same seed draws the same files, in seconds, in the official forms."""

from __future__ import annotations

import hashlib
from pathlib import Path

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
