"""The house rules that a machine can check: names, twins, budgets, imports, headings."""

from __future__ import annotations

import ast
import re
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODELS = [
    name for name in ('OSMN', 'OSVOS', 'SiamMask', 'ColorNet', 'MANet') if (ROOT / name).is_dir()
]
FILES = {
    'README.md',
    '__init__.py',
    'config.py',
    'data.py',
    'backbone.py',
    'model.py',
    'losses.py',
    'train.py',
    'evaluate.py',
    'demo.py',
    'convert.py',
    'export.py',
    'npu.py',
    'cli.py',
    'weights.py',
    'modelzoo_level.txt',
    'example.jpg',
    'test',
}
WRAPPERS = ('train_full_1p.sh', 'train_performance_1p.sh', 'train_full_8p.sh')
TWINS = [
    'npu.py',
    'cli.py',
    'weights.py',
    *(f'test/{name}' for name in WRAPPERS),
]  # equal to the byte in every folder
HEADINGS = [
    'What it is',
    'Train',
    'Fine-tune and evaluate',
    'Your own video',
    'Published weights',
    'Export',
    'On Ascend',
    'Differences from the original',
    'Files',
]
COMMON = {'__init__', 'davis', 'youtube_vos', 'coco', 'videos', 'masks', 'processes'}
COMMON |= {'metrics', 'bitplanes', 'stability'}
TOP = {
    'README.md',
    'requirements.txt',
    'env.sh',
    'LICENSE',
    'pyproject.toml',
    'common',
    'test',
    '.ci',
    '.gitignore',
    *MODELS,
}
SOURCES = sorted(
    p
    for folder in (*MODELS, 'common', 'test')
    for p in (ROOT / folder).rglob('*.py')
    if 'output' not in p.parts
)
PROGRAM_FILES = [p for p in SOURCES if p.relative_to(ROOT).parts[0] != 'test']


def functions(path):
    tree = ast.parse(path.read_text())
    return [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]


def lines(node):
    return node.end_lineno - node.lineno + 1 if hasattr(node, 'end_lineno') else len_by_last(node)


def len_by_last(node):  # Python 3.7 has no end_lineno
    return max(getattr(n, 'lineno', node.lineno) for n in ast.walk(node)) - node.lineno + 1


@pytest.mark.parametrize('model', MODELS)
def test_folders_have_the_same_files(model):
    found = {p.name for p in (ROOT / model).iterdir()} - {'__pycache__'}
    extra = found - FILES - {'config'}  # config/: settings in the original's own form
    assert found >= FILES and len(extra) <= 3, found ^ FILES
    assert {p.name for p in (ROOT / model / 'test').iterdir()} - {'output'} == set(WRAPPERS)


def test_top_level_and_common():
    found = {p.name for p in ROOT.iterdir() if not p.name.startswith('.') or p.name in TOP}
    assert found - {'__pycache__', 'kernel_meta'} <= TOP, found - TOP
    assert {p.stem for p in (ROOT / 'common').glob('*.py')} == COMMON
    assert set(WRAPPERS) <= {p.name for p in (ROOT / 'test').iterdir()}
    assert not (ROOT / 'test' / '__init__.py').exists()


@pytest.mark.parametrize('name', TWINS)
def test_twins_are_equal(name):
    first = ROOT / MODELS[0] / name
    for model in MODELS[1:]:
        other = ROOT / model / name
        assert other.read_bytes() == first.read_bytes(), f'mend with: cp {first} {other}'


def test_wrappers_of_one_card_are_one_file():
    for folder in (*(ROOT / m / 'test' for m in MODELS), ROOT / 'test'):
        assert (folder / WRAPPERS[0]).read_bytes() == (folder / WRAPPERS[1]).read_bytes()


def test_budgets_of_files():
    sizes = {p: len(p.read_text().splitlines()) for p in SOURCES}
    assert {p.name: n for p, n in sizes.items() if n > 350 and not p.name.startswith('test_')} == {}
    copies = {ROOT / m / name for m in MODELS[1:] for name in TWINS}  # a twin counts once
    assert statistics.median(sizes[p] for p in PROGRAM_FILES if p not in copies) <= 150
    assert all(sizes[ROOT / m / 'train.py'] <= 220 for m in MODELS)
    wide = [
        f'{p.name}:{i}'
        for p in SOURCES
        for i, line in enumerate(p.read_text().split('\n'), 1)
        if len(line) > 100
    ]
    assert wide == []


def test_budgets_of_functions():
    sizes = {f'{p.name}:{f.name}': lines(f) for p in PROGRAM_FILES for f in functions(p)}
    assert {name: n for name, n in sizes.items() if n > 60} == {}
    assert statistics.median(sizes.values()) <= 12


@pytest.mark.parametrize('path', PROGRAM_FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_docstrings_and_hints(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), 'module docstring'
    if path.name != '__init__.py':
        assert 'from __future__ import annotations' in path.read_text()
    public = [n for n in tree.body if isinstance(n, ast.FunctionDef) and not n.name.startswith('_')]
    for node in public:
        assert ast.get_docstring(node), node.name


@pytest.mark.parametrize('path', PROGRAM_FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports(path):
    """Folders import nothing from each other, common/ nothing from them; npu_bridge only inside
    functions."""
    folder = path.relative_to(ROOT).parts[0]
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module]
        for name in names:
            assert name.split('.')[0] not in set(MODELS), (
                f'{path.name}: import {name}, use a relative import'
            )
            assert 'contrib' not in name and name.split('.')[0] not in (
                'tf_slim',
                'torch',
                'mindspore',
            )
            assert folder != 'common' or name.split('.')[0] not in ('tensorflow', 'test')
    assert not re.search(r'^(import|from) npu_bridge', path.read_text(), re.M)
    assert (
        'tf.contrib' not in path.read_text() and 'import tensorflow as tf' not in path.read_text()
    )


@pytest.mark.parametrize('model', MODELS)
def test_contract(model):
    """The signatures that every folder has."""
    wanted = {
        'config': {'get_config': ['preset']},
        'data': {'input_fn': ['cfg', 'training']},
        'model': {'network': ['features', 'cfg', 'training']},
        'losses': {'losses': ['outputs', 'labels', 'cfg']},
        'train': {'model_fn': ['features', 'labels', 'mode', 'params'], 'main': ['argv']},
        **{name: {'main': ['argv']} for name in ('evaluate', 'demo', 'convert', 'export')},
    }
    for module, signatures in wanted.items():
        found = {
            f.name: [a.arg for a in f.args.args] for f in functions(ROOT / model / f'{module}.py')
        }
        for name, arguments in signatures.items():
            assert found.get(name) == arguments, (module, name)


@pytest.mark.parametrize('model', MODELS)
def test_readme_headings_and_files(model):
    text = (ROOT / model / 'README.md').read_text()
    assert re.findall(r'^## (.*)$', text, re.M) == HEADINGS
    for path in (ROOT / model).glob('*.py'):
        assert f'`{path.name}`' in text, path.name


def test_settings_are_commented():
    for model in MODELS:
        source = (ROOT / model / 'config.py').read_text()
        values = re.search(
            r'def _full\(\):\n    return dict\(\n(.*?)\n    \)\n', source, re.S
        ).group(1)
        bare = [line for line in values.split('\n') if '=' in line and '#' not in line]
        assert bare == []


def test_nothing_of_a_machine_is_named():
    pattern = re.compile(r'/(work|root|home/\w+)/|\.pyenv/versions/\d')
    for path in [*SOURCES, *ROOT.glob('*.md'), *ROOT.glob('*/*.md'), ROOT / 'env.sh']:
        assert path.name == 'test_layout.py' or not pattern.search(path.read_text()), path


def test_level_file():
    for model in MODELS:
        rows = dict(
            line.split(':') for line in (ROOT / model / 'modelzoo_level.txt').read_text().split()
        )
        assert list(rows) == ['FuncStatus', 'PerfStatus', 'PrecisionStatus']
        assert set(rows.values()) <= {'OK', 'POK', 'NOK', 'PERFECT'}
