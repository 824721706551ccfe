# shellcheck shell=bash
# Sourced by every script, and by you: CANN's environment where it is installed, else a Python with the packages of
# requirements.txt in .venv, made once. Afterwards `python` and $PYTHON run the programs, from any folder.
#   PYTHON=/path/to/python3.7   the interpreter to use (its own packages if it has TensorFlow, else for .venv)
#   VENV=/path/to/venv          another place than .venv

collection=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
case ":${PYTHONPATH:-}:" in
  *":$collection:"*) ;;
  *) export PYTHONPATH="$collection${PYTHONPATH:+:$PYTHONPATH}" ;;
esac

# CANN: the present layout, then the one before 5.1. Nothing happens where neither is there.
for ascend in "${ASCEND_HOME_PATH:-}" /usr/local/Ascend/ascend-toolkit /usr/local/Ascend/nnae \
              /usr/local/Ascend/tfplugin; do
  if [ -n "$ascend" ] && [ -f "$ascend/set_env.sh" ]; then
    # shellcheck disable=SC1091
    . "$ascend/set_env.sh"
  fi
done
if [ -d /usr/local/Ascend/fwkacllib ]; then
  ascend=/usr/local/Ascend
  export LD_LIBRARY_PATH="$ascend/driver/lib64:$ascend/fwkacllib/lib64:${LD_LIBRARY_PATH:-}"
  export PATH="$ascend/fwkacllib/ccec_compiler/bin:$PATH"
  export PYTHONPATH="$PYTHONPATH:$ascend/fwkacllib/python/site-packages:$ascend/tfplugin/python/site-packages"
  export ASCEND_OPP_PATH="${ASCEND_OPP_PATH:-$ascend/opp}"
fi
export JOB_ID=${JOB_ID:-10087} RANK_ID=${RANK_ID:-0}
if [ -z "${CM_WORKER_SIZE:-}" ]; then export RANK_SIZE=${RANK_SIZE:-1}; fi  # either; both are an error
export ASCEND_DEVICE_ID=${ASCEND_DEVICE_ID:-0} ASCEND_GLOBAL_LOG_LEVEL=${ASCEND_GLOBAL_LOG_LEVEL:-3}
export DEVICE_INDEX=${DEVICE_INDEX:-$RANK_ID}

# Large freed blocks stay in the process: a fifth off a training step on CPU.
export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-2}
export MALLOC_MMAP_THRESHOLD_=8589934592 MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_TOP_PAD_=268435456

env_usable() {  # a Python 3.7 - 3.11 that can make a venv; a shim of an unselected version is not
  "$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 7) <= sys.version_info[:2] <= (3, 11))' \
    >/dev/null 2>&1
}

env_find_python() {  # prints the first usable interpreter: 3.7 is the reference, then the newest
  local version path
  for version in 3.7 3.11 3.10 3.9 3.8; do
    for path in "python$version" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version".*/bin/python \
                "/usr/bin/python$version" "/usr/local/bin/python$version"; do
      if env_usable "$path"; then
        command -v "$path"
        return 0
      fi
    done
  done
  if env_usable python3; then command -v python3; return 0; fi
  return 1
}

env_has_packages() {  # TensorFlow after 2.15 has no tf.estimator and no package tensorflow_estimator
  local lacks
  lacks=$("$1" -c 'import importlib.util as i
names = "tensorflow tensorflow_estimator cv2 PIL scipy pycocotools easydict".split()
lacks = [name for name in names if i.find_spec(name) is None]
print(*(lacks if "tensorflow" not in lacks else ["tensorflow"]))' 2>/dev/null) || return 1
  [ -n "$lacks" ] || return 0
  [ "$lacks" = tensorflow ] || echo "env.sh: $1 has TensorFlow but not $lacks (needed: TensorFlow 1.15 or" \
    "2.13 - 2.15, and requirements.txt): not used" >&2
  return 1
}

env_make_venv() {  # $1: the venv, made or completed; a marker says that the installation has ended
  local python="${PYTHON:-}" marker="$1/installed-requirements.txt"
  if cmp -s "$marker" "$collection/requirements.txt"; then return 0; fi
  if [ -z "$python" ]; then python=$(env_find_python) || true; fi
  if [ -z "$python" ] || ! env_usable "$python"; then
    cat >&2 <<TEXT
env.sh: no Python 3.7 - 3.11 with venv found (tried ${PYTHON:-PATH, pyenv}). Ways to get one:
  pyenv install 3.7.17                        the reference
  apt-get install python3.11-venv             Debian 12
  conda create -n osvos python=3.7            then PYTHON=<its python>
  pip install uv && uv venv --python 3.11 --seed .venv && .venv/bin/pip install -r requirements.txt
or name an interpreter: PYTHON=/path/to/python3.7
TEXT
    return 1
  fi
  echo "env.sh: installing requirements.txt into $1 with $("$python" --version 2>&1), once" >&2
  [ -x "$1/bin/python" ] || "$python" -m venv "$1" || return 1
  "$1/bin/python" -m pip install --quiet --disable-pip-version-check -r "$collection/requirements.txt" \
    || { echo "env.sh: pip could not install requirements.txt (output above)" >&2; return 1; }
  cp "$collection/requirements.txt" "$marker"
}

env_on_ascend() {  # CANN's own Python: the one that has npu_bridge
  local candidate
  for candidate in "${PYTHON:-}" python3.7 python3; do
    if [ -n "$candidate" ] && "$candidate" -c 'import importlib.util as i, sys
sys.exit(i.find_spec("npu_bridge") is None)' >/dev/null 2>&1; then
      PYTHON=$(command -v "$candidate")
      return 0
    fi
  done
  return 1
}

env_choose_python() {
  local venv="${VENV:-$collection/.venv}" candidate
  if env_on_ascend; then
    env_has_packages "$PYTHON" && return 0
    echo "env.sh: $PYTHON has npu_bridge but not all packages: $PYTHON -m pip install -r" \
      "$collection/requirements.txt" >&2
    return 1
  fi
  for candidate in "${PYTHON:-}" ${CONDA_PREFIX:+"$CONDA_PREFIX/bin/python"} python3; do
    if [ -z "${VENV:-}" ] && [ -n "$candidate" ] && env_has_packages "$candidate"; then
      PYTHON=$(command -v "$candidate")
      return 0
    fi
  done
  if ! { [ -n "$(command -v flock)" ] && mkdir -p "$venv" && env_locked "$venv"; }; then
    env_make_venv "$venv" || return 1
  fi
  PYTHON="$venv/bin/python"
}

env_locked() {  # two scripts started together install once
  ( flock 9; env_make_venv "$1" ) 9>"$1/lock"
}

env_choose_python || { echo "env.sh: no Python environment" >&2; return 1 2>/dev/null || exit 1; }
export PYTHON
if [ "$(command -v python)" != "$(dirname "$PYTHON")/python" ]; then
  PATH="$(dirname "$PYTHON"):$PATH"
fi
if [ ! -x "$(dirname "$PYTHON")/python" ]; then  # such as CANN's, which has python3.7 alone
  python() { "$PYTHON" "$@"; }
fi
