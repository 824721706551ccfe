"""The table of test/bench/README.md, from the JSON lines of the benchmarks.

    python test/bench/table.py --lines=test/output/bench/lines.jsonl [--write]

test/bench.sh calls it.
"""

from __future__ import annotations

import argparse
import glob
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = ROOT / 'test' / 'bench' / 'README.md'
BEGIN, END = '<!-- begin of the table -->', '<!-- end of the table -->'
MEASURED = (
    'common/metrics.py', 'common/bitmasks.py', 'common/masks.py', 'common/processes.py',
    '*/backbone.py', '*/model.py', '*/inference.py', '*/data.py', 'MANet/matching.py',
    'ColorNet/propagation.py', 'SiamMask/tracker.py', 'SiamMask/vot.py',
)  # fmt: skip


def fingerprint() -> str:
    """Twelve digits that change with the code that the benchmarks measure."""
    found = sorted({path for each in MEASURED for path in glob.glob(str(ROOT / each))})
    return hashlib.sha256(b''.join(Path(path).read_bytes() for path in found)).hexdigest()[:12]


def machine() -> str:
    """Processor, cores and versions, a line."""
    import cv2
    import numpy as np
    import tensorflow as tf

    text = Path('/proc/cpuinfo').read_text() if Path('/proc/cpuinfo').is_file() else ''
    model = re.search(r'^model name\s*: (.*)$', text, re.M)
    name = model.group(1) if model else platform.processor()
    return (
        f'{name}, {os.cpu_count()} cores; Python {platform.python_version()}, TensorFlow '
        f'{tf.__version__}, numpy {np.__version__}, OpenCV {cv2.__version__}'
    )


def table(rows: list[dict]) -> str:
    """Markdown of the results."""
    lines = ['| benchmark | case | variant | figures |', '|---|---|---|---|']
    for row in rows:
        row = dict(row)
        keys = ('bench', 'case', 'variant')
        first = [str(row.pop(key, '')).replace('|', '/') for key in keys]
        rest = ', '.join(f'{key.replace("_", " ")} {_number(row[key])}' for key in row)
        lines.append(f'| {" | ".join(first)} | {rest} |')
    return '\n'.join(lines)


def _number(value):
    if isinstance(value, dict):
        return ' / '.join(f'{key} {_number(each)}' for key, each in value.items())
    return f'{value:.4g}' if isinstance(value, float) else value


def write(text: str) -> None:
    """Puts the table, the machine and the code's fingerprint between the marks of PAGE."""
    commit = subprocess.run(
        ['git', 'rev-parse', '--short', 'HEAD'], cwd=str(ROOT), stdout=subprocess.PIPE, text=True
    ).stdout.strip()
    page = PAGE.read_text()
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    facts = f'Measured on {machine()}; commit {commit}, code {fingerprint()}.'
    PAGE.write_text(f'{before}{BEGIN}\n\n{facts}\n\n{text}\n\n{END}{after}')


def main() -> int:
    """Prints the table; with --write it goes into the page too."""
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument('--lines', required=True, help='JSON lines of the benchmarks')
    flags.add_argument('--write', action='store_true', help='into test/bench/README.md')
    args = flags.parse_args()
    with open(args.lines) as f:
        text = table([json.loads(line) for line in f])
    print(text)
    if args.write:
        write(text)
    return 0


if __name__ == '__main__':
    sys.exit(main())
