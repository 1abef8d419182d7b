"""The pages of results say what the rows say."""

import json
import re
import shutil
from pathlib import Path

import make_results
import pytest
from pages import classifiers, images, kernels, meshes, rows

ROOT = Path(__file__).resolve().parents[1]
PLANTED = {  # a file -> where one of its numbers is, that a table or a sentence shows
    "knn": (0, "ratios", "torch-cluster / ours", "median"),
    "spiral_conv": (1, "memory_mib", "index_select + Linear"),
    "train_dgcnn": ("results", "polygraph", "test", "accuracy"),
    "mesh_bodies": (-1, "mean_mm"),
    "mesh_autoencoder_interpolation": (0, "parameters"),
    "mesh_throughput": ("meshes_per_s", "ours", "median"),
    "gan": (0, "scores", -1, "FID"),
    "gan_memory_thesis": (1, "peak_mib"),
    "intel-xeon-2-cores/mesh_bodies_skip_code": (0, "mean_mm"),
    "intel-xeon-2-cores/gan_polynomial": (-1, "parameters"),
    "intel-xeon-2-cores/resnet_collapse": (-1, "parameters"),
    "intel-xeon-2-cores/verify_omniglot": (0, "test", "rank1"),
}


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """The rows, copied, so that a test can change them; no pictures."""
    shutil.copytree(rows.RESULTS, tmp_path / "rows", ignore=shutil.ignore_patterns("*.png"))
    monkeypatch.setattr(rows, "RESULTS", tmp_path / "rows")


def change(name, place, value):
    """Put another value into a file of rows."""
    content = json.loads(rows.path(name).read_text())
    *way, last = place
    inner = content
    for step in way:
        inner = inner[step]
    inner[last] = value(inner[last])
    rows.path(name).write_text(json.dumps(content))
    rows.read.cache_clear()


def test_pages_are_those_of_the_rows():
    """What is committed is what `make results` writes."""
    stale = [p.name for p, text in make_results.contents().items() if p.read_text() != text]
    assert stale == [], "run `make results`"


@pytest.mark.parametrize("name", PLANTED)
def test_changed_number_is_noticed(name, copied):
    """A row that changes makes a page differ from the committed one."""
    change(name, PLANTED[name], lambda old: 1.1 * old)
    assert any(p.read_text() != text for p, text in make_results.contents().items())


@pytest.mark.parametrize(
    ("held", "words"), [(True, "8, checked"), (False, "8, REFUTED"), (None, "8, not checked")]
)
def test_a_degree_that_does_not_hold_is_shown(copied, held, words):
    name = "intel-xeon-2-cores/gan_polynomial"
    place = next(n for n, r in enumerate(rows.rows(name)) if r["variant"] == "linear-ncp")
    change(name, (place, "degree_holds"), lambda old: held)
    assert f"| linear-ncp | {words} |" in images.generators(name, ["linear-ncp"])


def test_seeds_are_compared_with_themselves(copied):
    name = "intel-xeon-2-cores/gan_polynomial"
    found = images.variants(name)
    wanted = sum(
        images.last(one)["FID"] < images.last(other)["FID"]
        for one in found["sngan-ncp"]
        for other in found["sngan"]
        if one["seed"] == other["seed"]
    )
    assert images.seeds_ahead(name, "sngan-ncp", "sngan") == wanted
    change(name, (0, "seed"), lambda old: 7)
    with pytest.raises(LookupError, match="have not the same seeds"):
        images.seeds_ahead(name, "sngan-ncp", "sngan")


def test_speakers_are_compared_clip_by_clip(tmp_path, monkeypatch):
    """McNemar's exact test by hand: 1 and 7 clips that one of two networks alone gets right."""
    right_alone = {"one": [[4], *[[]] * 5], "other": [[0, 1, 2], [3], [5], [6], [7], []]}
    found = [
        {
            "variant": f"{network}-{speaker}",
            "held_out": speaker,
            "test": {"wrong": [*wrong, 9], "accuracy": 0.5},
        }
        for network, lists in right_alone.items()
        for speaker, wrong in zip("abcdef", lists, strict=True)
    ]
    (tmp_path / "machine").mkdir()
    (tmp_path / "machine" / "digits.json").write_text(json.dumps(found))
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    first, second, chance = classifiers.mcnemar("machine/digits", "one", "other")
    assert (first, second) == (7, 1)
    assert chance == pytest.approx(2 * (1 + 8) / 2**8)
    assert classifiers.mean_speaker("machine/digits", "one") == 0.5


def test_changed_readme_is_noticed(tmp_path, monkeypatch):
    """A number that is changed by hand in README.md is put right."""
    text = (ROOT / "README.md").read_text()
    table = text.partition(make_results.BEGIN)[2].partition(make_results.END)[0]
    number = re.search(r"\d+ to \d+", table)[0]
    monkeypatch.setattr(make_results, "ROOT", tmp_path)
    (tmp_path / "README.md").write_text(text.replace(number, "7 to 7"))
    assert make_results.readme() == text
    (tmp_path / "README.md").write_text(text.replace(make_results.END, ""))
    with pytest.raises(SystemExit, match=r"README.md: .* must enclose"):
        make_results.readme()


def test_sentence_that_is_not_true_any_more(copied):
    """Words that rows contradict are an error that names the template and the line."""
    place = next(
        n
        for n, r in enumerate(rows.rows("mesh_animals"))
        if (r["data"], r["model"], r["seed"]) == ("horse", "full-2", 0)
    )
    change("mesh_animals", (place, "mean_mm"), lambda old: old * 10)
    with pytest.raises(SystemExit, match=r"pages/meshes.md:\d+: the sentence before") as error:
        make_results.contents()
    line = int(re.search(r":(\d+):", str(error.value))[1])
    template = (make_results.TEMPLATES / "meshes.md").read_text().splitlines()
    assert 'claims.rising("mesh_animals"' in template[line - 1]


def test_links_lead_to_files():
    """Every relative link and picture of the pages is here."""
    for name in make_results.PAGES.values():
        page = ROOT / "docs" / "results" / f"{name}.md"
        targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
        assert targets
        assert [t for t in targets if not (page.parent / t).exists()] == []


def test_every_table_has_an_origin():
    """A section with a table of rows says where they come from; tables by hand say so."""
    for name in ("kernels", "meshes", "images", "classifiers"):
        page = (ROOT / "docs" / "results" / f"{name}.md").read_text()
        for section in page.split("\n## ")[1:]:
            assert ("\n> Commit `" in section) == ("\n| --- |" in section), section
            assert "\n|---|" not in section or "(by hand)" in section
    with pytest.raises(LookupError, match=r"does not say which command made knn2\.json"):
        rows.origin("knn2")


def test_rows_are_found_by_values():
    """One row where one is wanted; none, or several, is an error with the number."""
    assert rows.row("knn", workload="8 x 1024, C 66, k 8")["sizes"]["k"] == 8
    with pytest.raises(LookupError, match=r"knn.json: wanted one row of {}, found 11"):
        rows.row("knn")
    with pytest.raises(LookupError, match=r"mesh_bodies: no run of full-9"):
        meshes.errors("mesh_bodies", "full-9")


def test_numbers():
    """Digits, thousands, what is missing, spans."""
    assert rows.number(1234.56, 1) == "1,234.6"
    assert rows.number(None, 2) == "–"
    assert rows.span([9.96, 66.7, 10.2]) == "10 to 67"
    assert rows.span([9.94, 8.04]) == "8.0 to 9.9"
    assert rows.span([2.01, 2.02]) == "2.0"


@pytest.mark.parametrize(
    ("errors", "text"),
    [
        ([20.0], "20.0"),
        ([20.0, 21.9], "20.9"),
        ([20.0, 22.1], "20.0 and 22.1"),
        ([20.0, 22.0, 30.0], "24.0 (20.0 to 30.0)"),
        ([None, 3e21], "7 of 9 meshes not finite and 3e21 mm"),
        ([None, None], "7 and 7 of 9 meshes not finite"),
        ([5e30, 20.0], "5e30 mm and 2e01 mm"),
        ([], "–"),
    ],
)
def test_errors_of_seeds(errors, text):
    """Seeds that lie apart are both named, and what is not finite is counted, not dropped."""
    found = [{"mean_mm": e, "nonfinite_meshes": 7, "num_test": 9} for e in errors]
    assert meshes.cell(found) == text


def test_memory_beyond_the_result():
    """What all must hold is left out, and never below 0."""
    row = {"memory_mib": {"ours": 5.0, "faiss": 1.0}, "result_mib": 2.0}
    assert kernels.beyond_result(row) == {"ours": 3.0, "faiss": 0.0}


def test_charts_show_all_workloads():
    """A dot for every workload and pass, two in the legend."""
    dots = make_results.kernels.chart_of_times().count("<circle")
    cluster = kernels.ratios("knn", "torch-cluster / ours", "forward")
    pairs = [2 * len(kernels.pairs(name, peer)) for name, peer in kernels.PEERS.values()]
    assert dots == 2 + len(rows.rows("knn")) + len(cluster) + sum(pairs)
