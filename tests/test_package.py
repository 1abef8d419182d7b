"""What `import polygraph` shows, and what it costs."""

import subprocess
import sys
from pathlib import Path

import pytest

import polygraph

SLOW = ("torch_geometric", "scipy", "matplotlib", "lightning", "lightning_fabric", "torchmetrics")
REPOSITORY = Path(polygraph.__file__).parents[1]


def loaded_by(statement):
    """Which of `SLOW`, and which of our modules, a process has imported after a statement."""
    code = f"import sys\n{statement}\nprint('\\n'.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    names = set(done.stdout.split())
    return names & set(SLOW), {name for name in names if name.startswith("polygraph.")}


def test_import_polygraph_imports_nothing_else():
    slow, ours = loaded_by("import polygraph")
    assert slow == set()
    assert ours == {"polygraph._lazy", "polygraph._names"}
    assert loaded_by("import polygraph; dir(polygraph); polygraph.__all__")[1] == ours


def test_what_is_slow_to_import_waits():
    """But for transforms, which are PyG's: importing them imports it."""
    names = set(polygraph.__all__) - {"transforms"}
    look = "; ".join(f"dir(polygraph.{name})" for name in sorted(names))
    slow, ours = loaded_by(f"import polygraph; {look}")
    assert {f"polygraph.{name}" for name in names} <= ours
    assert slow == set()


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(AttributeError, match="'polygraph' has no attribute 'model'; did you mean"):
        _ = polygraph.model
    with pytest.raises(AttributeError, match="did you mean 'EdgeConv'"):
        _ = polygraph.nn.EdgeConf
    assert not hasattr(polygraph.nn, "__wrapped__")


def test_types_are_shipped():
    assert (REPOSITORY / "polygraph" / "py.typed").is_file()
    settings = (REPOSITORY / "pyproject.toml").read_text()
    assert '"py.typed"' in settings[settings.index("[tool.setuptools.package-data]") :]
