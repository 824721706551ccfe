#!/usr/bin/env bash
# Runs the same-named wrapper of every model, or of one: --model=OSVOS. Other flags go to each of them.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
wrapper=$(basename "$0")
models=()
for flag in "$@"; do
  case $flag in
    --model=*) models+=("${flag#--model=}") ;;
    *) set -- "$@" "$flag" ;;
  esac
  shift
done
if [ ${#models[@]} -eq 0 ]; then
  for script in "$here"/../*/test/"$wrapper"; do
    models+=("$(basename "$(dirname "$(dirname "$script")")")")
  done
fi
failed=()
for model in "${models[@]}"; do
  script="$here/../$model/test/$wrapper"
  [ -f "$script" ] || { echo "no model $model: $script is not there" >&2; exit 1; }
  echo "================== $model: $wrapper =================="
  bash "$script" "--script_dir=$here" "$@" || failed+=("$model")
done
if [ ${#failed[@]} -gt 0 ]; then
  echo "FAILED: ${failed[*]}" >&2
  exit 1
fi
