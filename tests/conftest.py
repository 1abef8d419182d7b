"""What all tests share: markers, the GPU that some need, where real data lies."""

import os
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # as many workers as cores: a thread each
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest
import torch
from support.devices import DRY_RUN, PLACE, PLACES, prepare

REPOSITORY = Path(__file__).resolve().parents[1]

# cuBLAS reads it when CUDA starts. Without it torch may refuse products of matrices where only
# deterministic algorithms are allowed, and cuBLAS does not promise the same bits on two streams.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

# How long an example takes is the machine's business, and the sanitizers'.
hypothesis.settings.register_profile("polygraph", deadline=None)
hypothesis.settings.load_profile("polygraph")


def pytest_configure(config):
    """Declare the markers, so that --strict-markers knows them; check what the environment asks."""
    config.addinivalue_line("markers", "gpu: needs a CUDA device (skipped without one)")
    config.addinivalue_line("markers", "large: needs tens of gigabytes of memory")
    if PLACE not in PLACES:
        wanted = ", ".join(PLACES)
        raise pytest.UsageError(f"POLYGRAPH_GPU_TESTS_ON must be one of {wanted}, got {PLACE!r}")
    if DRY_RUN and os.environ.get("POLYGRAPH_REQUIRE_CUDA") == "1":
        raise pytest.UsageError(f"POLYGRAPH_REQUIRE_CUDA=1 excludes POLYGRAPH_GPU_TESTS_ON={PLACE}")
    prepare()


def pytest_runtest_setup(item):
    """Skip what needs a GPU where there is none; fail if POLYGRAPH_REQUIRE_CUDA=1 wants one."""
    if item.get_closest_marker("gpu") is None or DRY_RUN or torch.cuda.is_available():
        return
    if os.environ.get("POLYGRAPH_REQUIRE_CUDA") == "1":
        pytest.fail("POLYGRAPH_REQUIRE_CUDA=1, but torch finds no CUDA device", pytrace=False)
    pytest.skip("needs a CUDA device")


@pytest.fixture
def data_root():
    """Folder of real data: ``$POLYGRAPH_DATA``, or ``../shared/data`` beside the repository."""
    root = Path(os.environ.get("POLYGRAPH_DATA", REPOSITORY / "../shared/data"))
    if not root.is_dir():
        pytest.skip("no real data here: set POLYGRAPH_DATA")
    return root


@pytest.fixture
def set_threads():
    """``torch.set_num_threads``, undone after the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """The user's cache is left alone: what tests convert and note goes to a folder of theirs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLYGRAPH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _quick_disk():
    """Files are left to the system to write: no test cuts the power, and waiting takes minutes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)  # refuses what is no open file, too
        yield
