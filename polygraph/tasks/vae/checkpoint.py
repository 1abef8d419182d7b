"""The model of a checkpoint of a variational autoencoder of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from polygraph.models.images.families import VAES, build, config_of
from polygraph.models.images.image_vae import ImageVAE
from polygraph.models.state import build_with
from polygraph.train.checkpoint import CheckpointError, load_checkpoint, part_of


def load_vae(
    checkpoint: str | Path, device: torch.device | str = "cpu"
) -> tuple[ImageVAE, dict[str, Any]]:
    """Build the model of a checkpoint, such as ``best.safetensors`` in a run's folder.

    Returns:
        The model in eval mode, and the checkpoint's description.

    Raises:
        CheckpointError: the checkpoint is unreadable, or of something else.
    """
    state, meta = load_checkpoint(checkpoint)
    try:
        config = config_of(VAES, meta["family"], meta["config"]["model"])
        weights = part_of(state, "modules", checkpoint)["model"]
        model = build_with(lambda: build(config), config, weights)
    except (KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{checkpoint}: not a checkpoint of a variational autoencoder of images ({reason})"
        ) from error
    assert isinstance(model, ImageVAE)
    return model.to(device), meta
