#!/usr/bin/env bash
# Builds polygraph with the address and undefined-behaviour sanitizers into a folder of its own and runs the operators'
# tests there. First it proves that the set-up finds planted bugs: a check that cannot fail is none.
# Arguments go to pytest. PYTHON is the interpreter of the environment that `make setup` made.
set -euo pipefail
cd "$(dirname "$0")/.."

python=$(realpath --no-symlinks "${PYTHON:-.venv/bin/python}")
compiler=${CXX:-g++}
home=$PWD/build/sanitize
tree=$home/tree # a copy of what the tests need, with the sanitized library inside
export POLYGRAPH_SANITIZE=1 POLYGRAPH_CUDA=0 OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}"

mkdir -p "$home"
rm -rf "${home:?}/tree" "${home:?}/lib"
"$python" setup.py --quiet build --build-lib "$home/lib" --build-temp "$home/temp"
cp -r "$home/lib" "$tree"
cp -r tests pyproject.toml "$tree/"
"$compiler" -std=c++20 -O1 -g -fPIC -shared -fno-omit-frame-pointer \
  -fsanitize=address,undefined -fno-sanitize-recover=undefined scripts/plant.cpp -o "$home/plant.so"

# libasan must come before everything else, and libstdc++ with it, or the first C++ exception ends the process.
# Python never frees all it allocates, so leaks are not looked for.
preload="$("$compiler" -print-file-name=libasan.so) $("$compiler" -print-file-name=libstdc++.so)"
sanitized() {
  env LD_PRELOAD="$preload" ASAN_OPTIONS=detect_leaks=0:strict_init_order=1 UBSAN_OPTIONS=print_stacktrace=1 \
    PYTHONPATH="$tree" "$@"
}

# Runs one planted bug and fails unless the process dies of it with the report that belongs to it.
expect_report() {
  local report=$1 code=$2 log=$home/plant.log
  if sanitized "$python" -c "
import ctypes, torch
plant = ctypes.CDLL('$home/plant.so')
memory = torch.zeros(1000)
values, count = ctypes.c_void_p(memory.data_ptr()), ctypes.c_int64(1000)
$code" >"$log" 2>&1; then
    echo "sanitize: the planted bug '$code' went unnoticed" >&2
    exit 1
  fi
  if ! grep -q "$report" "$log"; then
    cat "$log" >&2
    echo "sanitize: the planted bug '$code' was not reported as '$report'" >&2
    exit 1
  fi
}

# The same process without a bug ends well, so that it is the bug that the next ones die of.
sanitized "$python" -c "import ctypes, torch; ctypes.CDLL('$home/plant.so'); torch.zeros(1000).sum()"
expect_report heap-buffer-overflow 'plant.plant_read_past_end(values, count)'
expect_report heap-buffer-overflow 'plant.plant_write_past_end(values, count)'
expect_report 'signed integer overflow' 'plant.plant_overflow(2**31 - 1)'
echo "sanitize: all three planted bugs were found"

# The library under test is the sanitized one, also for the processes that the tests start.
cd "$tree"
sanitized "$python" -c "
import pathlib, polygraph.ops
from polygraph import _load
library = _load.find_library('_C')
assert library.is_relative_to('$tree'), library
assert b'__asan_report_load' in library.read_bytes(), 'not sanitized'
assert b'__ubsan_handle' in library.read_bytes(), 'not sanitized'
print('sanitize: testing', library)"
# The sanitizers write where torch's headers lie into the library, which its test would find.
sanitized "$python" -m pytest tests/ops \
  --deselect "tests/ops/test_load.py::test_library_names_no_folder_of_its_machine" -m "not gpu and not slow and not large" -p no:cacheprovider "$@"
