"""The report in headless Chromium: it renders, without errors, and its controls work."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from support.grids import MODELS, write_grid

from polygraph.report import grid_rows, palette
from polygraph.report import page as page_module
from polygraph.report.grid_rows import GridError
from polygraph.report.page import build_payload, script, write_report

pytest.importorskip("plotly", reason="needs plotly (extra [report])")
WAIT = 180_000  # milliseconds: scenes are drawn in software, maybe beside other work


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    rows = write_grid(folder / "grid")
    return rows, write_report(folder / "grid", folder / "out" / "report.html", title="A <b>title")


@pytest.fixture(scope="module")
def page(browser, report):
    """The open page; ``page.complaints`` collects what the console and the scripts complain of."""
    opened = browser.new_page(viewport={"width": 1320, "height": 900})
    opened.set_default_timeout(WAIT)
    opened.complaints = []
    opened.on("console", lambda m: m.type == "error" and opened.complaints.append(m.text))
    opened.on("pageerror", lambda error: opened.complaints.append(str(error)))
    opened.on("request", lambda r: r.url.startswith("http") and opened.complaints.append(r.url))
    opened.goto(report[1].as_uri(), wait_until="domcontentloaded")
    opened.wait_for_selector("html[data-ready]")
    yield opened
    assert opened.complaints == []
    opened.close()


def names(page):
    return page.eval_on_selector_all(
        "#table tbody tr td:first-child", "cells => cells.map(c => c.textContent)"
    )


def latent(page, value):
    page.click(f"#views button:text-is('{value}')")


def test_the_file_is_whole_and_small(report):
    text = report[1].read_text("utf-8")
    assert report[1].stat().st_size < 15e6
    assert "{{" not in text.split("<script>")[0]
    assert "<title>A &lt;b&gt;title</title>" in text
    ours = text.split('id="payload"')[0] + text.rsplit("<script>", 1)[1]
    for address in ("http:", "https:", "url("):
        assert address not in ours
    assert [path.name for path in report[1].parent.iterdir()] == ["report.html"]


@pytest.mark.parametrize(("main", "least"), [("main.js", 6), ("slice_main.js", 3)])
def test_the_script_is_joined_from_modules(main, least):
    """What a module imports stands before it, once; no name is declared twice."""
    folder = Path(page_module.__file__).parent / "assets" / "script"
    joined = script(main)
    assert not re.search(r"^\s*(import|export)\b", joined, re.MULTILINE)
    texts = {module: module.read_text("utf-8") for module in sorted(folder.iterdir())}
    modules = [module for module, text in texts.items() if text.splitlines()[0] in joined]
    assert len(modules) >= least
    assert folder / main in modules
    for module in modules:
        text = texts[module]
        assert joined.count(text.splitlines()[0]) == 1  # what it is about
        assert max(map(len, text.splitlines())) <= 120, module
        for needed in re.findall(r'from "\./(\w+\.js)"', text):
            first, second = (folder / needed).read_text("utf-8"), text
            assert joined.index(first.splitlines()[0]) < joined.index(second.splitlines()[0])
    names = re.findall(r"^(?:function|const|let) (\$|\w+)", joined, re.MULTILINE)
    assert len(names) == len(set(names))


def test_every_module_is_of_a_script():
    folder = Path(page_module.__file__).parent / "assets" / "script"
    scripts = script() + script("slice_main.js")
    assert all(m.read_text("utf-8").splitlines()[0] in scripts for m in folder.iterdir())


def test_every_family_has_a_look():
    assert tuple(palette.FAMILIES) == grid_rows.FAMILIES
    assert len({look.color for look in palette.FAMILIES.values()}) == len(palette.FAMILIES)


def test_it_renders(page):
    assert page.inner_text("h1") == "A <b>title"
    assert page.locator("#order .scatterlayer .trace").count() >= 6
    for chart in ("size", "time", "cumulative"):
        assert page.locator(f"#{chart} .scatterlayer .trace").count() > 5
    assert "full-4" in page.inner_text("#lead")
    assert page.complaints == []


def test_the_table_shows_the_rows(page, report):
    latent(page, 8)
    here = [r for r in report[0] if r["latent"] in (0, 8)]
    full = [r["mean_mm"] for r in here if r["model"] == "full-4"]
    line = page.locator("#table tbody tr", has_text="full-4").first
    cells = line.locator("td").all_inner_texts()
    assert cells[2] == f"{np.mean(full):.2f} ± {np.std(full, ddof=1):.2f}"
    best = page.eval_on_selector_all(
        "#table td.best", "cells => cells.map(c => c.parentNode.firstChild.textContent)"
    )
    assert best[0] == "full-4"
    assert "first-order-noact" in best  # the fewest parameters among networks, though not of all
    assert "mean-shape" not in best


def test_sorting(page):
    latent(page, 8)
    page.click("#table th[data-key=parameters]")
    assert page.get_attribute("#table th[data-key=parameters]", "aria-sort") == "ascending"
    wanted = sorted(MODELS, key=lambda name: MODELS[name][5])
    assert names(page) == wanted
    page.click("#table th[data-key=parameters]")
    assert [MODELS[n][5] for n in names(page)] == sorted(m[5] for m in MODELS.values())[::-1]
    page.focus("#table th[data-key=name]")
    page.keyboard.press("Enter")
    assert names(page) == sorted(MODELS)
    for _ in range(2):  # no number comes last in either direction
        page.click("#table th[data-key=mean_mm]")
        assert set(names(page)[-2:]) == {"gat", "edgeconv"}


def test_nothing_is_dropped(page):
    latent(page, 8)
    said = page.inner_text("#coverage")
    assert "Seeds not run yet: skip-2 (seed 1)" in said
    assert "Training diverged: gat (1 of 2)" in said
    assert "not finite: edgeconv" in said
    line = page.locator("#table tbody tr", has_text="gat").first
    assert "diverged" in line.inner_text()
    for note in ("size-note", "time-note"):
        assert "gat, edgeconv" in page.inner_text(f"#{note}")
    assert "gat" in page.inner_text("#cumulative-note")
    runs = page.inner_text("#runs")
    assert "the loss is nan in step 812 </script><b>&" in runs
    assert "not run yet" in runs
    latent(page, 16)
    assert "Not run here yet: gat." in page.inner_text("#coverage")
    assert page.locator("#table tr.absent").inner_text().split("\t") == ["gat", "not run yet"]


def test_a_model_that_went_astray_does_not_press_the_others_flat(page):
    latent(page, 16)
    for chart in ("order", "size", "time"):
        low, high = page.evaluate(f"document.getElementById('{chart}')._fullLayout.yaxis.range")
        assert 5 < low < 20
        assert 25 < high < 60
        said = page.inner_text(f"#{chart}-note")
        assert "Beyond the picture: simple-3 (1." in said
        assert "× 10¹⁹ mm" in said
    end = page.evaluate("document.getElementById('cumulative')._fullLayout.xaxis.range[1]")
    assert 20 < end < 150
    assert "× 10¹⁹ ± " in page.locator("#table tbody tr", has_text="simple-3").inner_text()


def test_choosing_time(page):
    page.select_option("#time-key", "seconds")
    title = page.locator("#time .xtitle")
    assert title.inner_html() == "training in s"
    page.select_option("#time-key", "inference_16_ms")
    assert title.inner_html() == "inference, 16 meshes in ms"


def drawn(page, model):
    """Vertices and colours of the scene of a model, as plotly holds them."""
    return page.evaluate(
        """model => {
            const place = document.querySelector(`.mesh[data-model="${model}"] .stage`);
            const {x, y, z, intensity, i} = place.data[0];
            const colors = intensity && [...intensity];
            return {x: [...x], y: [...y], z: [...z], intensity: colors, n: i.length};
        }""",
        model,
    )


def test_meshes_and_their_slider(page, report):
    latent(page, 16)
    page.locator("#mesh-section").scroll_into_view_if_needed()
    page.wait_for_selector(".mesh:nth-child(4) canvas")
    shown = page.eval_on_selector_all(".mesh", "all => all.map(m => m.dataset.model)")
    assert shown == ["input", "pca", "first-order", "full-4"]
    assert "1 of 6" in page.inner_text("#sample")
    before, limit = drawn(page, "full-4"), page.inner_text("#ramp-top")
    assert len(before["x"]) == 642
    assert before["n"] == 1280
    assert max(before["intensity"]) <= 1
    page.evaluate("() => { const s = document.getElementById('slider'); s.value = 3;"
                  " s.dispatchEvent(new Event('input')); }")  # fmt: skip
    assert "4 of 6 · sphere/3 · no. 30" in page.inner_text("#sample")
    assert drawn(page, "full-4")["x"] != before["x"]
    assert page.inner_text("#ramp-top") != limit
    page.click("#previous")
    assert "3 of 6" in page.inner_text("#sample")
    page.click("#next")
    page.click("#next")
    page.click("#next")
    page.click("#next")
    assert "1 of 6" in page.inner_text("#sample")
    assert drawn(page, "full-4") == before


def test_drawn_meshes_are_the_true_ones(page, report, tmp_path):
    latent(page, 16)
    page.locator("#mesh-section").scroll_into_view_if_needed()
    page.wait_for_selector(".mesh:nth-child(4) canvas")
    folder = report[1].parent.parent / "grid"
    row = sorted((r for r in report[0] if (r["model"], r["latent"]) == ("full-4", 16)),
                 key=lambda r: r["mean_mm"])[0]  # fmt: skip
    made = np.load(folder / row["run"] / "samples.npy")[0]
    true = np.load(folder / "meshes" / "spheres" / "interpolation" / "inputs.npy")[0]
    assert f"(seed {row['seed']})" in page.inner_text(".mesh[data-model=full-4]")
    got = drawn(page, "full-4")
    got = np.stack([got["x"], got["y"], got["z"]], 1)
    size = np.ptp(true, axis=0).max()

    def distances(x):
        centered = x - (x.max(0) + x.min(0)) / 2
        return np.linalg.norm(centered[:, None] - centered[None, ::40], axis=2)

    # Turned, but congruent; differences of up to 20 mm in 127 steps.
    np.testing.assert_allclose(distances(got), distances(made), atol=4e-3 * size)
    page.click("#chips button:text-is('edgeconv')")
    page.click("#next")
    assert "4 vertices not finite" in page.inner_text(".mesh[data-model=edgeconv]")
    black = np.array(drawn(page, "edgeconv")["intensity"]) == 1
    assert black.sum() == 4
    page.click("#chips button:text-is('edgeconv')")
    assert page.locator(".mesh").count() == 4
    page.click("#previous")


def test_a_screenshot_is_not_empty(page, tmp_path):
    image = pytest.importorskip("PIL.Image")
    page.locator("#mesh-section").scroll_into_view_if_needed()
    page.wait_for_selector(".mesh:nth-child(4) canvas")
    page.wait_for_function(
        "() => [...document.querySelectorAll('.mesh .stage')].every(s => s._fullLayout)"
    )
    page.wait_for_timeout(1500)
    page.locator(".mesh:nth-child(4)").screenshot(path=str(tmp_path / "mesh.png"))
    pixels = np.asarray(image.open(tmp_path / "mesh.png").convert("RGB")).reshape(-1, 3)
    strong = (pixels.max(1).astype(int) - pixels.min(1)) > 60  # the colours of errors
    assert strong.mean() > 0.02


@pytest.mark.parametrize("grid", ["grid", "grid/results.json"])
def test_a_grid_without_meshes_and_costs(browser, tmp_path, grid):
    rows = write_grid(tmp_path / "grid", latents=(16,), seeds=(0,), odd=False)
    import shutil

    shutil.rmtree(tmp_path / "grid" / "meshes")
    for r in rows:
        r.update(inference_1_ms=None, inference_16_ms=None, train_step_ms=None, peak_mib=None)
    (tmp_path / "grid" / "results.json").write_text(json.dumps(rows[:1] + rows[-1:]))
    page = browser.new_page()
    page.set_default_timeout(WAIT)
    complaints = []
    page.on("console", lambda m: m.type == "error" and complaints.append(m.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    path = write_report(tmp_path / grid, tmp_path / "r.html")
    page.goto(path.as_uri(), wait_until="domcontentloaded")
    page.wait_for_selector("html[data-ready]")
    assert "has written no meshes" in page.inner_text("#mesh-caption")
    assert "has not come to that" in page.inner_text("#table-note")
    assert page.input_value("#time-key") == "seconds"
    assert page.is_hidden("#coverage")
    assert complaints == []
    page.close()


def test_the_budget_is_kept(tmp_path):
    from support.grids import meshes

    vertices, faces = meshes(count=12, subdivisions=4)
    write_grid(tmp_path / "grid", seeds=(0,), vertices=vertices, faces=faces, odd=False)
    whole = build_payload(tmp_path / "grid", budget=20e6)
    small = build_payload(tmp_path / "grid", budget=1.5e6)
    assert whole["stages"][0]["vertices"] == 2562
    assert len(whole["stages"][0]["labels"]) == 12
    assert 700 <= small["stages"][0]["vertices"] < 1000
    assert 4 <= len(small["stages"][0]["labels"]) < 12
    assert len(json.dumps(small)) < 1.5e6
    # Errors are measured before anything is thinned out.
    model = ["views", 0, "models", 4, "frames", 0, "mean"]
    first, second = whole, small
    for key in model:
        first, second = first[key], second[key]
    assert first == second


def test_a_seed_without_meshes_leaves_the_place_to_another(tmp_path):
    rows = write_grid(tmp_path / "grid", models=["full-2"], latents=(16,), odd=False)

    def shown():
        model = build_payload(tmp_path / "grid", budget=1e7)["views"][0]["models"][0]
        return model["shown_seed"], model["frames"]

    first, second = sorted(rows, key=lambda row: row["mean_mm"])  # the lower of two is the median
    assert shown()[0] == first["seed"]
    (tmp_path / "grid" / first["run"] / "samples.npy").unlink()
    assert shown()[0] == second["seed"]
    (tmp_path / "grid" / second["run"] / "samples.npy").unlink()
    assert shown() == (None, None)


def test_reconstructions_that_do_not_fit(tmp_path):
    rows = write_grid(tmp_path / "grid", models=["full-2"], seeds=(0,), latents=(16,), odd=False)
    path = tmp_path / "grid" / rows[0]["run"] / "samples.npy"
    np.save(path, np.zeros((2, 5, 3), np.float32))
    with pytest.raises(GridError, match=r"must have the shape of inputs.npy, \[6, 642, 3\]"):
        build_payload(tmp_path / "grid", budget=1e7)
    rows[0]["run"] = "runs/../../secret/x"
    (tmp_path / "grid" / "results.json").write_text(json.dumps(rows))
    with pytest.raises(GridError, match="run must be runs/<data>/<split>"):
        build_payload(tmp_path / "grid", budget=1e7)


def test_without_plotly(tmp_path, monkeypatch):
    import sys

    write_grid(tmp_path / "grid", models=["full-2"], seeds=(0,), latents=(16,), odd=False)
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(ImportError, match=r"needs plotly: pip install 'polygraph-nn\[report\]'"):
        write_report(tmp_path / "grid", tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()
