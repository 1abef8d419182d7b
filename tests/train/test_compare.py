"""Comparison: rows of models and baselines, resuming, tables and pictures."""

import json

import numpy as np
import pytest

from polygraph.data import MeshDataConfig, open_dataset
from polygraph.train.checkpoint import CheckpointError, load_checkpoint
from polygraph.train.compare import average_seeds, compare
from polygraph.train.config import TrainConfig

PRESETS = ("first-order", "full-2")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return MeshDataConfig(num_frames=60, cache_dir=str(tmp_path_factory.mktemp("cache")))


def run(data, folder, said, steps=3, presets=PRESETS, **options):
    train = TrainConfig(steps=steps, batch_size=4, eval_every=2, accelerator="cpu")
    return compare(presets, data, train, folder, latent_channels=4, say=said.append, **options)


@pytest.fixture(scope="module")
def made(data, tmp_path_factory):
    pytest.importorskip("matplotlib")
    said = []
    return run(data, tmp_path_factory.mktemp("compare"), said), said


def test_rows_have_models_baselines_and_where_they_come_from(made):
    result, _ = made
    assert [row["model"] for row in result.rows] == [*PRESETS, "PCA-4", "mean shape"]
    for row in result.rows:
        assert row["test_mean_mm"] > 0
        assert len(row["split"]["sha256"]) == 64
        assert row["torch"]
        assert row["machine"]
    for row in result.rows[:2]:
        assert {"config_hash", "seconds", "parameters", "commit"} <= row.keys()
        assert row["inference_1_ms"] > 0
        assert row["inference_16_ms"] > row["inference_1_ms"] / 2
        assert row["latent_channels"] == 4
    assert result.rows[0]["ratio"] == 1
    first, full = (row["test_mean_mm"] for row in result.rows[:2])
    assert result.rows[1]["ratio"] == full / first
    assert json.loads((result.folder / "results.json").read_text()) == result.rows
    assert "| PCA-4 |" in (result.folder / "table.md").read_text()
    assert result.table.count("\n") == 5


def test_baselines_against_plain_numpy(made, data):
    result, _ = made
    dataset = open_dataset(data)
    split = dataset.split("interpolation")
    flat = dataset.vertices.reshape(len(dataset), -1).astype(np.float64)
    mean = flat[split.train].mean(axis=0)
    axes = np.linalg.svd(flat[split.train] - mean, full_matrices=False)[2][:4]
    centred = flat[split.test] - mean
    for row, rest in ((2, centred - centred @ axes.T @ axes), (3, centred)):
        error = 1000 * np.linalg.norm(rest.reshape(len(rest), -1, 3), axis=-1).mean()
        # Predictions pass through float64, test meshes are float32: nothing is lost but rounding.
        assert result.rows[row]["test_mean_mm"] == pytest.approx(error, rel=1e-6)


def test_pictures_are_written(made):
    result, _ = made
    assert [path.name for path in result.pictures] == [
        "heatmaps.png",
        "loss.png",
        "validation.png",
    ]
    assert all(path.stat().st_size > 5000 for path in result.pictures)


def test_finished_runs_are_kept_and_killed_ones_resume(made, data):
    result, said = made
    assert not any("finished before" in line for line in said)
    folder = result.folder / "full-2-seed0"
    (folder / "result.json").unlink()  # as if killed before the end
    again = []
    second = run(data, result.folder, again, pictures=False)
    assert sum("finished before" in line for line in again) == 1
    assert any("full-2-seed0: resuming" in line for line in again)
    for old, new in zip(result.rows, second.rows, strict=True):
        assert (old["model"], old["test_mean_mm"]) == (new["model"], new["test_mean_mm"])
    longer = run(data, result.folder, again, steps=4, pictures=False, presets=["full-2"])
    assert longer.rows[0]["steps"] == 4
    assert load_checkpoint(folder / "last.safetensors")[1]["progress"]["step"] == 4
    with pytest.raises(CheckpointError, match=r"beyond the 3 steps.*choose another folder"):
        run(data, result.folder, again, pictures=False, presets=["full-2"])


def test_unknown_presets_stop_before_any_training(data, tmp_path):
    with pytest.raises(ValueError, match="did you mean 'full-2'"):
        run(data, tmp_path, [], presets=["first-order", "full2"])
    with pytest.raises(ValueError, match="needs a preset and a seed"):
        run(data, tmp_path, [], presets=[])
    assert not list(tmp_path.iterdir())


def test_average_over_seeds():
    rows = [
        {"model": "a", "seed": 0, "test_mean_mm": 1.0, "parameters": 5, "seconds": None},
        {"model": "a", "seed": 1, "test_mean_mm": 3.0, "parameters": 5, "seconds": 2.0},
        {"model": "b", "test_mean_mm": 7.0},
    ]
    merged = average_seeds(rows)
    assert [row["model"] for row in merged] == ["a", "b"]
    assert (merged[0]["test_mean_mm"], merged[0]["spread_mm"], merged[0]["seeds"]) == (2.0, 2.0, 2)
    assert merged[0]["parameters"] == 5
    assert rows[0]["test_mean_mm"] == 1.0
