#!/usr/bin/env bash
# All that there is to find out on a machine with a GPU and no network, in two commands of less than five minutes:
#
#   bash scripts/gpu_check.sh check   smoke with the kernels that ran, the gpu tests, compute-sanitizer's four tools
#   bash scripts/gpu_check.sh time    device times by CUDA graphs, then the benchmarks without their memory pass
#
# `make gpu-ready` prepares what such a machine lacks: libraries in build/gpu/lib, which are put in their place here, and
# wheels in build/gpu/wheels, which are unpacked for this script alone. Libraries that do not load, or are of other
# sources, are built, for this GPU only. What was printed and measured is in $OUT/check.tgz or $OUT/time.tgz (OUT:
# build/gpu/results). With --dry-run behind it, the CPU stands in for the GPU. TESTS="file ..." and
# BENCHMARKS="name ..." pick some. `list` prints the test files, `sources` what names the libraries' sources.
#
# Exit status: 0; 1 when a step failed, and a failed smoke leaves out the rest; 2 for a wrong command line; 3 without
# a GPU.
set -uo pipefail
cd "$(dirname "$0")/.."

# Seconds at most. A command's own limit also ends its steps, so that it holds with all of them together.
declare -A LIMIT=(
  [check]=275 # the whole command
  [time]=245  # the whole command
  [device]=60
  [wheels]=30
  [load]=60
  [build]=150
  [smoke]=90
  [tests]=140 # of all files at once
  [plant]=30
  [sanitizer]=140 # of all tools at once
  [times]=130
  [benchmark]=60 # of each
)
GRACE=5 # from being asked to end to being ended

BENCHMARKS=${BENCHMARKS:-spiral_conv edge_conv knn ecc poly_step resample mesh_conv}
TOOLS=(memcheck racecheck synccheck initcheck)

usage() {
  echo "usage: gpu_check.sh check|time [--dry-run]" >&2
  exit 2
}

# Test files that hold the gpu marker, or import a helper that does, or one that imports it.
gpu_test_files() {
  local file stem at found=()
  local -A seen=()
  mapfile -t found < <(grep -rl --include='*.py' 'mark\.gpu' tests)
  for ((at = 0; at < ${#found[@]}; ++at)); do
    file=${found[$at]}
    [ -z "${seen[$file]:-}" ] || continue
    seen[$file]=yes
    stem=$(basename "$file" .py)
    case $stem in
      test_*) echo "$file" ;;
      *) mapfile -t -O ${#found[@]} found < <(grep -rlE --include='*.py' "^(from|import) +(support\.)?$stem\b" tests) ;;
    esac
  done | sort -u
}

# Libraries are built of these sources.
sources() {
  local LC_ALL=C
  cat setup.py csrc/*/* | sha256sum | cut -c1-16
}

what=${1:-}
case $what in
  list | sources)
    [ "$what" = list ] && gpu_test_files || sources
    exit
    ;;
  check | time) ;;
  *) usage ;;
esac
[ $# -eq 1 ] || { [ $# -eq 2 ] && [ "$2" = --dry-run ]; } || usage
dry=${2:+yes}
python=${PYTHON:-python3}
OUT=${OUT:-$PWD/build/gpu/results}
SECONDS=0
deadline=${GPU_CHECK_SECONDS:-${LIMIT[$what]}}
failed=()

say() { echo "[$SECONDS s] $*"; }

# Runs a command for at most as long as its step and the whole script may. 124: its time was up.
within() {
  local step=$1 left=$((deadline - SECONDS))
  [ "$left" -lt "${LIMIT[$step]}" ] || left=${LIMIT[$step]}
  if [ "$left" -le 0 ]; then
    echo "$step: no time left" >&2
    return 124
  fi
  timeout -k "$GRACE" "$left" "${@:2}"
}

# A line on a step that has ended with a status.
verdict() {
  local name=$1 status=$2
  case $status in
    0) say "$name: well ${*:3}" ;;
    124 | 137) say "$name: FAILED, out of time ${*:3}" && failed+=("$name") ;;
    *) say "$name: FAILED, exit status $status ${*:3}" && failed+=("$name") ;;
  esac
}

# ---- the machine, and the libraries ----

require_gpu() {
  local reason
  reason=$(within device "$python" -c '
try:
    import torch
except ImportError as error:
    raise SystemExit(f"{error}")
if not torch.cuda.is_available():
    raise SystemExit(f"torch {torch.__version__} (CUDA: {torch.version.cuda}) finds none")' 2>&1) && return
  echo "gpu_check: no GPU here: ${reason##*$'\n'}" >&2
  exit 3
}

describe() {
  [ -n "$dry" ] || within device nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
  within device nvcc --version 2>/dev/null | tail -1
  within device "$python" -c '
import platform, torch
name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
print(f"Python {platform.python_version()}, torch {torch.__version__}, CUDA {torch.version.cuda}, {name}")'
}

unpack_wheels() {
  local wheels=(build/gpu/wheels/*.whl) site=$PWD/build/gpu/site
  [ -e "${wheels[0]}" ] || return 0
  if [ -n "$dry" ]; then
    echo "would unpack ${#wheels[@]} wheels"
    return 0
  fi
  rm -rf "$site"
  within wheels "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --target "$site" \
    "${wheels[@]}" >"$OUT/wheels.log" 2>&1
  verdict wheels $? "(${#wheels[@]})"
  export PYTHONPATH="$site:$PYTHONPATH"
}

# Loads the libraries and runs a kernel, for machine code of another architecture loads as well.
load() {
  within load "$python" - "${dry:-no}" <<'PYTHON' >"$OUT/load.log" 2>&1
import sys, torch
from polygraph import _load, ops
if sys.argv[1] == "no":
    assert _load.find_library("_C_cuda"), "polygraph/_C_cuda was not built"
device = "cuda" if sys.argv[1] == "no" else "cpu"
x = torch.ones(1, 4, 4, device=device)
found = ops.resample(x, torch.zeros(3, 1, dtype=torch.int64, device=device), torch.ones(3, 1, device=device))
assert bool((found == 1).all()), found
PYTHON
}

# Puts the libraries of a folder in their place, if they are of these sources, and loads them.
load_from() {
  [ "$(cat "$1/sources" 2>/dev/null)" = "$(sources)" ] || { echo "$1: of other sources" >"$OUT/load.log" && return 1; }
  cp "$1"/polygraph/*.so polygraph/ && load
}

# Libraries that were carried here, or built by this script before; without any, those that are in place; else builds.
libraries() {
  local folder found="" status arch
  for folder in build/gpu/lib build/gpu/built; do
    [ -z "$dry" ] && [ -d "$folder" ] || continue
    found=yes
    load_from "$folder" && say "libraries: those in $folder" && return
    say "libraries: $(tail -1 "$OUT/load.log")"
  done
  if [ -z "$found" ]; then
    load && say "libraries: those in place" && return
    say "libraries: $(tail -1 "$OUT/load.log")"
    [ -z "$dry" ] || return 1
  fi
  arch=$(within device "$python" -c 'import torch; print("%d%d" % torch.cuda.get_device_capability())')
  rm -rf build/gpu/built
  POLYGRAPH_CUDA=1 POLYGRAPH_CUDA_ARCHS=$arch MAX_JOBS=$(nproc) within build "$python" setup.py --quiet build_ext \
    --build-lib build/gpu/built --build-temp build/gpu/temp >"$OUT/build.log" 2>&1
  status=$?
  verdict "build for sm_$arch" $status
  if [ $status -ne 0 ]; then
    tail -30 "$OUT/build.log"
    return 1
  fi
  sources >build/gpu/built/sources
  load_from build/gpu/built && return
  tail -3 "$OUT/load.log"
  return 1
}

# ---- check ----

smoke() {
  local mode=(cuda --kernels) status
  [ -z "$dry" ] || mode=(cpu --quick --dtypes float32 --only resample)
  within smoke "$python" scripts/gpu_smoke.py "${mode[@]}" >"$OUT/smoke.log" 2>&1
  status=$?
  grep "^FAIL" "$OUT/smoke.log" | head -20
  grep -E "kernels of polygraph ran|never" "$OUT/smoke.log"
  verdict smoke $status "$(tail -1 "$OUT/smoke.log")"
  return $status
}

# A process for each file, all at once: a device-side assertion ends a CUDA context, and must not take the others along.
tests() {
  local files file log extra=(--timeout=120 --maxfail=30) most=64
  mapfile -t files < <(if [ -n "${TESTS:-}" ]; then printf '%s\n' $TESTS; else gpu_test_files; fi)
  [ -z "$dry" ] || { extra=(--collect-only) most=$(nproc); }
  for file in "${files[@]}"; do
    log=$OUT/$(basename "$file" .py).log
    while [ "$(jobs -rp | wc -l)" -ge "$most" ]; do sleep 0.1; done
    {
      OMP_NUM_THREADS=2 within tests "$python" -m pytest "$file" -m "gpu and not large and not slow" -q \
        -p no:cacheprovider "${extra[@]}" >"$log" 2>&1
      echo $? >"$log.status"
    } &
  done
  wait
  for file in "${files[@]}"; do
    log=$OUT/$(basename "$file" .py).log
    verdict "$file" "$(cat "$log.status")" "$(tail -1 "$log")"
    grep -E "^(FAILED|ERROR)" "$log" | head -8
    rm "$log.status"
  done
}

find_tool() {
  command -v "$1" || { [ -x "/usr/local/cuda/bin/$1" ] && echo "/usr/local/cuda/bin/$1"; }
}

# One tool: it must find its planted bug, and nothing without one; then the smoke. Prints what it found.
sanitize() {
  local sanitizer=$1 tool=$2 only=(--kernel-name kernel_substring=polygraph) status clean planted
  within plant "$sanitizer" --tool "$tool" --error-exitcode 9 "$OUT/plant" none >"$OUT/plant_none_$tool.log" 2>&1
  clean=$?
  within plant "$sanitizer" --tool "$tool" --error-exitcode 9 "$OUT/plant" "$tool" >"$OUT/plant_$tool.log" 2>&1
  planted=$?
  if [ -z "$dry" ] && { [ $clean -ne 0 ] || [ $planted -ne 9 ]; }; then
    echo "planted bug MISSED (exit status $planted with it, $clean without)"
    return 1
  fi
  # PyTorch's kernels write what ours read: initcheck must see them. The others look at ours alone, which is quicker.
  [ "$tool" != initcheck ] || only=()
  PYTORCH_NO_CUDA_MEMORY_CACHING=1 OMP_NUM_THREADS=2 within sanitizer "$sanitizer" --tool "$tool" --error-exitcode 9 \
    --print-limit 20 "${only[@]}" "$python" scripts/gpu_smoke.py cuda --quick >"$OUT/$tool.log" 2>&1
  status=$?
  echo "planted bug found; $(grep -E "ERROR SUMMARY|RACECHECK SUMMARY" "$OUT/$tool.log" | tail -1 | tr -d =)"
  # What is reported of PyTorch's own kernels is not ours to mend.
  if [ "$tool" = initcheck ] && [ $status -eq 9 ] && ! grep -q "at .*polygraph" "$OUT/$tool.log"; then
    echo "none of them in a kernel of polygraph"
    return 0
  fi
  return $status
}

sanitizers() {
  local sanitizer nvcc tool status at pids=()
  nvcc=$(find_tool nvcc)
  if [ -n "$dry" ]; then
    [ -z "$nvcc" ] || within plant "$nvcc" -arch=sm_90 -std=c++17 -lineinfo scripts/plant.cu -o "$OUT/plant"
    verdict "planted bugs compiled" $? "${nvcc:-, no nvcc}"
    for tool in "${TOOLS[@]}"; do
      sanitize echo "$tool" >/dev/null
      cat "$OUT"/plant_{none_,}"$tool".log "$OUT/$tool.log"
    done
    return
  fi
  sanitizer=$(find_tool compute-sanitizer)
  if [ -z "$sanitizer" ] || [ -z "$nvcc" ]; then
    verdict sanitizers 127 "compute-sanitizer or nvcc is missing"
    return
  fi
  within plant "$nvcc" -arch=native -std=c++17 -lineinfo scripts/plant.cu -o "$OUT/plant" >"$OUT/plant.log" 2>&1
  status=$?
  verdict "planted bugs compiled" $status
  [ $status -eq 0 ] || return
  for tool in "${TOOLS[@]}"; do
    sanitize "$sanitizer" "$tool" >"$OUT/$tool.txt" 2>&1 &
    pids+=($!)
  done
  for at in "${!TOOLS[@]}"; do
    wait "${pids[$at]}"
    verdict "${TOOLS[$at]}" $? "$(tr '\n' ' ' <"$OUT/${TOOLS[$at]}.txt")"
  done
}

# ---- time ----

device_times() {
  local mode=()
  [ -z "$dry" ] || mode=(--device cpu --tiny)
  within times "$python" scripts/gpu_times.py "$OUT/device_times.json" $BENCHMARKS "${mode[@]}" \
    >"$OUT/device_times.log" 2>&1
  verdict "device times" $?
  cat "$OUT/device_times.log"
}

benchmarks() {
  local name mode=(--device cuda --rounds 9 --limit 1)
  [ -z "$dry" ] || mode=(--device cpu --rounds 2 --limit 0.01 --tiny)
  for name in $BENCHMARKS; do
    # Peak memory takes a process for each number.
    within benchmark "$python" "benchmarks/bench_$name.py" --no-memory "${mode[@]}" --out "$OUT/$name.json" \
      >"$OUT/bench_$name.log" 2>&1
    verdict "bench_$name" $? "$(grep -cE "MISSED" "$OUT/bench_$name.log") targets missed"
    grep -E "^[^ {].*ward$|MISSED|/ ours|Error|wrong values" "$OUT/bench_$name.log" | head -60
  done
}

# ---- all of it ----

pack() {
  local logs=()
  mapfile -t logs < <(cd "$OUT" && ls | grep -E '\.(log|txt|json)$')
  (cd "$OUT" && tar czf "$what.tgz" -- "${logs[@]}" && rm -f -- "${logs[@]}" plant)
  say "results: $OUT/$what.tgz"
}

export PYTHONUNBUFFERED=1 PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
export TORCHINDUCTOR_COMPILE_THREADS=4 # of each of the many test processes
export CUBLAS_WORKSPACE_CONFIG=:4096:8 # without it some versions refuse products when all must be deterministic
if [ -z "$dry" ]; then
  require_gpu
  export POLYGRAPH_REQUIRE_CUDA=1
fi
mkdir -p "$OUT"
describe 2>&1 | tee "$OUT/device.txt"
unpack_wheels
if libraries; then
  case $what in
    check) smoke && { tests; sanitizers; } ;;
    time) device_times; benchmarks ;;
  esac
else
  failed+=(libraries)
fi
pack
if [ ${#failed[@]} -gt 0 ]; then
  say "gpu_check $what: ${#failed[@]} FAILED: ${failed[*]}"
  exit 1
fi
say "gpu_check $what: all well"
