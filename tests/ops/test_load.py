"""Every way in which the compiled library fails to load ends in one readable error."""

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import polygraph.ops
from polygraph import _load


@pytest.fixture
def fresh(monkeypatch):
    """`_load` as if nothing had been loaded; the real state afterwards."""
    _load.load_libraries.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    _load.load_libraries.cache_clear()
    _load.load_libraries()


def garbage(folder, name="_C.abi3.so"):
    """A file that is no library."""
    path = folder / name
    path.write_bytes(b"this is no library" * 100)
    return path


def test_loads_once():
    """Loading again is free and harmless."""
    _load.load_libraries()
    _load.load_libraries()
    assert torch.ops.polygraph.instruction_set() in (0, 1, 2)


def test_compiled_graphs_of_other_versions_are_not_taken(monkeypatch, tmp_path):
    """The cache on disk knows an operator by its name: its derivatives may have changed."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    config = importlib.import_module("torch.compiler.config")

    def compile_again():
        """Compile a layer as a new process would, and say whether the cache had it."""
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        x = torch.ones(1, 3, 1, requires_grad=True)
        table = torch.tensor([[0, 1], [1, 2]])
        torch.compile(polygraph.ops.resample)(x, table, torch.ones(2, 2)).sum().backward()
        counters = torch._dynamo.utils.counters["aot_autograd"]
        return counters["autograd_cache_hit"], counters["autograd_cache_miss"]

    assert compile_again() == (0, 1)
    assert compile_again() == (1, 0)
    monkeypatch.setattr(_load, "operators_digest", lambda: "of another version")
    with config.patch(cache_key_tag="the user's own"):
        _load.tag_compile_caches()
        assert config.cache_key_tag == "the user's own polygraph-of another version"
        assert compile_again() == (0, 1)


def test_operators_digest(monkeypatch, tmp_path):
    """It changes with any file of the operators, and with the version."""
    before = _load.operators_digest()
    shutil.copytree(Path(_load.__file__).parent / "ops", tmp_path / "ops")
    monkeypatch.setattr(_load, "__file__", str(tmp_path / "_load.py"))
    assert _load.operators_digest() == before
    with open(tmp_path / "ops" / "ecc" / "derivatives.py", "a") as file:
        file.write("\n")
    assert _load.operators_digest() != before


@pytest.mark.parametrize("stem", ["_C", "_C_cuda"])
def test_library_names_no_folder_of_its_machine(stem):
    """Neither messages nor assertions show where the library was built: here, as a rule."""
    path = _load.find_library(stem)
    if path is None:
        pytest.skip(f"{stem} was not built")
    content = path.read_bytes()
    source = Path(__file__).resolve().parents[2]
    for folder in (source, Path(torch.__file__).resolve().parent, Path.home()):
        if folder != Path("/"):
            assert f"{folder}/".encode() not in content
    assert b"csrc/common/" in content  # the sources are there, by their names


def test_missing_library(fresh):
    """Not built: says so, names the torch in use and how to rebuild."""
    fresh.setattr(_load, "find_library", lambda stem: None)
    with pytest.raises(
        _load.LibraryError, match="compiled library polygraph/_C is missing"
    ) as info:
        _load.load_libraries()
    assert torch.__version__ in str(info.value)
    assert "pip install" in str(info.value)


@pytest.mark.parametrize("version", ["2.9.1", "2.9.0+cpu", "1.13.1", "2.0.0a0+git123"])
def test_torch_too_old(fresh, version):
    """An old torch is named before any library is touched, also where 2.9 > 2.10 as text."""
    fresh.setattr(torch, "__version__", version)
    fresh.setattr(_load, "find_library", lambda stem: pytest.fail("looked for a library"))
    with pytest.raises(_load.LibraryError, match=r"needs torch >= 2\.10, found " + version[:3]):
        _load.load_libraries()


@pytest.mark.parametrize("version", ["2.10.0", "2.13.0+cpu", "3.0.0", "2.11.0a0+gitabc"])
def test_torch_new_enough(fresh, version):
    """Newer versions, nightly builds among them, are accepted."""
    fresh.setattr(torch, "__version__", version)
    _load.load_libraries()


def test_library_that_does_not_load(fresh, tmp_path):
    """A file that is no library: its name, the cause, the torch, how to rebuild."""
    path = garbage(tmp_path)
    fresh.setattr(_load, "find_library", lambda stem: path)
    with pytest.raises(_load.LibraryError, match=r"_C\.abi3\.so does not load with torch") as info:
        _load.load_libraries()
    message = str(info.value)
    assert torch.__version__ in message
    assert "invalid ELF header" in message or "file too short" in message or "not a" in message
    assert "pip install" in message


def test_cuda_library_that_does_not_load(fresh, tmp_path):
    """With a CUDA torch the CUDA library is loaded as well, and its failure is told."""
    path = garbage(tmp_path, "_C_cuda.abi3.so")
    cpu = _load.find_library("_C")
    fresh.setattr(_load, "find_library", lambda stem: {"_C": cpu, "_C_cuda": path}[stem])
    fresh.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(_load.LibraryError, match=r"_C_cuda\.abi3\.so does not load.*CUDA: 13\.0"):
        _load.load_libraries()


def test_cuda_library_is_left_alone_without_cuda(fresh, tmp_path):
    """A CPU torch never opens the CUDA library, which it could not load."""
    path = garbage(tmp_path, "_C_cuda.abi3.so")
    cpu = _load.find_library("_C")
    fresh.setattr(_load, "find_library", lambda stem: {"_C": cpu, "_C_cuda": path}[stem])
    fresh.setattr(torch.version, "cuda", None)
    _load.load_libraries()


def test_missing_cuda_library_is_fine(fresh):
    """A CPU build of ours works with a CUDA torch, on the CPU."""
    cpu = _load.find_library("_C")
    fresh.setattr(_load, "find_library", lambda stem: cpu if stem == "_C" else None)
    fresh.setattr(torch.version, "cuda", "13.0")
    _load.load_libraries()


def test_library_error_is_an_import_error():
    """So that `except ImportError` around an optional polygraph works."""
    assert issubclass(_load.LibraryError, ImportError)


@pytest.mark.parametrize("library", ["missing", "garbage"])
def test_import_in_a_fresh_process(tmp_path, library):
    """``import polygraph.ops`` from a folder without a working library ends in that error."""
    package = Path(_load.__file__).parent
    copy = tmp_path / "polygraph"
    ignore = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(package, copy, ignore=ignore)
    if library == "garbage":
        garbage(copy)
    run = subprocess.run(
        [sys.executable, "-c", "import polygraph.ops"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert run.returncode != 0
    last = run.stderr.strip().splitlines()[-1]
    wanted = "is missing" if library == "missing" else "does not load"
    assert last.startswith("polygraph._load.LibraryError: polygraph: ")
    assert wanted in last


def test_library_needs_torch_by_its_stable_abi_alone() -> None:
    """No C++ symbol of torch is imported, so that one build serves every torch >= 2.10."""
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("needs nm")
    library = _load.find_library("_C")
    listing = subprocess.run(
        [nm, "-D", "--undefined-only", str(library)], capture_output=True, text=True, check=True
    ).stdout
    symbols = [line.split()[-1] for line in listing.splitlines()]
    assert "aoti_torch_library_init_fragment" in symbols
    foreign = [s for s in symbols if re.match(r"_ZNK?(2at|3c10|5torch)", s)]
    assert not foreign
