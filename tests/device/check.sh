#!/usr/bin/env bash
# Values, times and tests on the GPU or TPU at hand, in less than 8 minutes:
#
#   OUT=results tests/device/check.sh
#
# It writes results.md, results.json and what they are made of to the folder $OUT, or to a temporary one that it names. BUDGET is
# the time for all of it, in seconds. Where JAX finds a CPU alone, it runs a few small inputs, to see that it works. The exit
# status is 1 if a number is wrong or a test failed.
set -uo pipefail
OUT=$(realpath -m "${OUT:-$(mktemp -d)}")
BUDGET=${BUDGET:-460}
cd "$(dirname "$0")/../.."
export PYTHONPATH=.:tests${PYTHONPATH:+:$PYTHONPATH}
export XLA_PYTHON_CLIENT_PREALLOCATE=false # several processes share a GPU
python=$(command -v python3 || command -v python)
mkdir -p "$OUT"
rm -f "$OUT"/{machine.json,parts.tsv,values.jsonl,timing.jsonl,pytest.xml,log.txt,results.json,results.md}
echo "writing to $OUT"

# part NAME PERCENT COMMAND...: stop the command when this share of all the time is over.
part() {
  local name=$1 left=$((BUDGET * $2 / 100 - SECONDS)) start=$SECONDS status
  shift 2
  echo "== $name" | tee -a "$OUT/log.txt"
  timeout --signal=INT --kill-after=8 $((left > 1 ? left : 1)) "$@" >> "$OUT/log.txt" 2>&1
  status=$?
  printf '%s\t%s\t%s\n' "$name" "$status" $((SECONDS - start)) | tee -a "$OUT/parts.tsv"
  "$python" -m tests.device.report "$OUT" # after each part, so that nothing is lost
}

timeout 60 "$python" -m tests.device.machine > "$OUT/machine.json" 2>> "$OUT/log.txt"
platform=$("$python" -c 'import json, sys; print(json.load(sys.stdin)["platform"])' < "$OUT/machine.json")
if [ -z "$platform" ]; then
  echo "JAX did not start: see $OUT/log.txt"
  exit 1
fi
workers=$(($(nproc) > 16 ? 14 : $(nproc) > 3 ? $(nproc) - 2 : 1))
quick=()
# The tests of numbers. The others need several devices, read the memory that the form for CPUs takes, or are of Python alone.
tests=(tests/test_{values,laws,peers_losses,peers,region_losses,compound_losses,pixel_losses,boundary_losses}.py
  tests/test_{topology_losses,counts,histogram,scores,distance,peers_metrics,labels,moments,faults}.py)
several="stays_where or stay_where or sharded or axis_name or summed_by_psum or unchecked_devices"
python_alone="strict_modes or compiles_nothing or scores_are_float32 or one_trace or numpy_is_jax"
case $platform in
  gpu) export JAX_PLATFORMS=cuda,cpu ;;
  cpu) export JAX_PLATFORMS=cpu quick=(--quick) tests=(tests/test_arithmetic.py) ;;
  *) export JAX_PLATFORMS=$platform,cpu workers=1 ;; # one process has the TPU
esac
parallel=()
if "$python" -c "import xdist" 2> /dev/null; then parallel=(-n "$workers"); fi

part values 38 "$python" -m tests.device.values --out "$OUT/values.jsonl" --workers "$workers" "${quick[@]}"
part timing 70 "$python" -m tests.device.timing --out "$OUT/timing.jsonl" "${quick[@]}"
part tests 97 "$python" -m pytest -q -p no:benchmark "${parallel[@]}" --junitxml "$OUT/pytest.xml" \
  --continue-on-collection-errors -k "not ($several or temporaries or $python_alone)" "${tests[@]}"
"$python" -m tests.device.report "$OUT"
status=$?
sed -n '/^## Faults/,/^## Values/p' "$OUT/results.md" | sed '$d'
echo "$SECONDS s: $OUT/results.md"
exit $status
