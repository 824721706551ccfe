"""The house rules that a machine can check: names, twins, imports, headings, documentation."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import readme_commands

ROOT = Path(__file__).resolve().parent.parent
MODELS = ['OSMN', 'OSVOS', 'SiamMask', 'ColorNet', 'MANet']
FILES = {
    'README.md',
    '__init__.py',
    'config.py',
    'data.py',
    'backbone.py',
    'model.py',
    'losses.py',
    'inference.py',
    'api.py',
    'train.py',
    'evaluate.py',
    'demo.py',
    'convert.py',
    'export.py',
    'npu.py',
    'ranks.py',
    'cli.py',
    'pretrained.py',
    'progress.py',
    'averaging.py',
    'modelzoo_level.txt',
    'LICENSE',
    'requirements.txt',
    'example.jpg',
    'test',
}
WRAPPERS = (
    'train_full_1p.sh',
    'train_performance_1p.sh',
    'train_full_8p.sh',
    'train_performance_8p.sh',
)
TWINS = [
    'npu.py',
    'ranks.py',
    'cli.py',
    'pretrained.py',
    'progress.py',
    'averaging.py',
    'LICENSE',
    'requirements.txt',
    'test/env.sh',
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
COMMON = {'__init__', 'lazy', 'files', 'davis', 'youtube_vos', 'coco', 'videos', 'masks', 'weights'}
COMMON |= {'processes', 'console', 'metrics', 'bitmasks', 'stability', 'plots', 'report'}
TOP = {
    'README.md',
    'README_CN.md',
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
PROGRAMS = ('train', 'evaluate', 'demo', 'convert', 'export')


def name_of(path):
    return str(path.relative_to(ROOT))


def functions(path):
    return [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef)]


def imported(path):
    """(level, dotted names) of every import of a file, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield 0, alias.name
        elif isinstance(node, ast.ImportFrom):
            if node.module:
                yield node.level, node.module
            if node.level or node.module == 'common':
                for alias in node.names:
                    yield node.level, '.'.join(filter(None, (node.module, alias.name)))


@pytest.mark.parametrize('model', MODELS)
def test_folders_have_the_same_files(model):
    found = {p.name for p in (ROOT / model).iterdir()} - {'__pycache__'}
    assert found >= FILES, FILES - found
    assert 'weights.py' not in found  # in common/
    wrappers = {p.name for p in (ROOT / model / 'test').iterdir()} - {'output'}
    assert wrappers == {*WRAPPERS, 'env.sh'}


def test_top_level_and_common():
    found = {p.name for p in ROOT.iterdir() if not p.name.startswith('.') or p.name in TOP}
    assert found - {'__pycache__', 'kernel_meta', 'output'} <= TOP, found - TOP
    assert {p.stem for p in (ROOT / 'common').glob('*.py')} == COMMON
    assert set(WRAPPERS) <= {p.name for p in (ROOT / 'test').iterdir()}
    assert not (ROOT / 'test' / '__init__.py').exists()


@pytest.mark.parametrize('name', TWINS)
def test_twins_are_equal(name):
    first = ROOT / MODELS[0] / name
    for model in MODELS[1:]:
        other = ROOT / model / name
        assert other.read_bytes() == first.read_bytes(), f'mend with: cp {first} {other}'


def test_wrappers_of_one_kind_are_one_file():
    for folder in (*(ROOT / m / 'test' for m in MODELS), ROOT / 'test'):
        for kind in ('1p', '8p'):
            full, performance = (
                folder / f'train_{case}_{kind}.sh' for case in ('full', 'performance')
            )
            assert full.read_bytes() == performance.read_bytes()


def test_lines_fit_a_page():
    wide = [
        f'{name_of(path)}:{i}'
        for path in SOURCES
        for i, line in enumerate(path.read_text().split('\n'), 1)
        if len(line) > 100
    ]
    assert wide == []


def test_every_function_is_seen():
    """The checks below see as many functions as there are lines that define one."""
    seen = sum(len(functions(path)) for path in PROGRAM_FILES)
    defined = sum(len(re.findall(r'^ *def ', p.read_text(), re.M)) for p in PROGRAM_FILES)
    assert seen == defined > 1000


@pytest.mark.parametrize('path', PROGRAM_FILES, ids=name_of)
def test_docstrings_and_hints(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), 'module docstring'
    if path.name != '__init__.py':
        assert 'from __future__ import annotations' in path.read_text()
    classes = [n for n in tree.body if isinstance(n, ast.ClassDef)]
    public = [n for n in tree.body if isinstance(n, ast.FunctionDef)]
    public += classes
    public += [n for kind in classes for n in kind.body if isinstance(n, ast.FunctionDef)]
    for node in public:
        if not node.name.startswith('_') or node.name == '__init__':
            assert ast.get_docstring(node), node.name


@pytest.mark.parametrize('path', PROGRAM_FILES, ids=name_of)
def test_imports(path):
    """Folders import nothing from each other, common/ nothing from them; npu_bridge only npu.py,
    inside functions; TensorFlow in common/ only where a checkpoint is read."""
    folder, text = path.relative_to(ROOT).parts[0], path.read_text()
    for level, name in imported(path):
        first = name.split('.')[0]
        assert level or first not in MODELS, f'import {name}: use a relative import'
        assert first not in ('tf_slim', 'torch', 'mindspore') and 'contrib' not in name
        assert first != 'npu_bridge' or path.name == 'npu.py', f'{name}: only npu.py imports it'
        if folder == 'common':
            assert first != 'test'
            assert first != 'tensorflow' or path.name == 'weights.py'
    assert not re.search(r'^(import|from) npu_bridge', text, re.M)
    assert 'tf.contrib' not in text and 'import tensorflow as tf' not in text


@pytest.mark.parametrize('folder', [*MODELS, 'common'])
def test_no_circles_of_imports(folder):
    graph = {}
    for path in (ROOT / folder).glob('*.py'):
        names = {name.split('.')[0] for level, name in imported(path) if level == 1}
        graph[path.stem] = {n for n in names if (ROOT / folder / f'{n}.py').is_file()} - {path.stem}
    graph['cli'] = graph.get('cli', set()) - {'convert'}  # inside a function, as a program
    left = dict(graph)
    while left:
        free = [name for name, needs in left.items() if not needs & set(left)]
        assert free, f'these import each other in a circle: {sorted(left)}'
        for name in free:
            del left[name]


@pytest.mark.parametrize('model', MODELS)
def test_contract(model):
    """The signatures that every folder has."""
    wanted = {
        'config': {'get_config': ['preset']},
        'data': {'input_fn': ['cfg', 'training']},
        'model': {'network': ['features', 'cfg', 'training']},
        'losses': {'losses': ['outputs', 'labels', 'cfg']},
        'inference': {'load': ['checkpoint', 'cfg']},
        'train': {
            'model_fn': ['features', 'labels', 'mode', 'params'],
            'prepare': ['args', 'cfg'],
            'train': ['cfg', 'args', 'saved'],
        },
        'evaluate': {
            'run': ['options', 'cfg'],
            'accuracy': ['cfg', 'data_path', 'checkpoint', 'output_path'],
        },
    }
    for program in PROGRAMS:
        wanted.setdefault(program, {})['main'] = ['argv']
    for module, signatures in wanted.items():
        found = {
            f.name: [a.arg for a in f.args.args] for f in functions(ROOT / model / f'{module}.py')
        }
        for name, arguments in signatures.items():
            assert found.get(name) == arguments, (module, name)


def test_pip_installs_every_package():
    text = (ROOT / 'pyproject.toml').read_text()
    names = re.findall(r'"(\w+)"', re.search(r'^packages = (.*)$', text, re.M).group(1))
    assert sorted(names) == sorted([*MODELS, 'common'])


def test_the_chinese_readme_says_the_same():
    """As many sections, tables' rows and links, the same commands and numbers in tables."""
    english, chinese = ((ROOT / name).read_text() for name in ('README.md', 'README_CN.md'))
    assert readme_commands.commands(english) == readme_commands.commands(chinese)
    links = [re.findall(r'\]\((?!#)([^)]+)\)', text) for text in (english, chinese)]
    links = [sorted(set(found) - {'README.md', 'README_CN.md'}) for found in links]
    assert links[0] == links[1]
    for pattern in (r'^## ', r'^\|', r'^- ', r'!\['):
        counts = [len(re.findall(pattern, text, re.M)) for text in (english, chinese)]
        assert counts[0] == counts[1], pattern
    rows = [re.findall(r'^\|.*\d\.\d{3}.*$', text, re.M) for text in (english, chinese)]
    for ours, theirs in zip(*rows):
        assert re.findall(r'\d\.\d+', ours) == re.findall(r'\d\.\d+', theirs)


def test_links_within_the_collection_exist():
    for path in [*ROOT.glob('*.md'), *ROOT.glob('*/README.md')]:
        text = path.read_text()
        for target, anchor in re.findall(r'\]\((?!http)([^)#]*)(#[^)]*)?\)', text):
            file = (path.parent / target) if target else path
            assert file.is_file(), f'{path}: {target}'
            headings = re.findall(r'^#+ (.*)$', file.read_text(), re.M) if anchor else []
            known = {'#' + re.sub(r'[^\w -]', '', h).lower().replace(' ', '-') for h in headings}
            assert not anchor or anchor in known, f'{path}: {anchor}'


@pytest.mark.parametrize('model', MODELS)
def test_readme_headings_and_files(model):
    text = (ROOT / model / 'README.md').read_text()
    assert re.findall(r'^## (.*)$', text, re.M) == HEADINGS
    for path in (ROOT / model).glob('*.py'):
        assert f'`{path.name}`' in text, path.name


@pytest.mark.parametrize('model', MODELS)
def test_settings_are_commented(model):
    source = (ROOT / model / 'config.py').read_text()
    values = re.search(r'def _full\(\):\n    return dict\(\n(.*?)\n    \)\n', source, re.S).group(1)
    bare = [line for line in values.split('\n') if '=' in line and '#' not in line]
    assert bare == []


@pytest.mark.parametrize('model', MODELS)
def test_presets_have_the_same_settings(model):
    """What a run needs of its settings is there in every preset, and the names that others rely on
    are settings."""
    import importlib

    config = importlib.import_module(f'{model}.config')
    full = config.get_config()
    for preset in config.PRESETS:
        assert set(config.get_config(preset)) == set(full), preset
    assert {*config.NETWORK, *config.RANGES, 'from_scratch', 'seed', 'batch_size'} <= set(full)
    assert set(config.PRETRAINED) == {'file', 'what', 'how'}
    for preset in config.PRESETS:
        if not config.get_config(preset).from_scratch:
            assert all(config.PRETRAINED.values()), preset


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
