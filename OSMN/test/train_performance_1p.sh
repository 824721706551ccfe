#!/usr/bin/env bash
# Trains on one card (or the CPU) and writes the model zoo's result files; the same file in every model folder.
#   bash test/train_full_1p.sh --data_path=../data [any flag of train.py]   (--help lists them)
# Results: test/output/$ASCEND_DEVICE_ID/. A finished run there is moved aside, an unfinished one goes on.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
model=$(basename "$(dirname "$here")")
case=acc
[[ $(basename "$0") == *performance* ]] && case=perf
START_TIME=$(date +%s)
export START_TIME
for flag in "$@"; do
  case $flag in
    --conda_name=*)  # an environment of conda, which env.sh then takes
      eval "$(conda shell.bash hook)"
      conda activate "${flag#*=}" ;;
  esac
done
# shellcheck source=/dev/null
. "$here/../../env.sh"

trains=yes
bind=""
for flag in "$@"; do
  case $flag in
    --bind_core|--bind_core=True|--bind_core=1)  # this rank's eighth of the cores
      share=$(( $(nproc) / 8 > 0 ? $(nproc) / 8 : 1 ))
      first=$(( ASCEND_DEVICE_ID * share % $(nproc) ))
      bind="taskset -c $first-$(( (first + share - 1) % $(nproc) ))"
      export BIND_CORE=1 ;;
    --bind_core*|--conda_name=*) ;;
    -h|--help) exec "$PYTHON" -m "$model.train" --help ;;
    --check_data*|--dry_run) trains=no; set -- "$@" "$flag" ;;
    *) set -- "$@" "$flag" ;;
  esac
  shift
done

out="$here/output/$ASCEND_DEVICE_ID"
if [ $trains = yes ] && [ -f "$out/finished" ]; then
  mv "$out" "$out.$(date -r "$out/finished" +%Y%m%d_%H%M%S).$$"
fi
mkdir -p "$out"
log="$out/train_$ASCEND_DEVICE_ID.log"
echo "Device ID: $ASCEND_DEVICE_ID"

# In the background, so that a signal to this script reaches the program at once.
# shellcheck disable=SC2086
$bind "$PYTHON" -m "$model.train" "--case=$case" "--script_dir=$here" "--output_path=$out/ckpt" \
  "--result_path=$out" "$@" > >(trap "" INT TERM; exec tee -a "$log") 2>&1 &
child=$!
stopped=0
trap 'stopped=143; kill -TERM $child 2>/dev/null' TERM
trap 'stopped=130; kill -TERM $child 2>/dev/null' INT  # a program in the background ignores SIGINT at first
while true; do  # a signal ends a wait before the program has ended
  status=0
  wait $child || status=$?
  kill -0 $child 2>/dev/null || break
done
sleep 0.1  # tee writes its last lines
[ $stopped = 0 ] || exit $stopped
exit $status
