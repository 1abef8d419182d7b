"""The scripts for a machine with a GPU, as far as one without can run them."""

import importlib
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[1]
SCRIPT = REPOSITORY / "scripts" / "gpu_check.sh"
SMOKE = REPOSITORY / "scripts" / "gpu_smoke.py"
KERNELS = ("edge_sum_kernel", "resample_kernel")


def environment(**changes):
    """This process's, with the interpreter that runs the tests."""
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"PYTHON": sys.executable, "PYTHONPATH": path} | changes


def smoke(*arguments):
    """A run of the smoke on the CPU."""
    command = [sys.executable, str(SMOKE), "cpu", *arguments]
    return subprocess.run(command, env=environment(), capture_output=True, text=True)


def gpu_check(*arguments, **changes):
    """A run of the script."""
    command = ["bash", str(SCRIPT), *arguments]
    return subprocess.run(command, env=environment(**changes), capture_output=True, text=True)


def limits():
    """The script's table of seconds."""
    table = re.search(r"declare -A LIMIT=\((.*?)\n\)", SCRIPT.read_text(), re.DOTALL).group(1)
    return {name: int(seconds) for name, seconds in re.findall(r"\[(\w+)\]=(\d+)", table)}


# ---- the smoke ----


def test_smoke_passes_on_the_cpu():
    """Every call is valid, float32 and half types are within their tolerance of float64."""
    done = smoke()
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    *lines, last = done.stdout.splitlines()
    checks = int(re.fullmatch(r"smoke \(cpu\): (\d+) checks, 0 failed", last).group(1))
    assert checks == len(lines) > 1000
    assert all(line.startswith("ok ") for line in lines)


@pytest.fixture
def gpu_smoke(monkeypatch):
    """The smoke as a module."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "scripts"))
    return importlib.import_module("gpu_smoke")


@pytest.mark.parametrize("name", ["poly_step D 3 bare", "knn 1x200x1"])
def test_smoke_fails_on_a_wrong_number(name, gpu_smoke, monkeypatch, capsys):
    """One number off, in results within rounding and in exact ones."""
    for planted, status, word in (("nothing", 0, "ok  "), (name, 1, "FAIL")):
        command = ["gpu_smoke.py", "cpu", "--only", name, "--plant", planted, "--dtypes", "float32"]
        monkeypatch.setattr(sys, "argv", command)
        assert gpu_smoke.main() == status
        assert [line[:4] for line in capsys.readouterr().out.splitlines()[:-1]] == [word]


def test_smoke_names_operators_that_it_misses(gpu_smoke, monkeypatch, capsys):
    """An operator of the CUDA library that no check calls fails the run."""
    kernels, operators = gpu_smoke.cuda_kernels(), gpu_smoke.cuda_operators()
    assert {"edge_sum_kernel", "knn_list_kernel", "sum_shares_kernel"} <= kernels
    assert {"spiral_conv_backward_weight", "edge_outer_", "transpose_table"} <= operators
    assert all(hasattr(torch.ops.polygraph, name) for name in operators)
    few = [check for check in gpu_smoke.all_checks() if check.name == "edge_conv linear"]
    monkeypatch.setattr(gpu_smoke, "all_checks", lambda: few)
    monkeypatch.setattr(sys, "argv", ["gpu_smoke.py", "cpu"])
    assert gpu_smoke.main() == 1
    assert "operators that no check calls: edge_dot, " in capsys.readouterr().out
    monkeypatch.setattr(gpu_smoke, "cuda_operators", lambda: {"edge_sum"})
    assert gpu_smoke.main() == 0


def test_smoke_lists_kernels(gpu_smoke):
    """Instances of polygraph's templates, and what of the sources is not among them."""
    names = [f"void polygraph::(anonymous namespace)::{k}<float, 4>(P)" for k in KERNELS]
    first, *lines, last = gpu_smoke.report_of({*names, "void at::native::fill_kernel<float>()"})
    assert first.startswith("2 kernels of polygraph ran")
    assert lines == sorted(names)
    missing = gpu_smoke.cuda_kernels() - set(KERNELS)
    assert last == f"kernels that never ran: {', '.join(sorted(missing))}"


def test_smoke_compares(gpu_smoke):
    """What cannot be right is infinitely wrong: shapes, NaN, and any bit of an exact result."""
    x, difference = torch.tensor([1.0, -2.0]), gpu_smoke.difference
    assert difference(x, x.double(), exact=False) == 0
    assert difference(x + torch.tensor([0.5, 0]), x, exact=False) == 0.25
    assert difference(x, x[:1], exact=False) == float("inf")
    assert difference(x * float("nan"), x, exact=False) == float("inf")
    assert difference(x.nextafter(x + 1), x, exact=True) == float("inf")


# ---- the script ----


def test_script_without_a_gpu():
    """One clear line, and an exit status of its own, before anything else."""
    for what in ("check", "time"):
        done = gpu_check(what, CUDA_VISIBLE_DEVICES="")
        assert done.returncode == 3
        assert done.stdout == ""
        assert re.fullmatch(r"gpu_check: no GPU here: torch .* finds none\n", done.stderr)


@pytest.mark.parametrize("arguments", [(), ("all",), ("check", "--fast"), ("time", "a", "b")])
def test_script_refuses_other_arguments(arguments):
    """A wrong command line is no success."""
    done = gpu_check(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("usage:")


def test_script_ends_in_time():
    """Two commands of at most 330 seconds, and nine minutes together, with all their limits."""
    seconds = limits()
    grace = int(re.search(r"^GRACE=(\d+)", SCRIPT.read_text(), re.MULTILINE).group(1))
    packing = 5
    commands = [seconds.pop(name) + grace + packing for name in ("check", "time")]
    assert max(commands) <= 330
    assert sum(commands) <= 9 * 60
    assert max(seconds.values()) < min(commands)
    # Nothing is started but through `within`, which holds every step to both limits.
    text = SCRIPT.read_text().replace("\\\n", "")
    assert re.findall(r".*\btimeout\b(?!=).*", text) == ['  timeout -k "$GRACE" "$left" "${@:2}"']
    started = [line for line in text.splitlines() if re.search(r'"\$(python|nvcc)" [^]]', line)]
    assert len(started) > 10
    assert [line for line in started if "within " not in line] == []
    steps = set(re.findall(r"\bwithin (\w+)", text))
    assert steps == set(seconds)


def test_script_without_time_left(tmp_path):
    """A step for which there is no time is a failure, not a success."""
    done = gpu_check("check", "--dry-run", OUT=str(tmp_path), GPU_CHECK_SECONDS="0")
    assert done.returncode == 1
    assert "FAILED" in done.stdout


def test_script_lists_all_files_with_gpu_tests(request):
    """No file of this run that has gpu tests is missing: of the whole suite, where it runs."""
    listed = gpu_check("list").stdout.split()
    assert "tests/ops/test_spiral_conv.py" in listed  # through the contract
    assert "tests/ops/test_transpose_table.py" in listed  # by itself
    collected = {
        str(item.path.relative_to(REPOSITORY))
        for item in request.session.items
        if item.get_closest_marker("gpu")
    }
    assert collected <= set(listed)
    assert not [name for name in listed if name.startswith("tests/test_gpu_")]  # have none


def contents(archive):
    """Names and texts of the files in an archive."""
    with tarfile.open(archive) as opened:
        return {m.name: opened.extractfile(m).read().decode() for m in opened.getmembers()}


def test_dry_run_of_check(tmp_path):
    """Every step of ``check``, with the CPU in the place of the GPU."""
    done = gpu_check(
        "check", "--dry-run", OUT=str(tmp_path), TESTS="tests/ops/test_transpose_table.py"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["check.tgz"]
    found = contents(tmp_path / "check.tgz")
    assert "0 failed" in found["smoke.log"]
    assert re.search(r"[1-9]\d*/\d+ tests collected", found["test_transpose_table.log"])
    for tool in ("memcheck", "racecheck", "synccheck", "initcheck"):
        assert f"--tool {tool} --error-exitcode 9" in found[f"plant_{tool}.log"]
        assert found[f"plant_{tool}.log"].endswith(f"plant {tool}\n")
        assert found[f"{tool}.log"].endswith("scripts/gpu_smoke.py cuda --quick\n")
        assert ("kernel_substring=polygraph" in found[f"{tool}.log"]) == (tool != "initcheck")


def test_failed_smoke_leaves_out_the_rest(tmp_path):
    """What follows a failed smoke would say nothing."""
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\ncase "$1" in *gpu_smoke.py) echo "FAIL planted"; exit 1 ;; esac\n'
        f'exec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    done = gpu_check("check", "--dry-run", OUT=str(tmp_path / "out"), PYTHON=str(python))
    assert done.returncode == 1
    assert "smoke: FAILED, exit status 1 FAIL planted" in done.stdout
    assert done.stdout.splitlines()[-1].endswith("1 FAILED: smoke")
    assert set(contents(tmp_path / "out" / "check.tgz")) == {"device.txt", "load.log", "smoke.log"}


def test_dry_run_of_time(tmp_path):
    """Device times and a benchmark, tiny and on the CPU."""
    done = gpu_check("time", "--dry-run", OUT=str(tmp_path), BENCHMARKS="resample")
    assert done.returncode == 0, done.stdout + done.stderr
    found = contents(tmp_path / "time.tgz")
    assert '"ours"' in found["device_times.json"]
    assert '"tiny"' in found["resample.json"]
    broken = gpu_check("time", "--dry-run", OUT=str(tmp_path), BENCHMARKS="nothing")
    assert broken.returncode == 1
    assert "bench_nothing: FAILED" in broken.stdout


@pytest.mark.slow
@pytest.mark.parametrize("what", ["check", "time"])
def test_dry_run_of_everything(what, tmp_path):
    """All files with gpu tests, all benchmarks."""
    done = gpu_check(what, "--dry-run", OUT=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr


def test_planted_bugs_compile(tmp_path):
    """The program for the sanitizers, where nvcc is."""
    found = subprocess.run(["bash", "-c", "command -v nvcc"], capture_output=True, text=True)
    if found.returncode != 0:
        pytest.skip("no nvcc here")
    source, program = REPOSITORY / "scripts" / "plant.cu", tmp_path / "plant"
    options = ["-arch=sm_90", "-std=c++17", "-Werror", "all-warnings", "-o", str(program)]
    subprocess.run([found.stdout.strip(), *options, str(source)], check=True)
    assert subprocess.run([str(program), "rubbish"], capture_output=True).returncode in (2, 3)
