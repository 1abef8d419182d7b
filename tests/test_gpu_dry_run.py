"""The tests marked `gpu` where there is no GPU, and what they need where there is nothing else."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ONE = "tests/ops/test_transpose_table.py::test_gpu_table"
# A bare machine has torch, torch_geometric, safetensors and what tests are run with; none of these.
ABSENT = """
import sys
absent = "trimesh scipy h5py lightning_fabric lightning jsonargparse PIL tensorboard torchmetrics"
absent += " matplotlib plotly open3d sklearn torch_cluster torch_scatter"
sys.modules.update(dict.fromkeys(absent.split()))  # None: not to be imported
import pytest
sys.exit(pytest.main(sys.argv[1:]))
"""


def pytest_of(*arguments, start=("-m", "pytest"), **environment):
    """Run pytest in a process of its own."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("POLYGRAPH_", "PYTEST_"))}
    return subprocess.run(
        [sys.executable, *start, "-p", "no:cacheprovider", "--durations=0", *arguments],
        cwd=TESTS.parent,
        env=clean | environment,
        capture_output=True,
        text=True,
    )


def files_of_gpu_tests():
    """Test files that have a test marked `gpu`, of their own or by the contract."""
    files = sorted(TESTS.glob("*/test_*.py"))
    return [f for f in files if re.search(r"mark\.gpu|\(OperatorContract\)", f.read_text())]


@pytest.mark.parametrize(
    ("environment", "status", "said"),
    [
        ({"POLYGRAPH_GPU_TESTS_ON": "cpu"}, 0, "1 passed"),
        ({"POLYGRAPH_GPU_TESTS_ON": "gpu"}, 4, "must be one of cuda, cpu, emulated, got 'gpu'"),
        ({"CUDA_VISIBLE_DEVICES": ""}, 0, "1 skipped"),
        ({"CUDA_VISIBLE_DEVICES": "", "POLYGRAPH_REQUIRE_CUDA": "1"}, 1, "finds no CUDA device"),
    ],
)
def test_where_gpu_tests_run(environment, status, said):
    done = pytest_of(ONE, **environment)
    assert done.returncode == status, done.stdout + done.stderr
    assert said in done.stdout + done.stderr


def test_a_dry_run_requires_no_gpu(monkeypatch, request):
    """Who asks for both is told."""
    configure = request.config.pluginmanager.get_plugin(str(TESTS / "conftest.py"))
    monkeypatch.setattr(configure, "DRY_RUN", True)
    monkeypatch.setattr(configure, "PLACE", "cpu")
    monkeypatch.setenv("POLYGRAPH_REQUIRE_CUDA", "1")
    with pytest.raises(pytest.UsageError, match="excludes POLYGRAPH_GPU_TESTS_ON=cpu"):
        configure.pytest_configure(request.config)


def test_gpu_tests_need_few_packages():
    """They are collected without the packages of the extras."""
    files = files_of_gpu_tests()
    assert len(files) >= 10
    done = pytest_of(
        *("--collect-only", "-q", "-m", "gpu", *map(str, files)),
        start=("-c", ABSENT),
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for file in files:
        assert file.name in done.stdout, file
