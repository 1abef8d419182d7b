"""The page's script without a browser: what it gives plotly to draw, and what it says."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from support.grids import MODELS, row

from polygraph.report.page import build_payload, script

pytest.importorskip("matplotlib", reason="needs matplotlib (extra [report])")
NODE = shutil.which("node")


def drawn(tmp_path, rows):
    """Charts and texts of the first view of these rows."""
    (tmp_path / "results.json").write_text(json.dumps(rows))
    (tmp_path / "script.js").write_text(script())
    payload = build_payload(tmp_path / "results.json", budget=1e7)
    (tmp_path / "payload.json").write_text(json.dumps(payload))
    stub = Path(__file__).with_name("stub_page.js")
    done = subprocess.run(
        [NODE, stub, tmp_path / "script.js", tmp_path / "payload.json"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(NODE is None, reason="needs node")
def test_charts_and_headline(tmp_path):
    """One point for each order, the names of the axes' lines, the lowest error of all."""
    rows = [row(name, split="a", latent=8, seed=0) for name in MODELS]
    other = row("first-order", split="a", latent=8, seed=0)
    rows.append(other | {"model": "first-order-spiralnet++", "group_hash": "other"})
    next(r for r in rows if r["model"] == "pca")["mean_mm"] = 3.25
    page = drawn(tmp_path, rows)
    assert page["ready"] == "true"
    assert "never saw is 3.25 mm, by pca, against" in page["texts"]["lead"]
    lines = [t for t in page["charts"]["order"]["traces"] if t["mode"] == "lines+markers"]
    assert [t["name"] for t in lines] == [
        "simple", "full", "full, no activations", "skip",
    ]  # fmt: skip
    for line in lines:
        orders = [round(x) for x in line["x"]]
        assert orders == sorted(set(orders))
        assert orders[0] == 1
    assert {"size", "time", "cumulative", "order"} == set(page["charts"])
