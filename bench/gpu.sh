#!/usr/bin/env bash
# All that only a GPU can tell, in under nine minutes and without a network: builds from the
# checkout, runs the GPU tests, compute-sanitizer and the benchmark matrix, and writes one JSON.
#
#   bench/gpu.sh [PART...]   parts of bench/gpu.py to time; default: all
#   bench/gpu.sh --dry-run   the same on a machine without a GPU, tiny, to test this script
#
# Needs nvcc, torch with CUDA, the headers of Python, setuptools, cmake, ninja, pybind11, numpy,
# safetensors, hypothesis, pytest. The record is
# OUT/gpu-NAME.json; OUT is bench/results unless set. BUDGET is the seconds all of it may take,
# COMMIT what to record for a copy without git.
# Exit code 1: some part failed or had no time; the record says which and holds the others.
set -euo pipefail
cd "$(dirname "$0")/.."

logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
out=${OUT:-bench/results}
dry=()
if [[ ${1:-} == --dry-run ]]; then
  dry=(--dry-run)
  out=${OUT:?a dry run needs a folder for its record}
  shift
fi
parts=("$@")
if [[ ${#parts[@]} -eq 0 ]]; then # compilation takes longest, so it gets the time that is left
  parts=(memory forward step update fields)
  parts+=(step-compiled forward-compiled update-compiled fields-compiled)
fi
budget=${BUDGET:-530}
python=${PYTHON:-python3}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}

record() { "$python" bench/gpu_record.py "$logs" "$out" "${dry[@]}"; }
trap 'record || true; rm -rf "$logs"' EXIT # also when something stops this script

# part NAME LIMIT COMMAND... runs a command for at most LIMIT seconds, and no longer than the budget
# allows. Its end goes to NAME.end, what it says to NAME.log. It never ends this script.
part() {
  local name=$1 limit=$2 status=0 left=$((budget - SECONDS)) start=$SECONDS
  shift 2
  echo "== $name" >&2
  if ((left < 5)); then
    echo "124 0 no time left" >"$logs/$name.end"
    return
  fi
  # SIGINT lets pytest write what it has (in the background it is ignored unless set back);
  # whatever then stays is killed.
  timeout -s INT -k 10 "$((limit < left ? limit : left))" env --default-signal=INT "$@" \
    >"$logs/$name.log" 2>&1 || status=$?
  echo "$status $((SECONDS - start)) $*" >"$logs/$name.end"
  if ((status)); then tail -n 5 "$logs/$name.log" >&2; fi
}

skip() { echo "-1 0 $2" >"$logs/$1.end"; } # NAME REASON

build() { # no pip: nothing but the checkout changes
  AUTOEMB_NATIVE=1 AUTOEMB_CUDA=1 "$python" setup.py -q egg_info build_ext --inplace
}
export -f build
export python

tests() { # only what asks for a GPU; without the options that need plugins
  "$python" -m pytest -q -o addopts=--import-mode=importlib -k cuda --junitxml="$logs/tests.xml" \
    tests/kernels tests/ops tests/streaming/test_cuda.py
}

sanitizer=$(command -v compute-sanitizer || echo "${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer")
sanitize() { # TOOL
  local filter=() help # torch's kernels are its own matter
  help=$("$sanitizer" --help 2>&1 || true)
  if [[ $help == *--kernel-regex* ]]; then
    filter=(--kernel-regex kns=autoemb)
  elif [[ $help == *--kernel-name* ]]; then
    filter=(--kernel-name kernel_substring=autoemb)
  fi
  # Without torch's cache every tensor has memory of its own, so that an overrun is one.
  PYTORCH_NO_CUDA_MEMORY_CACHING=1 "$sanitizer" --tool "$1" --target-processes all \
    "${filter[@]}" --report-api-errors no --error-exitcode 9 --print-limit 20 \
    "$python" -m bench.every_kernel
}
export -f tests sanitize
export logs sanitizer

if [[ ${#dry[@]} -gt 0 ]]; then
  skip build "a dry run takes what is built"
else
  part build 180 bash -c build
fi
part environment 60 "$python" -m bench.gpu environment "$logs/environment.jsonl" "${dry[@]}"

# Correctness first, all of it at once: nothing is timed yet.
part tests 150 bash -c tests &
if [[ ${#dry[@]} -gt 0 ]]; then
  skip every-kernel "a dry run has no GPU"
else
  part every-kernel 90 "$python" -m bench.every_kernel --list &
fi
for tool in memcheck racecheck; do
  if [[ ${#dry[@]} -gt 0 ]]; then
    skip "$tool" "a dry run has no GPU"
  elif [[ -x $sanitizer ]]; then
    part "$tool" 150 bash -c "sanitize $tool" &
  else
    skip "$tool" "compute-sanitizer not found"
  fi
done
wait

for name in "${parts[@]}"; do
  part "$name" 100 "$python" -m bench.gpu "$name" "$logs/$name.jsonl" "${dry[@]}"
done

trap 'rm -rf "$logs"' EXIT
record
