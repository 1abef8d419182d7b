"""Defaults in help texts are typed there, since importing torch takes long: they are right."""

import re
from operator import attrgetter

import pytest

from polygraph import tasks
from polygraph.tasks.benchmark import help as benchmark_help

pytest.importorskip("jsonargparse")

# Flag -> place of its value in the configuration that the parser gives.
OF_TRAINING = {
    "--batch-size": "train.batch_size",
    "--learning-rate": "train.learning_rate",
    "--seed": "train.seed",
}
PLACES = {
    "mesh": {
        **OF_TRAINING,
        "--to-mm": "data.to_mm",
        "--up": "data.up",
        "--split": "data.split",
        "--preset": "preset",
        "--latent": "model.latent_channels",
        "--steps": "train.steps",
    },
    "points": {
        **OF_TRAINING,
        "--k": "model.k",
        "--model.dropout": "model.dropout",
        "--epochs": "train.epochs",
    },
    "images": {
        **OF_TRAINING,
        "--data.size": "data.size",
        "--val-fraction": "val_fraction",
        "--width": "model.width",
        "--k": "model.k",
        "--epochs": "train.epochs",
    },
    "audio": {
        **OF_TRAINING,
        "--data.seconds": "data.seconds",
        "--val-fraction": "val_fraction",
        "--epochs": "train.epochs",
        "--augment.probability": "augment.probability",
        "--features.scale": "features.scale",
    },
    "verify": {
        **OF_TRAINING,
        "--size": "data.size",
        "--embedding-dim": "embedding_dim",
        "--folds": "folds",
        "--pairs-per-fold": "pairs_per_fold",
        "--epochs": "train.epochs",
    },
    "denoise": {
        **OF_TRAINING,
        "--channels": "data.channels",
        "--patch": "patch",
        "--steps": "train.steps",
        "--noise-seed": "noise_seed",
    },
    "gan": {"--score-images": "score_images", "--seed": "train.seed"},
    "benchmark": {
        "--to-mm": "data.to_mm",
        "--up": "data.up",
        "--splits": "split",
        "--frames": "data.num_frames",
        "--seeds": "seed",
        "--latents": "latent",
    },
}
NOT_COMPARED = {
    ("mesh", "--factors"): "chosen from the mesh",
    ("gan", "--steps"): "the preset's",
    ("gan", "--size"): "the preset's",
    ("images", "--train-images"): "all",
    ("audio", "--data.rate"): "that of the files",
    ("benchmark", "--models"): "a description of the list",
    ("benchmark", "--config"): "the recipe itself",
}


def said(text):
    """Flag -> the first word that the help says of its default."""
    found = {}
    for entry in re.split(r"\n(?=  --|  DIR|  FILE|\n)", text):
        flag = None
        for name, default in re.findall(r"(--[a-z][\w.-]*)|\(default:\s+([^\s(),;]+)", entry):
            flag = name or flag
            if flag and default:
                found[flag] = default
    return found


def parsed(command):
    """The configuration without a word of settings; of a grid the first cell's."""
    if command == "benchmark":
        from polygraph.tasks.benchmark.arguments import parse_benchmark_mesh

        grid, _, _ = parse_benchmark_mesh(["--out", "G"])
        names = {"seeds": "seed", "latents": "latent", "splits": "split", "data": "data"}
        return type("Cell", (), {one: getattr(grid, many)[0] for many, one in names.items()})
    return tasks.load_command(command).parse(["--out", "R"])[0]


@pytest.mark.parametrize("command", PLACES)
def test_defaults_are_as_the_help_says(command):
    text = benchmark_help.text() if command == "benchmark" else tasks.help_text(command)
    words = said(text)
    left_out = {flag for place, flag in NOT_COMPARED if place == command}
    assert set(words) == set(PLACES[command]) | left_out
    config = parsed(command)
    for flag, place in PLACES[command].items():
        value = attrgetter(place)(config)
        if flag == "--to-mm":
            assert (words[flag], value) == ("1000", None)  # None stands for metres
        else:
            assert type(value)(words[flag]) == value, flag


def test_recipe_of_digits_and_of_segmenters():
    """Defaults that the help names beside the first."""
    gan = tasks.load_command("gan").parse(["--out", "R"])[0]
    assert f"digits: {gan.train.steps})" in tasks.help_text("gan")
    segment = tasks.load_command("points").parse(["--task", "segment", "--out", "R"])[0]
    assert f"to segment {segment.model.k})" in tasks.help_text("points")
