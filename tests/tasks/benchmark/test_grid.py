"""The grid: rows, resuming after a kill, changed settings, divergence, the command line."""

import json
import re
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.children import begin, finish
from support.tiny import write_meshes

from polygraph import metrics
from polygraph.cli import main
from polygraph.data import MeshDataConfig, open_dataset
from polygraph.report.grid_rows import GridError, read_rows
from polygraph.report.page_meshes import read_reconstructions, read_samples
from polygraph.report.summary import average_seeds, best_cells, markdown_summary, tables
from polygraph.tasks.benchmark.arguments import parse_benchmark_mesh
from polygraph.tasks.benchmark.cells import DEFAULT_MODELS, Grid, frame_label
from polygraph.tasks.benchmark.grid import run_grid
from polygraph.tasks.mesh.run import load_run
from polygraph.train.checkpoint import CheckpointError, load_checkpoint
from polygraph.train.config import TrainConfig

REPOSITORY = Path(__file__).resolve().parents[3]
TIMES = ("seconds", "step_ms", "inference_1_ms", "inference_16_ms", "train_step_ms", "peak_mib")
MODELS = ("first-order", "chebyshev", "full-2", "pca", "mean-shape")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return MeshDataConfig(num_frames=60, cache_dir=str(tmp_path_factory.mktemp("cache")))


def grid(data, **changes):
    train = TrainConfig(steps=3, batch_size=4, eval_every=2, accelerator="cpu", progress=False)
    settings = {
        "models": MODELS, "seeds": (0, 1), "latents": (3,), "train": train,
    } | changes  # fmt: skip
    return Grid((data,), **settings)


def timeless(rows):
    hashes = "sha256", "files"
    return [{key: value for key, value in row.items() if key not in TIMES + hashes} for row in rows]


@pytest.fixture(scope="module")
def made(data, tmp_path_factory):
    said = []
    return run_grid(grid(data), tmp_path_factory.mktemp("grid"), say=said.append), said


def test_rows(made, data):
    result, _ = made
    dataset = open_dataset(data)
    split = dataset.split("interpolation")
    names = [(row["model"], row["seed"]) for row in result.rows]
    assert names == [
        ("first-order", 0), ("chebyshev", 0), ("full-2", 0), ("pca", None), ("mean-shape", None),
        ("first-order", 1), ("chebyshev", 1), ("full-2", 1),
    ]  # fmt: skip
    stored = json.loads(
        (result.folder / "results.json").read_text(),
        parse_constant=lambda text: pytest.fail(f"{text} is no JSON"),
    )
    assert sorted(map(str, stored)) == sorted(map(str, result.rows))
    for row in result.rows:
        folder = result.folder / row["run"]
        assert (row["split_hash"], row["data_hash"]) == (split.sha256, dataset.content_hash)
        assert row["num_test"] == len(split.test)
        per_mesh = np.load(folder / "test_error_per_mesh_mm.npy")
        assert row["mean_mm"] == pytest.approx(per_mesh.mean())
        assert np.load(folder / "test_error_per_vertex_mm.npy").shape == (1922,)
        quantiles = row["quantiles_mm"]
        assert len(quantiles) == 101
        assert quantiles == sorted(quantiles)
        assert (quantiles[90], quantiles[100]) == (row["p90_mm"], row["max_mm"])
        assert (row["status"], row["nonfinite"], row["message"]) == ("done", 0, None)
        assert row["machine"]
        assert len(row["config_hash"]) == 64
        assert (row["train_step_ms"] is None) == (row["family"] == "linear")
        if row["model"] != "mean-shape":
            assert row["inference_1_ms"] > 0
    first, again = (row for row in result.rows if row["model"] == "full-2")
    assert first["config_hash"] != again["config_hash"]
    assert first["group_hash"] == again["group_hash"]
    assert first["mean_mm"] != again["mean_mm"]
    kinds = {row["model"]: (row["family"], row["operator"], row["order"]) for row in result.rows}
    assert kinds == {
        "first-order": ("first-order", "spiral", 1), "chebyshev": ("peer", "chebyshev", 1),
        "full-2": ("full", "spiral", 2), "pca": ("linear", None, None),
        "mean-shape": ("linear", None, None),
    }  # fmt: skip


def test_a_hierarchy_that_cannot_be_built_stops_the_grid_first(data, tmp_path):
    """Of the second data set, before anything is trained on the first."""
    write_meshes(tmp_path / "small", num=20)
    small = MeshDataConfig(
        kind="registered", path=str(tmp_path / "small"), cache_dir=data.cache_dir
    )
    wanted = replace(grid(data), data=(data, small))
    with pytest.raises(ValueError, match="benchmark: small: hierarchy level"):
        run_grid(wanted, tmp_path / "grid", say=str)
    assert not (tmp_path / "grid" / "runs").exists()


def test_shown_meshes_are_reconstructions(made, data):
    result, _ = made
    dataset = open_dataset(data)
    place = result.folder / "meshes" / "creature-60-0"
    shown = json.loads((place / "interpolation" / "samples.json").read_text())
    inputs = np.load(place / "interpolation" / "inputs.npy")
    assert np.array_equal(inputs, dataset.gather(shown["indices"]))
    assert set(shown["indices"]) <= set(dataset.split("interpolation").test.tolist())
    assert len(shown["labels"]) == len(inputs)
    assert np.array_equal(np.load(place / "faces.npy"), dataset.faces)
    for row in result.rows:
        samples = np.load(result.folder / row["run"] / "samples.npy")
        assert samples.shape == inputs.shape
        if row["family"] != "linear":
            with torch.no_grad():
                wanted = load_run(result.folder / row["run"]).model(torch.from_numpy(inputs))
            np.testing.assert_allclose(samples, wanted.numpy(), atol=1e-6)


def test_linear_models_against_plain_numpy(made, data):
    result, _ = made
    dataset = open_dataset(data)
    split = dataset.split("interpolation")
    flat = dataset.vertices.reshape(len(dataset), -1).astype(np.float64)
    mean = flat[split.train].mean(axis=0)
    axes = np.linalg.svd(flat[split.train] - mean, full_matrices=False)[2][:3]
    centred = flat[split.test] - mean
    for model, rest in (("pca", centred - centred @ axes.T @ axes), ("mean-shape", centred)):
        error = 1000 * np.linalg.norm(rest.reshape(len(rest), -1, 3), axis=-1).mean()
        row = next(row for row in result.rows if row["model"] == model)
        # Predictions pass through float64, test meshes are float32: nothing is lost but rounding.
        assert row["mean_mm"] == pytest.approx(error, rel=1e-6)


def test_finished_runs_are_kept_and_new_cells_join(made, data):
    result, _ = made
    said = []
    again = run_grid(grid(data), result.folder, say=said.append)
    assert again.rows == result.rows
    assert not any("working" in line or "measuring" in line for line in said)
    more = run_grid(
        grid(data, models=("full-2", "gat"), seeds=(0,)), result.folder, say=said.append
    )
    assert [row["model"] for row in more.rows] == ["full-2", "gat"]
    assert sum("working" in line for line in said) == 1
    assert timeless(more.rows[:1]) == timeless([result.rows[2]])
    stored = json.loads((result.folder / "results.json").read_text())
    assert len(stored) == len(result.rows) + 1


def test_another_setting_is_another_run(made, data):
    result, _ = made
    changed = grid(data, models=("first-order",), seeds=(0,), settings={"loss": "distance"})
    other = run_grid(changed, result.folder, say=list().append, costs=False)
    assert other.rows[0]["run"] != result.rows[0]["run"]
    assert other.rows[0]["recipe_hash"] != result.rows[0]["recipe_hash"]
    stored = json.loads((result.folder / "results.json").read_text())
    apart = [[row["model"] for row in table] for table in tables(stored).values()]
    assert sorted(len(names) for names in apart) == [3, 6]  # with PCA and the mean shape in both
    again = run_grid(grid(data), result.folder, say=list().append)
    assert timeless(again.rows) == timeless(result.rows)


def test_runs_finished_elsewhere_are_taken(made, data, tmp_path):
    result, _ = made
    said = []
    for source in (result.folder, result.folder / "results.json"):
        again = run_grid(grid(data), tmp_path / source.name, say=said.append, finished=[source])
        assert timeless(again.rows) == timeless(result.rows)
        assert all(row["inference_1_ms"] for row in again.rows if row["latent"])
        page = tmp_path / f"{source.name}.html"
        assert main(["report", str(again.folder), "--out", str(page)]) == 0
    networks = [row for row in result.rows if row["family"] != "linear"]
    assert f"{result.folder}: {len(networks)} runs were finished there" in said
    assert sum("working" in line for line in said) == 2 * (len(result.rows) - len(networks))
    # What this folder has trained itself stays; other settings are other runs.
    other = grid(data, settings={"loss": "distance"}, seeds=(0,), models=("full-2",))
    with pytest.raises(GridError, match=r"results\.json is missing"):
        run_grid(other, tmp_path / "other", say=said.append, finished=[tmp_path])
    run_grid(other, tmp_path / "other", say=said.append, costs=False, finished=[result.folder])
    assert f"{result.folder}: 0 runs were finished there" in said


def words(folder, cache, steps):
    return [
        "benchmark", "mesh", "--frames", "60", "--models",
        "first-order", "full-2", "pca", "--seeds", "0", "--latents", "3", "--steps", str(steps),
        "--batch_size", "4", "--eval_every", "10", "--config", "mesh-published",
        "--accelerator", "cpu", "--data.cache_dir", str(cache), "--out", str(folder),
    ]  # fmt: skip


def test_a_killed_grid_goes_on_where_it_stopped(tmp_path, data):
    """Killed in the middle of a run; the rows are those of a grid that nobody killed."""
    killed, whole, output = tmp_path / "killed", tmp_path / "whole", tmp_path / "output"
    command = words(killed, data.cache_dir, 30)
    process = begin(main, command)
    deadline = time.monotonic() + 400
    where = killed / "runs" / "creature-60-0" / "interpolation" / "latent-3"
    try:
        while not list(where.glob("full-2-seed0-*/best.safetensors")):
            assert time.monotonic() < deadline
            assert process.is_alive(), "it was done before it could be killed: raise the steps"
            time.sleep(0.02)
    finally:
        process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not list(where.glob("full-2-seed0-*/row.json"))
    assert not (killed / "costs.json").exists()
    finish(main, command, output=output)
    said = output.read_text()
    assert "full-2-seed0" in said
    assert "resuming" in said
    assert "first-order-seed0" not in said
    finish(main, words(whole, data.cache_dir, 30), output=output)
    rows = [json.loads((f / "results.json").read_text()) for f in (killed, whole)]
    assert timeless(rows[0]) == timeless(rows[1])
    for row in rows[0]:
        if row["family"] != "linear":
            one, two = (load_checkpoint(f / row["run"] / "best.safetensors")[0]["modules"]["model"]
                        for f in (killed, whole))  # fmt: skip
            assert all(torch.equal(one[key], two[key]) for key in one)


def test_a_run_in_other_hands_is_left_alone(tmp_path, data):
    import fcntl

    small = grid(data, models=("first-order", "mean-shape"), seeds=(0,))
    folder = tmp_path / "runs" / "creature-60-0" / "interpolation" / "latent-3"
    digest = small.run_config(data, "interpolation", 3, "first-order", 0).digest()
    place = folder / f"first-order-seed0-{digest[:8]}"
    place.mkdir(parents=True)
    said = []
    with open(place / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = run_grid(small, tmp_path, say=said.append)
        assert [row["model"] for row in result.rows] == ["mean-shape"]
        assert result.pending == 1
        assert any("1 runs are in other processes' hands" in line for line in said)
    assert run_grid(small, tmp_path, say=said.append).pending == 0


def test_divergence_is_a_row(tmp_path, data):
    train = replace(grid(data).train, learning_rate=1e30, schedule="constant", steps=6)
    wild = grid(data, models=("first-order", "mean-shape"), seeds=(0,), train=train)
    result = run_grid(wild, tmp_path, say=list().append)
    row = result.rows[0]
    assert row["status"] == "diverged"
    assert "finite" in row["message"] or "loss is" in row["message"]
    assert row["steps"] < 6
    assert json.loads((tmp_path / "results.json").read_text())
    assert "diverged" in result.table
    assert run_grid(wild, tmp_path, say=list().append).rows == result.rows


@pytest.mark.filterwarnings("ignore:.*older than its source.*:UserWarning")
def test_other_data_under_the_same_name_is_refused(tmp_path):
    path = write_meshes(tmp_path / "meshes")
    source = MeshDataConfig("registered", str(path), cache_dir=str(tmp_path / "cache"))
    small = grid(
        source, models=("mean-shape", "first-order"), seeds=(0,), settings={"factors": (2,) * 4}
    )
    run_grid(small, tmp_path / "grid", say=list().append)
    write_meshes(path, seed=1)
    with pytest.raises(CheckpointError, match="is about other meshes: data_hash is"):
        run_grid(small, tmp_path / "grid", say=list().append)


def test_bad_grids(data, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="got 'ful-2'; did you mean 'full-2'"):
        grid(data, models=("first-order", "ful-2"))
    with pytest.raises(ValueError, match=r"no model fits 'fool-\*'"):
        grid(data, models=("fool-*",))
    with pytest.raises(ValueError, match="needs at least one of seeds, got none"):
        grid(data, seeds=())
    with pytest.raises(ValueError, match="latents must be a positive integer, got 0"):
        grid(data, latents=(0,))
    with pytest.raises(ValueError, match="unknown split 'extra'"):
        run_grid(grid(data, splits=("extra",)), tmp_path)
    with pytest.raises(ValueError, match="two data sets are called 'creature-60-0'"):
        run_grid(Grid((data, replace(data, every=2))), tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="every process trains runs of its own"):
        run_grid(grid(data), tmp_path)


def test_patterns_and_repetitions(data):
    names = grid(data, models=("full-*", "full-2", "pca"), seeds=(1, 1)).models
    assert {"full-2", "full-4-noact", "full-2-batchnorm", "pca"} <= set(names)
    assert len(set(names)) == len(names)
    assert set(DEFAULT_MODELS) == set(grid(data, models=DEFAULT_MODELS).models)


def test_labels_of_meshes():
    """Of a clip and a frame, or a file: a folder without folders is no clip."""
    file = {"clip": ".", "frame": 7, "file": "a.ply"}
    frames = [{"clip": "run", "frame": 7}, file, {"clip": "run"}, {}]
    assert [frame_label(frame) for frame in frames] == ["run 7", "a.ply", "run", ""]


def test_command_line_settings(tmp_path):
    made, out, finished = parse_benchmark_mesh(
        ["--data", str(tmp_path), "synthetic", "--every", "4", "--seeds", "3", "4", "--latents",
         "8", "--splits", "a", "b", "--steps", "7", "--loss", "l1", "--up", "z", "--out", "x",
         "--finished", "y", "z"]
    )  # fmt: skip
    assert (out, finished) == (Path("x"), [Path("y"), Path("z")])
    assert [(d.kind, d.every, d.split, d.up) for d in made.data] == [
        ("registered", 4, "a", "z"), ("synthetic", 4, "a", "z"),
    ]  # fmt: skip
    assert (made.seeds, made.latents, made.splits) == ((3, 4), (8,), ("a", "b"))
    assert (made.train.steps, made.train.schedule) == (7, "cosine")
    assert made.settings["loss"] == "l1"
    assert made.settings["normalization"] == "shared"  # of the recipe
    assert made.models == DEFAULT_MODELS


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mesh", "--models", "ful-2", "--out", "x"], "did you mean 'full-2'"),
        (["mesh", "--stepz", "3", "--out", "x"], "did you mean --steps"),
        (["mesh", "--preset", "full-2", "--out", "x"], "a setting of one run"),
        (["mesh", "--model.order", "2", "--out", "x"], "a setting of one run"),
        (["mesh", "--steps", "3"], "--out"),
        (["mush"], "unknown kind 'mush'; did you mean 'mesh'"),
    ],
)
def test_wrong_command_lines(words, message, capsys):
    assert main(["benchmark", *words]) == 2
    assert message in capsys.readouterr().err


def row(model, mean, seed=0, **more):
    keys = {
        "data": "d", "data_hash": "0" * 64, "split": "s", "split_hash": "1" * 64, "latent": 4,
        "recipe_hash": "2" * 64, "recipe": {}, "group_hash": model, "status": "done",
        "family": "full", "parameters": 5, "nonfinite": 0, "num_test": 2, "commit": "c",
        "torch": "t", "threads": 1, "machine": "m",
    }  # fmt: skip
    return {**keys, "model": model, "mean_mm": mean, "seed": seed, **more}


def test_averages_over_seeds_leave_nothing_out():
    rows = [row("a", 1.0), row("a", 3.0, 1, nonfinite=2), row("b", 7.0), row("b", None, 1)]
    a, b = average_seeds(rows)
    assert (a["mean_mm"], a["spread_mm"], a["seeds"], a["nonfinite"]) == (2.0, 2.0, 2, 2)
    assert (b["mean_mm"], b["spread_mm"]) == (None, None)
    assert a["parameters"] == 5


def test_the_best_is_bold():
    recipe = {"length": {"steps": 7}, "factors": [4, 2]}
    rows = [
        row("first-order", 4.0, parameters=3, recipe=recipe),
        row("full-2", 2.0, recipe=recipe),
        row("pca", 1.0, family="linear", recipe_hash=None, recipe=None, parameters=1),
    ]
    (table,) = tables(rows).values()
    assert [r["ratio"] for r in table] == [0.25, 0.5, 1.0]
    assert best_cells(table) == {(0, "mean_mm"), (2, "parameters")}
    text = markdown_summary(rows)
    assert "| **1.00** |" in text
    assert "| **3** |" in text
    assert text.count("**") == 4
    assert "; length 7 steps, factors 4 2; " in text


def test_batch_normalisation_is_measured_in_evaluation_mode(tmp_path, data):
    only = grid(data, models=("full-2-batchnorm",), seeds=(0,))
    result = run_grid(only, tmp_path, say=list().append, costs=False)
    made, dataset = result.rows[0], open_dataset(data)
    run = load_run(tmp_path / made["run"])
    assert not run.model.training
    x = torch.from_numpy(dataset.gather(dataset.split("interpolation").test))
    with torch.no_grad():
        error = metrics.vertex_distance(run.model(x), x, dataset.to_mm)
    assert made["mean_mm"] == pytest.approx(float(error.mean()), rel=1e-4)
    assert made["norm"] == "batch"


def test_a_digit_that_changed_is_noticed(made, data, tmp_path):
    """In rows, costs and the meshes that the report shows; files of older versions have no hash."""
    folder = tmp_path / "grid"
    shutil.copytree(made[0].folder, folder)
    again = lambda: run_grid(grid(data), folder, say=str)  # noqa: E731
    row = next(r for r in read_rows(folder) if r["model"] == "full-2")

    def refused(path, change, call, error):
        whole = path.read_bytes()
        path.write_bytes(change(whole))
        with pytest.raises(error, match=f"{path.name}.*: changed") as caught:
            call()
        assert str(path) in str(caught.value)
        path.write_bytes(whole)

    def digit(text):
        place = re.search(rb'(mean_mm|peak_mib|"indices).{3,9}?([0-9])', text, re.DOTALL).start(2)
        return text[:place] + b"%d" % ((int(text[place : place + 1]) + 1) % 10) + text[place + 1 :]

    flipped = lambda data: data[:-1] + bytes((data[-1] ^ 1,))  # noqa: E731
    meshes = folder / "meshes" / "creature-60-0"
    shown = lambda: read_samples(folder, row)  # noqa: E731
    refused(folder / "results.json", digit, lambda: read_rows(folder), GridError)
    refused(folder / row["run"] / "row.json", digit, again, CheckpointError)
    refused(folder / "costs.json", digit, again, CheckpointError)
    for name in ("faces.npy", "interpolation/inputs.npy"):
        refused(meshes / name, flipped, shown, GridError)
    refused(meshes / "interpolation" / "samples.json", digit, shown, GridError)
    samples = shown()
    made_there = lambda: read_reconstructions(folder, row, samples)  # noqa: E731
    refused(folder / row["run"] / "samples.npy", flipped, made_there, GridError)
    older = json.loads((folder / "results.json").read_text())
    older = [{k: v for k, v in r.items() if k not in ("sha256", "files")} for r in older]
    (folder / "results.json").write_text(json.dumps(older))
    assert read_rows(folder) == older
    # Times are measured again where another test has added a model to the grid.
    assert timeless(again().rows) == timeless(made[0].rows)
