"""Names that come from files are text in reports: no HTML, no link, no end of a cell."""

import json
import re

import pytest
from grids import write_grid

from polygraph._text import markdown_text
from polygraph.models.mesh.pretrained import _table
from polygraph.report.grid_rows import read_rows
from polygraph.report.page import build_payload, page
from polygraph.report.summary import markdown_summary

NAMES = ["<img src=x onerror=1>", "x](http://x)", "[x](http://x)", "a | b", "</script>", "a\n\n# b"]


def unsafe(text):
    """What Markdown would take for more than text."""
    return re.search(r"<\w|</|\[|://", text)


@pytest.mark.parametrize(
    "name", NAMES, ids=["html", "link", "whole-link", "cell", "script", "line"]
)
def test_names_are_text(tmp_path, name):
    rows = write_grid(tmp_path / "grid", models=["full-2"], seeds=(0,), latents=(16,), odd=False)
    keys = ("model", "data", "split", "machine", "torch", "commit", "message", "activation", "norm")
    recipe = {name: name, "factors": [4, name]}
    rows = [{**row, **dict.fromkeys(keys, name), "recipe": recipe} for row in rows]
    path = tmp_path / "results.json"
    path.write_text(json.dumps(rows))
    html = page(name, build_payload(path, budget=1e7), "")
    own = page("title", {}, "")
    assert html.count("<img") == own.count("<img")
    assert html.count("<script") == own.count("<script")
    assert html.count("</script") == own.count("</script")
    table = markdown_summary(read_rows(path))
    lines = table.splitlines()
    cells = {line.count("|") for line in lines if line.startswith("| ")}
    assert len(cells) == 1
    assert sum(line.startswith("#") for line in lines) == len({row["latent"] for row in rows})
    card = "\n".join(_table({name: name, "b": [name]}))
    assert {line.count("|") for line in card.splitlines()} == {3}
    for text in (table, card, markdown_text(name)):
        assert not unsafe(text), text
