#!/usr/bin/env bash
# All benchmarks on this machine: ratios taken in one run on the same work. Prints a JSON line a result, then a table,
# which is written to test/bench/README.md too.
#   bash test/bench.sh                             about half an hour on two idle cores
#   bash test/bench.sh --quick                     few rounds, without the slowest cases; writes no table
#   bash test/bench.sh --peers                     beside PyTorch too, in an environment made for it in test/output/peers
#   bash test/bench.sh --official=DIR              beside davis2017-evaluation: a checkout of it, in an environment with its packages
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/.."
# shellcheck source=/dev/null
. ./env.sh

quick="" peers="" official=""
for flag in "$@"; do
  case $flag in
    --quick) quick=yes ;;
    --peers) peers=yes ;;
    --official=*) official=$flag ;;
    *) sed -n '2,7s/^# \?//p' "$here/bench.sh"; [ "$flag" = --help ]; exit ;;
  esac
done

work="$here/output/bench"
mkdir -p "$work"
lines="$work/lines.jsonl"
: > "$lines"
data="$work/data"
"$PYTHON" test/sample_data.py --output="$data" >/dev/null
"$PYTHON" -m SiamMask.prepare --data_path="$data" --output_path="$work/crops" --quiet >/dev/null

torch=""
if [ -n "$peers" ]; then
  peer="$here/output/peers"
  if [ ! -x "$peer/bin/python" ]; then
    "$PYTHON" -m venv "$peer"
    "$peer/bin/python" -m pip install --quiet --disable-pip-version-check torch numpy opencv-python-headless
  fi
  torch="--torch=$peer/bin/python"
fi

run() {  # bench name, then its flags; a line of results names its benchmark
  local name=$1
  shift
  "$PYTHON" "test/bench/bench_$name.py" "$@" | while read -r line; do
    case $line in
      '{"bench"'*) echo "$line"; echo "$line" >> "$lines" ;;
      "{"*) line="{\"bench\": \"$name\", ${line#\{}"; echo "$line"; echo "$line" >> "$lines" ;;
      *) echo "$line" ;;
    esac
  done
}

rounds=${quick:+2}
rounds=${rounds:-5}
run metrics --rounds="$rounds" ${official:+"$official"}
run reader --rounds="$rounds"
run siammask --rounds="$rounds" --crops="$work/crops" ${torch:+"$torch"}
run osmn --rounds="$rounds" --coco="$data/coco" --davis="$data/DAVIS2017"
if [ -n "$quick" ]; then
  run osvos --rounds=1 --cases=side
  run colornet --rounds=1 --cases=step
  run manet --rounds=1 --cases=gemm,embed
  "$PYTHON" test/bench/table.py --lines="$lines"
else
  run osvos --rounds="$rounds" ${torch:+"$torch"}
  run colornet --rounds=3 --videos="$data/YouTubeVOS" ${torch:+"$torch"}
  run manet --rounds=3 ${torch:+"$torch"}
  "$PYTHON" test/bench/table.py --lines="$lines" --write
fi
