"""Variational autoencoders by two processes: the noise and the variance are those of one batch."""

import os

import pytest
import torch
from support.children import finish_together
from support.tiny import write_meshes

from polygraph.cli import main
from polygraph.train.checkpoint import load_checkpoint
from polygraph.train.config import TrainConfig, seed_step
from polygraph.train.log import read_log
from polygraph.train.variational import batch_noise

TRAIN = {
    "--steps": 5,
    "--batch-size": 4,
    "--precision": "64-true",
    "--accelerator": "cpu",
    "--log-every": 1,
    "--free-bits": 0.05,
}


def words(of, tmp_path, out):
    """The command line of a run in 64 bits."""
    if of == "images":
        settings = {"--data": "glyphs", "--size": 12, "--latent": 2, "--model.channels": "4,4"}
        settings["--data.num-images"] = 100
    else:
        settings = {
            "--data": tmp_path / "meshes",
            "--preset": "vae-full-2",
            "--factors": "4,4",
            "--latent": 3,
            "--data.cache-dir": tmp_path / "cache",
            "--model.encoder-channels": "4,6",
            "--model.decoder-channels": "6,4,3",
        }
    settings = {**settings, **TRAIN, "--out": tmp_path / out}
    return ["train", "vae", *(str(word) for pair in settings.items() for word in pair)]


def weights(path):
    return load_checkpoint(path)[0]["modules"]["model"]


@pytest.mark.parametrize("of", ["images", "meshes"])
def test_two_processes_equal_one(of, tmp_path):
    if of == "meshes":
        write_meshes(tmp_path / "meshes", num=50)
    assert main(words(of, tmp_path, "one")) == 0
    said = [tmp_path / "first", tmp_path / "second"]
    port = 30500 + os.getpid() % 1000 + 1000 * (of == "meshes")
    finish_together(main, words(of, tmp_path, "two"), processes=2, port=port, outputs=said)
    assert sum("ELBO" in out.read_text() for out in said) == 1, "the first process speaks"
    one, two = (weights(tmp_path / name / "last.safetensors") for name in ("one", "two"))
    assert int(one["likelihood.batches"]) == 5
    for name, value in one.items():
        # Sums over the batch in another order, then five Adam steps.
        assert float((two[name] - value).abs().max()) < 1e-11, name
    logs = [read_log(tmp_path / name / "log.jsonl") for name in ("one", "two")]
    losses = [[row["loss"] for row in log if "loss" in row] for log in logs]
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)


def test_parts_of_the_noise_are_what_one_process_draws():
    config, like = TrainConfig(batch_size=6, seed=3), torch.zeros(())

    def fabric(rank, world):
        return type("Fabric", (), {"global_rank": rank, "world_size": world})

    assert batch_noise(config, 7, 5, like, fabric(0, 1)) is None
    parts = [batch_noise(config, 7, 5, like, fabric(rank, 2)) for rank in range(2)]
    seed_step(3, 7)
    assert torch.equal(torch.stack(parts, 1).flatten(0, 1), torch.randn(6, 5))
