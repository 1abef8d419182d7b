"""A finished run of an adversarial pair: its generator without the data, and images of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from polygraph.models.images.families import GENERATORS, build, config_of
from polygraph.models.state import build_with
from polygraph.tasks.images.pair import generate, interpolations, latent_vectors
from polygraph.train.checkpoint import CheckpointError, load_checkpoint, part_of
from polygraph.train.loop import BEST, LAST


def load_generator(
    checkpoint: str | Path, device: torch.device | str = "cpu", *, weights: str = "average"
) -> tuple[nn.Module, dict[str, Any]]:
    """Build the generator of a checkpoint, such as ``last.safetensors`` in a run's folder.

    Args:
        checkpoint: the file.
        device: where the generator goes.
        weights: ``average`` or ``generator``: the averaged ones, or those of the last step.

    Returns:
        The generator in eval mode, and the checkpoint's description.

    Raises:
        CheckpointError: the checkpoint is unreadable, or of something else.
    """
    state, meta = load_checkpoint(checkpoint)
    try:
        config = config_of(GENERATORS, meta["families"][0], meta["config"]["generator"])
        values = part_of(state, "modules", checkpoint)[weights]
        model = build_with(lambda: build(config), config, values)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{checkpoint}: not a checkpoint of a GAN ({reason})") from error
    return model.to(device), meta


def checkpoint_of(folder: str | Path) -> Path:
    """The best weights of a run, by FID, or the last.

    Raises:
        CheckpointError: the folder holds no run.
    """
    for name in (BEST, LAST):
        if (Path(folder) / name).is_file():
            return Path(folder) / name
    raise CheckpointError(f"{folder}: no run here ({BEST} and {LAST} are missing)")


def sample_run(
    folder: str | Path,
    count: int,
    seed: int = 0,
    *,
    weights: str = "average",
    interpolate: int | None = None,
) -> Tensor:
    """Images of a run's generator, the same for the same seed.

    Args:
        folder: of the run.
        count: latent vectors.
        seed: they are drawn from.
        weights: see `load_generator`.
        interpolate: points of a walk between each two latent vectors, ends included; None: the
            images of the vectors themselves.

    Returns:
        uint8 ``[count, C, 32, 32]``, or ``[count / 2 * interpolate, ...]``.

    Raises:
        CheckpointError: the folder holds no run.
        ValueError: no images are asked for, or an odd number of ends.
    """
    if count < 1:
        raise ValueError(f"sample: count must be at least 1, got {count}")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator, meta = load_generator(checkpoint_of(folder), device, weights=weights)
    z = latent_vectors(count, int(meta["config"]["generator"]["latent_channels"]), seed)
    return generate(generator, z if interpolate is None else interpolations(z, interpolate))
