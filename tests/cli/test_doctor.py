"""What `polygraph doctor` says of an installation, with the command that puts it right."""

import importlib.metadata

import pytest

import polygraph
from polygraph import _threads
from polygraph.cli import doctor, main


@pytest.fixture
def text(capsys, monkeypatch):
    """A function that runs doctor and returns what it prints, beside no other distribution."""
    monkeypatch.setattr(importlib.metadata, "packages_distributions", dict)

    def run(status=0):
        assert main(["doctor"]) == status
        said = capsys.readouterr().out
        assert said.endswith(("works\n", "does not work\n")[status])
        return said

    return run


@pytest.mark.parametrize(
    ("owners", "others"),
    [
        ([], []),
        (["polygraph_nn"], []),
        (["polygraph-benchmark", "polygraph-nn"], ["polygraph-benchmark"]),
        (["polygraph", "polygraph"], ["polygraph"]),
    ],
)
def test_other_projects_of_the_name(text, monkeypatch, owners, others):
    """Two distributions that install a package `polygraph` overwrite each other's files."""
    found = {"polygraph": owners} if owners else {}
    monkeypatch.setattr(importlib.metadata, "packages_distributions", lambda: found)
    said = text()
    for name in others:
        assert f"{name} {doctor.version_of(name)} installs a package `polygraph`, too" in said
        assert f"pip uninstall {name}, then install polygraph-nn again" in said
    assert said.count("pip uninstall") == len(others)


def test_another_version_is_installed(text, monkeypatch):
    known = {"polygraph-nn": "0.0.7"}
    monkeypatch.setattr(doctor, "version_of", lambda name: known.get(name, "1.0"))
    assert "installed is 0.0.7: this folder comes first on the path" in text()
    known["polygraph-nn"] = polygraph.__version__
    assert "comes first on the path" not in text()


def test_missing_requirements(text, monkeypatch):
    """The status is that of an installation that does not work."""
    missing = {"torch_geometric", "safetensors"}
    found = doctor.version_of
    monkeypatch.setattr(doctor, "version_of", lambda n: None if n in missing else found(n))
    said = text(status=1)
    assert "missing torch_geometric safetensors: pip install torch_geometric safetensors" in said


@pytest.mark.parametrize(
    ("environment", "runtimes", "words"),
    [
        ({}, ["libgomp.so.1"], "waiting       the default of libgomp.so.1: several times slower"),
        ({"OMP_WAIT_POLICY": "active"}, ["libgomp.so.1"], "OMP_WAIT_POLICY=active: several times"),
        (
            {"OMP_WAIT_POLICY": "passive"},
            ["libgomp.so.1"],
            "waiting       OMP_WAIT_POLICY=passive\n",
        ),
        (
            {"GOMP_SPINCOUNT": str(_threads.SPINS)},
            ["libgomp.so.1"],
            f"the same for Python programs: export GOMP_SPINCOUNT={_threads.SPINS}, before torch",
        ),
        ({}, ["libiomp5.so"], "export KMP_BLOCKTIME=1"),
        (
            {},
            ["libgomp-1.so.1", "libgomp.so.1"],
            "libgomp-1.so.1 and libgomp.so.1 have threads each, which compete",
        ),
    ],
)
def test_waiting(text, monkeypatch, environment, runtimes, words):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(_threads, "openmp_runtimes", lambda: runtimes)
    said = text()
    assert words in said
    assert ("compete" in said) == (len(runtimes) > 1)


def test_threads_of_a_container(text, monkeypatch, set_threads):
    set_threads(4)
    monkeypatch.setattr(_threads, "processors", lambda: 64)
    monkeypatch.setattr(_threads, "container_processors", lambda: 2.0)
    said = text()
    assert "threads       4 on 64 processors, of which this container has the time of 2" in said
    assert "export OMP_NUM_THREADS=2" in said
    set_threads(2)
    assert "OMP_NUM_THREADS" not in text()
