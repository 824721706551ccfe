#!/usr/bin/env bash
# Trains on several ranks, one process each; the same file in every model folder.
#   RANK_TABLE_FILE=/path/to/8p.json bash test/train_full_8p.sh --data_path=../data [--ranks=8]    on the cards of a server
#   bash test/train_full_8p.sh --device=cpu --ranks=2                                            on this machine's processor
#   bash test/train_full_8p.sh --device=cpu --hosts=10.0.0.1:9000,10.0.0.2:9000                  on each of several machines
# Other flags are those of train.py. Each rank has its own test/output/<rank>/; the summary is rank 0's. The first rank
# that fails ends the others.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
name=$(basename "$0")
# shellcheck source=/dev/null
. "$here/../../env.sh"

ranks=${CARDS:-8}
hosts=""
device=npu
for flag in "$@"; do
  case $flag in
    -h|--help) exec bash "$here/${name/8p/1p}" --help ;;
    --ranks=*) ranks=${flag#*=} ;;
    --hosts=*) hosts=${flag#*=} ;;
    --device=cpu) device=cpu; set -- "$@" "$flag" ;;
    *) set -- "$@" "$flag" ;;
  esac
  shift
done
if ! [[ $ranks =~ ^[1-9][0-9]*$ ]]; then
  echo "$name: --ranks=$ranks: expected a whole number of at least 1" >&2
  exit 1
fi

network() {  # free: $1 ports of this machine; local: numbers of those of the hosts $1 that are this machine
  "$PYTHON" - "$@" <<'PYTHON'
import contextlib, socket, sys
task, given = sys.argv[1:]
with contextlib.ExitStack() as open_sockets:
    found = []
    for number, host in enumerate(given.split(',') if task == 'local' else ['127.0.0.1:0'] * int(given)):
        address, _, port = host.rpartition(':')
        if not address or not port.isdigit():
            sys.exit(f'--hosts: {host!r} is not host:port')
        each = open_sockets.enter_context(socket.socket())
        try:
            each.bind((address, 0))
        except socket.gaierror:
            sys.exit(f'--hosts: there is no host {address}')
        except OSError:  # an address of another machine
            continue
        found.append(str(number) if task == 'local' else f'{address}:{each.getsockname()[1]}')
print(*found, sep=' ' if task == 'local' else ',')
PYTHON
}

if [ $device = cpu ]; then
  [ -n "$hosts" ] || hosts=$(network free "$ranks")
  commas=${hosts//[^,]/}
  ranks=$(( ${#commas} + 1 ))
  mine=$(network local "$hosts")
  if [ -z "$mine" ]; then
    echo "$name: --hosts=$hosts: none of these addresses is this machine's" >&2
    exit 1
  fi
  export RANK_SIZE=$ranks WORKER_HOSTS=$hosts
elif [ -n "${CM_CHIEF_IP:-}" ]; then  # several servers without a rank table
  unset RANK_SIZE
  export CM_WORKER_SIZE=${CM_WORKER_SIZE:-$ranks}
  mine=$(seq -s ' ' 0 $(( ranks - 1 )))
else
  export RANK_SIZE=$ranks
  if [ "$ranks" -gt 1 ] && [ ! -f "${RANK_TABLE_FILE:-}" ]; then
    echo "$name: RANK_TABLE_FILE='${RANK_TABLE_FILE:-}' is no file; the README shows its form. Without an NPU:" \
      "--device=cpu --ranks=N" >&2
    exit 1
  fi
  mine=$(seq -s ' ' 0 $(( ranks - 1 )))
fi
export HCCL_CONNECT_TIMEOUT=${HCCL_CONNECT_TIMEOUT:-600}
first=${RANK_ID_START:-0}  # of this server's ranks, where there are several servers with NPUs

count() {  # how many of this machine's ranks have finished
  local rank number=0
  for rank in $mine; do
    if [ -f "$here/output/$rank/finished" ]; then number=$(( number + 1 )); fi
  done
  echo $number
}
every=$(wc -w <<< "$mine")
if [ "$(count)" -lt "$every" ]; then  # a run that was killed between two marks goes on as a whole
  for rank in $mine; do rm -f "$here/output/$rank/finished"; done
fi

set -m  # every rank is a process group, which a signal reaches as a whole
declare -A pids=()
for rank in $mine; do
  RANK_ID=$(( first + rank )) DEVICE_ID=$rank ASCEND_DEVICE_ID=$rank DEVICE_INDEX=$(( first + rank )) \
    bash "$here/${name/8p/1p}" "$@" </dev/null &
  pids[$rank]=$!
done

end_all() {  # asks every rank to end; after ten seconds it is not asked
  local pid alive
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

running=$every
while [ "$running" -gt 0 ]; do
  sleep 0.5
  running=0
  for rank in $mine; do
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
for rank in $mine; do touch "$here/output/$rank/finished"; done
