#!/usr/bin/env bash
# Runs the same-named wrapper of every model, or of one: --model=OSVOS. Other flags go to each of them.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
wrapper=$(basename "$0")
models=""
for flag in "$@"; do
  case $flag in
    --model=*) models="$models ${flag#--model=}" ;;
    *) set -- "$@" "$flag" ;;
  esac
  shift
done
if [ -z "$models" ]; then
  for script in "$here"/../*/test/"$wrapper"; do
    models="$models $(basename "$(dirname "$(dirname "$script")")")"
  done
fi
for model in $models; do
  script="$here/../$model/test/$wrapper"
  [ -f "$script" ] || { echo "no model $model: $script is not there" >&2; exit 1; }
done

failed=""
child=""
stopped=0
trap 'stopped=143; kill -TERM $child 2>/dev/null' TERM
trap 'stopped=130; kill -TERM $child 2>/dev/null' INT  # a child in the background ignores SIGINT at first
for model in $models; do
  echo "================== $model: $wrapper =================="
  bash "$here/../$model/test/$wrapper" "--script_dir=$here" "$@" &  # so that a signal reaches it at once
  child=$!
  while true; do  # a signal ends a wait before the wrapper has ended
    status=0
    wait $child || status=$?
    kill -0 $child 2>/dev/null || break
  done
  [ $stopped = 0 ] || exit $stopped
  [ $status = 0 ] || failed="$failed $model"
done
if [ -n "$failed" ]; then
  echo "FAILED:$failed" >&2
  exit 1
fi
