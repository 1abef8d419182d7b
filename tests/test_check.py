"""`make check`: its list names tests that exist, and one for every operator."""

import re
from pathlib import Path

import pytest

from polygraph import ops

ROOT = Path(__file__).resolve().parents[1]
LISTED = (ROOT / "tests" / "check.txt").read_text().split()


@pytest.mark.parametrize("test", LISTED)
def test_listed_tests_exist(test):
    path, *names = test.split("::")
    text = (ROOT / path).read_text()
    *classes, function = names or [None]
    for name in classes:
        assert re.search(rf"^class {name}\(", text, re.MULTILINE), name
    if function is not None:  # of a class: it may be the contract's
        text += (ROOT / "tests" / "support" / "contract.py").read_text() if classes else ""
        assert re.search(rf"^ *def {function}\(", text, re.MULTILINE), function


def test_every_operator_is_checked():
    """Some listed file imports or calls it."""
    texts = "".join((ROOT / test.split("::")[0]).read_text() for test in LISTED)
    assert [name for name in ops.__all__ if not re.search(rf"\b{name}\b", texts)] == []


def test_the_makefile_runs_the_list():
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(r"^check: setup\n(\t.*\n)*\t.*@tests/check\.txt", makefile, re.MULTILINE)
    assert "fifteen to twenty minutes" in makefile
