#!/usr/bin/env bash
# Trains on all cards of a server, one process a card; the same file in every model folder.
#   RANK_TABLE_FILE=/path/to/8p.json bash test/train_full_8p.sh --data_path=../data [flags of train.py]
# CARDS (default 8) processes, each with its own test/output/<card>/; the summary is card 0's.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
for flag in "$@"; do
  case $flag in -h|--help) exec bash "$here/train_full_1p.sh" --help ;; esac
done
export RANK_SIZE=${CARDS:-8} HCCL_CONNECT_TIMEOUT=${HCCL_CONNECT_TIMEOUT:-600}
if [ "$RANK_SIZE" -gt 1 ] && [ ! -f "${RANK_TABLE_FILE:-}" ]; then
  echo "train_full_8p.sh: RANK_TABLE_FILE='${RANK_TABLE_FILE:-}' is no file; the README shows its form" >&2
  exit 1
fi
pids=()
for (( rank = 0; rank < RANK_SIZE; rank++ )); do
  RANK_ID=$rank DEVICE_ID=$rank ASCEND_DEVICE_ID=$rank DEVICE_INDEX=$rank \
    bash "$here/train_full_1p.sh" "$@" &
  pids+=($!)
done
status=0
for pid in "${pids[@]}"; do  # wait -n is bash 4.3; a failed card leaves the others in the allreduce
  if ! wait "$pid"; then
    status=1
    kill "${pids[@]}" 2>/dev/null || true
  fi
done
exit $status
