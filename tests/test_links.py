"""External links, as far as they can be checked without a network (`make links` does the rest)."""

import importlib.util
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
SPEC = importlib.util.spec_from_file_location("links", REPOSITORY / "scripts" / "links.py")
links = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(links)


def test_links_have_a_shape_and_papers_a_source():
    found = dict(links.links())
    assert {"docs/sources.md", "datasets/coma.md"} <= set(found.values())
    assert links.faults() == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("see http://doi.org for it", "is no address of doi.org: empty"),
        ("[paper](https://doi.org/5.726791)", "is no address of doi.org: /5.726791"),
        ("<https://arxiv.org/abs/203.3828>", "is no address of arxiv.org"),
        ("https://arxiv.org/pdf/2003.03828", "is no address of arxiv.org: /pdf/2003.03828"),
        ("https://arxiv.org/abs/2003.03829.", "abs/2003.03829 is not in docs/sources.md"),
        ("arXiv:2003.03829", "2003.03829 is not in docs/sources.md"),
        ("doi: 10.1109/1.2", "10.1109/1.2 is not in docs/sources.md"),
        ("https:///coma.is.tue.mpg.de", "has no host"),
        ("https://localhost/x", "has no host"),
        ("https://arxiv.org/abs/2003.03828, arXiv 2003.03828 and https://coma.is.tue.mpg.de", None),
    ],
)
def test_bad_links_are_found(text, message, tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "sources.md").write_text("https://arxiv.org/abs/2003.03828")
    (tmp_path / "README.md").write_text(f"# Page\n\n{text}\n")
    found = links.faults(tmp_path)
    assert (found == []) if message is None else (message in found[0])


def test_a_server_that_does_not_answer():
    assert "does not answer" in links.answer("http://127.0.0.1:9/", timeout=1)
