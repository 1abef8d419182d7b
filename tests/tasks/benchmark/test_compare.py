"""Comparison: a small grid with pictures."""

import pytest

from polygraph.data import MeshDataConfig
from polygraph.tasks.benchmark.compare import compare
from polygraph.train.config import TrainConfig

PRESETS = ("first-order", "full-2")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return MeshDataConfig(num_frames=60, cache_dir=str(tmp_path_factory.mktemp("cache")))


def run(data, folder, said, presets=PRESETS, **options):
    train = TrainConfig(steps=3, batch_size=4, eval_every=2, accelerator="cpu")
    return compare(presets, data, train, folder, latent_channels=4, say=said.append, **options)


@pytest.fixture(scope="module")
def made(data, tmp_path_factory):
    pytest.importorskip("matplotlib")
    said = []
    return run(data, tmp_path_factory.mktemp("compare"), said), said


def test_models_and_baselines(made):
    result, _ = made
    assert [row["model"] for row in result.rows] == [*PRESETS, "pca", "mean-shape"]
    assert all(row["mean_mm"] > 0 and row["latent"] in (0, 4) for row in result.rows)
    assert "| pca |" in (result.folder / "table.md").read_text()
    assert result.table.count("\n") == 6


def test_pictures_are_written(made):
    result, _ = made
    assert [path.name for path in result.pictures] == [
        "heatmaps.png",
        "loss.png",
        "validation.png",
    ]
    assert all(path.stat().st_size > 5000 for path in result.pictures)


def test_finished_runs_are_kept(made, data):
    result, said = made
    assert any("working" in line for line in said)
    again = []
    assert run(data, result.folder, again, pictures=False).rows == result.rows
    assert not any("working" in line for line in again)


def test_unknown_presets_stop_before_any_training(data, tmp_path):
    with pytest.raises(ValueError, match="did you mean 'full-2'"):
        run(data, tmp_path, [], presets=["first-order", "full2"])
    with pytest.raises(ValueError, match="needs a preset and a seed"):
        run(data, tmp_path, [], presets=[])
    assert not list(tmp_path.iterdir())
