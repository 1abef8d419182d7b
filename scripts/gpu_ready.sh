#!/usr/bin/env bash
# Prepares what a machine with a GPU and no network needs to run gpu_check.sh: both libraries, for one architecture, in
# build/gpu/lib, and wheels of the Python packages that it may lack in build/gpu/wheels. Nothing is put in its place here.
# PYTHON is the interpreter of the environment that `make setup` made. Of the other machine:
#
#   GPU_ARCH=90       its compute capability
#   GPU_PYTHON=3.12   its Python; PyTorch, PyG and their dependencies must be there, SciPy and safetensors
#   GPU_PACKAGES=     more that it lacks
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-.venv/bin/python}
lib=build/gpu/lib
wheels=build/gpu/wheels
# What the gpu tests and the benchmarks import that is rarely there, or too old; without what is large.
read -ra packages <<<"pytest pluggy iniconfig pytest-timeout hypothesis sortedcontainers trimesh lightning-fabric \
  lightning-utilities jsonargparse ${GPU_PACKAGES:-}"

mkdir -p "$lib/polygraph"
rm -f "$lib/sources"
cp polygraph/_C.abi3.so "$lib/polygraph/" # up to date, after `make setup`; it serves every machine
POLYGRAPH_CUDA=only POLYGRAPH_CUDA_ARCHS=${GPU_ARCH:-90} "$python" setup.py --quiet build_ext \
  --build-lib "$lib" --build-temp build/gpu/temp
bash scripts/gpu_check.sh sources >"$lib/sources"

platforms=()
for platform in manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014 manylinux_2_12 manylinux2010 manylinux1; do
  platforms+=(--platform "${platform}_x86_64")
done
rm -rf "$wheels"
"$python" -m pip --disable-pip-version-check download --quiet --no-deps --only-binary=:all: --implementation cp \
  --python-version "${GPU_PYTHON:-3.12}" "${platforms[@]}" -c constraints.txt --dest "$wheels" "${packages[@]}"

commit=$(git describe --always --dirty --exclude='*' --abbrev=40)
cat <<END
Ready: $(du -cshL "$lib" "$wheels" | tail -1 | cut -f1) in $lib and $wheels, for sm_${GPU_ARCH:-90} and Python ${GPU_PYTHON:-3.12}.
Copy the repository and these two folders to the machine; there, one after the other:
  bash scripts/gpu_check.sh check
  POLYGRAPH_COMMIT=$commit bash scripts/gpu_check.sh time
END
