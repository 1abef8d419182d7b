"""Rows of a grid: every fault named, and what may be compared with what."""

import json
import math

import numpy as np
import pytest
from support.grids import row, write_grid

from polygraph.cli import main
from polygraph.report.grid_rows import SCHEMA, GridError, Model, Spread, make_views, read_rows


def grid(**changes):
    settings = {"split": "interpolation", "latent": 16, "seed": 0}
    return {**row("full-2", **settings), **changes}


def write(folder, rows):
    (folder / "results.json").write_text(json.dumps(rows))
    return folder


def test_good_rows(tmp_path):
    rows = write_grid(tmp_path)
    assert read_rows(tmp_path) == read_rows(tmp_path / "results.json") == rows


@pytest.mark.parametrize("key", SCHEMA)
def test_every_key_is_needed_and_has_a_type(tmp_path, key):
    good = grid()
    with pytest.raises(GridError, match=f"row 1: lacks {key}$"):
        read_rows(write(tmp_path, [good, {k: v for k, v in good.items() if k != key}]))
    with pytest.raises(GridError, match=f"row 0: {key} must be .* got True"):
        read_rows(write(tmp_path, [grid(**{key: True})]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "cnn"}, "family must be one of first-order, .*, got 'cnn'"),
        ({"status": "running"}, "status must be one of done, diverged"),
        ({"quantiles_mm": [1.0] * 100}, "quantiles_mm must be 101 numbers"),
        ({"quantiles_mm": ["a"] * 101}, "quantiles_mm must be 101 numbers"),
        ({"recipe_hash": None}, "recipe_hash must be null for family linear"),
        ({"family": "linear"}, "recipe_hash must be null for family linear"),
    ],
)
def test_bad_values(tmp_path, changes, message):
    with pytest.raises(GridError, match=message):
        read_rows(write(tmp_path, [grid(**changes)]))


def test_no_grid(tmp_path):
    with pytest.raises(GridError, match=r"no grid here: results\.json is missing"):
        read_rows(tmp_path)
    for text in ("{", "[]", "{}", "[1]", json.dumps([grid(mean_mm=math.nan)])):
        (tmp_path / "results.json").write_text(text)
        with pytest.raises(GridError, match=r"results\.json"):
            read_rows(tmp_path)


def test_a_missing_seed_gives_no_average():
    assert Spread.of([1.0, 3.0]) == Spread(2.0, math.sqrt(2), [1.0, 3.0])
    assert Spread.of([1.0, None]) == Spread(None, None, [1.0, None])
    assert Spread.of([5]) == Spread(5.0, None, [5])
    assert Spread.of([]) == Spread(None, None, [])


def test_only_like_is_compared_with_like(tmp_path):
    rows = write_grid(tmp_path, splits=("a", "b"), odd=False)
    other = [{**r, "recipe_hash": "other"} for r in rows if r["seed"] == 0]
    views = make_views(rows + other)
    keys = [(v.split, v.latent, v.recipe_hash == "other") for v in views]
    assert keys == [(s, n, o) for o in (False, True) for s in "ab" for n in (8, 16)]
    for view in views:
        names = [m.name for m in view.models]
        assert {"pca", "mean-shape"} <= set(names)  # the latter has no latents: beside all
        for model in view.models:
            assert {r["latent"] for r in model.rows} <= {0, view.latent}
            assert {r["split"] for r in model.rows} == {view.split}


def test_what_is_missing_is_known(tmp_path):
    rows = write_grid(tmp_path)
    eight, sixteen = make_views(rows)
    assert eight.missing_models == []
    assert sixteen.missing_models == ["gat"]
    skip = next(m for m in eight.models if m.name == "skip-2")
    assert skip.missing_seeds == [1]
    gat = next(m for m in eight.models if m.name == "gat")
    assert gat.spread("mean_mm").mean is None
    assert gat.count("nonfinite") is None
    assert [r["seed"] for r in gat.from_median()] == [0, 1]
    edge = next(m for m in eight.models if m.name == "edgeconv")
    assert edge.quantiles()[100] is None
    assert edge.quantiles()[99] is not None
    assert edge.count("nonfinite") == 6


def test_runs_from_the_median_outwards():
    def seeds(*errors):
        rows = [{"seed": n, "mean_mm": error} for n, error in enumerate(errors)]
        return [r["seed"] for r in Model("full-2", rows).from_median()]

    assert seeds(5.0) == [0]
    assert seeds(9.0, 5.0) == [1, 0]
    assert seeds(9.0, 5.0, 7.0) == [2, 1, 0]
    assert seeds(None, 5.0, 7.0, 6.0) == [3, 1, 2, 0]


def test_models_of_one_name_are_told_apart():
    rows = [grid(), grid(group_hash="f" * 64)]
    assert sorted(m.name for m in make_views(rows)[0].models) == sorted(
        f"full-2 ({r['group_hash'][:6]})" for r in rows
    )


def test_linear_models_alone_have_a_view():
    pca, mean = (row(n, split="a", latent=8, seed=0) for n in ("pca", "mean-shape"))
    (view,) = make_views([mean, pca])
    assert (view.latent, view.recipe, [m.name for m in view.models]) == (
        8, None, ["pca", "mean-shape"],
    )  # fmt: skip
    (view,) = make_views([mean])
    assert [m.name for m in view.models] == ["mean-shape"]


def test_errors_by_order_on_one_mesh(tmp_path):
    """The models by their order, errors in mm of the run with the median error."""
    figures = pytest.importorskip("polygraph.report.order_figure")
    pytest.importorskip("matplotlib", reason="needs matplotlib (extra [report])")
    grid = tmp_path / "grid"
    rows = write_grid(grid, latents=(8,), odd=False)
    (view,) = make_views(read_rows(grid))
    orders = [model.rows[0]["order"] for model in figures._by_order(view)]
    assert orders == sorted(orders)
    assert len(orders) > 2
    (path,) = figures.write_order_figures(grid, tmp_path / "errors", mesh=1)
    assert path.name == "spheres-interpolation-latent-8-errors.png"
    assert path.read_bytes().startswith(b"\x89PNG")

    (skip,) = figures._named(view, ["skip-2"], "here")
    samples = figures.read_samples(grid, rows[0])
    panel = figures._panel(grid, skip, samples, 1, "here")
    made = np.load(grid / skip.from_median()[0]["run"] / "samples.npy")[1]
    wanted = 1000 * np.linalg.norm(made.astype(float) - samples.inputs[1], axis=1)
    np.testing.assert_allclose(panel.errors, wanted, rtol=1e-12)

    for options, message in (
        ({"models": ["full-9"]}, "has no model full-9, only full-4, full-3"),
        ({"mesh": 99}, "mesh must be one of"),
    ):
        with pytest.raises(GridError, match=message):
            figures.write_order_figures(grid, tmp_path, **options)
    made = np.load(grid / skip.from_median()[0]["run"] / "samples.npy")
    made[0, 3] = np.nan
    np.save(grid / skip.from_median()[0]["run"] / "samples.npy", made)
    with pytest.raises(GridError, match="mesh 0 of skip-2 is not finite"):
        figures.write_order_figures(grid, tmp_path, models=["skip-2"])
    with pytest.raises(GridError, match="no test meshes here"):
        figures.write_order_figures(grid / "results.json", tmp_path)


def test_the_command(tmp_path, capsys):
    pytest.importorskip("plotly", reason="needs plotly (extra [report])")
    write_grid(tmp_path / "grid")
    out = tmp_path / "report.html"
    charts = tmp_path / "charts"
    words = ["report", str(tmp_path / "grid"), "--out", str(out), "--charts", str(charts)]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert f"wrote {out}" in said
    for latent in (8, 16):
        picture = charts / f"spheres-interpolation-latent-{latent}.png"
        assert f"wrote {picture}" in said
        assert picture.read_bytes().startswith(b"\x89PNG")
    assert main(["report", str(tmp_path), "--out", str(out)]) == 1
    assert "no grid here" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "grid"), "--max-mb", "0"]) == 2
    assert "max-mb must be positive" in capsys.readouterr().err
