#!/usr/bin/env bash
# Trains on all cards of a server, one process a card; the same file in every model folder.
#   RANK_TABLE_FILE=/path/to/8p.json bash test/train_full_8p.sh --data_path=../data [flags of train.py]
# CARDS (default 8) processes, each with its own test/output/<card>/; the summary is card 0's. The first that fails
# ends the others.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
name=$(basename "$0")
for flag in "$@"; do
  case $flag in -h|--help) exec bash "$here/train_full_1p.sh" --help ;; esac
done
export RANK_SIZE=${CARDS:-8} HCCL_CONNECT_TIMEOUT=${HCCL_CONNECT_TIMEOUT:-600}
if [ "$RANK_SIZE" -gt 1 ] && [ ! -f "${RANK_TABLE_FILE:-}" ]; then
  echo "$name: RANK_TABLE_FILE='${RANK_TABLE_FILE:-}' is no file; the README shows its form" >&2
  exit 1
fi

set -m  # every rank is a process group, which a signal reaches as a whole
pids=()
for (( rank = 0; rank < RANK_SIZE; rank++ )); do
  RANK_ID=$rank DEVICE_ID=$rank ASCEND_DEVICE_ID=$rank DEVICE_INDEX=$rank \
    bash "$here/${name/8p/1p}" "$@" </dev/null &
  pids+=($!)
done

end_all() {  # asks every rank to end; after ten seconds it is not asked
  local pid
  for pid in "${pids[@]}"; do kill -TERM -- "-$pid" 2>/dev/null || true; done
  for (( tenth = 0; tenth < 100; tenth++ )); do
    alive=no
    for pid in "${pids[@]}"; do kill -0 -- "-$pid" 2>/dev/null && alive=yes; done
    [ $alive = yes ] || return 0
    sleep 0.1
  done
  for pid in "${pids[@]}"; do kill -KILL -- "-$pid" 2>/dev/null || true; done
}
trap 'end_all; exit 143' TERM
trap 'end_all; exit 130' INT

running=$RANK_SIZE
while [ "$running" -gt 0 ]; do
  sleep 0.5
  running=0
  for (( rank = 0; rank < RANK_SIZE; rank++ )); do
    pid=${pids[$rank]}
    if kill -0 "$pid" 2>/dev/null; then
      running=$(( running + 1 ))
    elif ! wait "$pid"; then
      echo "$name: rank $rank failed, the other ranks are ended; the end of its log" \
        "$here/output/$rank/train_$rank.log:" >&2
      tail -n 20 "$here/output/$rank/train_$rank.log" >&2 || true
      end_all
      exit 1
    fi
  done
done
