"""The examples in docstrings: every public name has one, and all of them run."""

import doctest
import importlib
import inspect
import tempfile
from pathlib import Path

import pytest
import torch

import polygraph
from polygraph.metrics import image_scores

ROOT = Path(polygraph.__file__).parent
PACKAGES = ("analysis", "data", "mesh", "metrics", "models", "nn", "ops", "transforms")
OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def modules_with_examples():
    """Found in the text, so that nothing is imported before its test runs."""
    for path in sorted(ROOT.rglob("*.py")):
        if ">>> " in path.read_text():
            parts = path.relative_to(ROOT.parent).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def public():
    """Every public function and class by its dotted name, but configurations and errors.

    A configuration is shown with what is made of it, and `polygraph.reference` repeats the
    operators.
    """
    packages = [(name, getattr(polygraph, name)) for name in PACKAGES]
    for name, package in [*packages, ("metrics.image_scores", image_scores)]:
        for member in package.__all__:
            found = getattr(package, member)
            if inspect.isfunction(found) or inspect.isclass(found):
                error = inspect.isclass(found) and issubclass(found, BaseException)
                if not error and not member.endswith("Config"):
                    yield f"{name}.{member}", found


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_run(name, tmp_path, monkeypatch):
    """As printed, each with the same random numbers; files and caches in a folder of the test."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("POLYGRAPH_CACHE", str(tmp_path / "cache"))
    module = importlib.import_module(name)
    runner = doctest.DocTestRunner(optionflags=OPTIONS)
    for test in doctest.DocTestFinder(exclude_empty=True).find(module, name):
        torch.manual_seed(0)
        said = []
        runner.run(test, out=said.append)
        assert runner.failures == 0, "".join(said)
    assert runner.tries > 0, "examples of a name that the module does not define"


def test_every_public_name_has_an_example():
    without = [name for name, found in public() if ">>> " not in (found.__doc__ or "")]
    assert without == []
