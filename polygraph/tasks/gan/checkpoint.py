"""The networks of a checkpoint, and the checkpoint of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from polygraph.models.images.families import CRITICS, GENERATORS, build, config_of
from polygraph.models.state import build_with
from polygraph.tasks.vae.checkpoint import load_vae
from polygraph.train import recorded
from polygraph.train.checkpoint import CheckpointError, load_checkpoint, part_of, read_meta


def load_generator(
    checkpoint: str | Path, device: torch.device | str = "cpu", *, weights: str = "average"
) -> tuple[nn.Module, dict[str, Any]]:
    """Build the generator of a checkpoint, such as ``last.safetensors`` in a run's folder.

    Of a variational autoencoder it is the decoder.

    Args:
        checkpoint: the file.
        device: where the generator goes.
        weights: ``average`` or ``generator``: the averaged ones, or those of the last step; of an
            autoencoder there is one kind.

    Returns:
        The generator in eval mode, and the checkpoint's description.

    Raises:
        CheckpointError: the checkpoint is unreadable, or of something else.
    """
    if read_meta(checkpoint).get("kind") == "vae":
        model, meta = load_vae(checkpoint, device)
        return model.decoder, meta
    return _load(checkpoint, "generator", weights, device)


def load_critic(
    checkpoint: str | Path, device: torch.device | str = "cpu"
) -> tuple[nn.Module, dict[str, Any]]:
    """Build the critic of a checkpoint: in eval mode, with the checkpoint's description.

    Raises:
        CheckpointError: the checkpoint is unreadable, or of something else.
    """
    return _load(checkpoint, "critic", "critic", device)


_FAMILIES: dict[str, dict[str, tuple[type, type[nn.Module]]]] = {
    "generator": GENERATORS,
    "critic": CRITICS,
}


def _load(
    checkpoint: str | Path, network: str, weights: str, device: torch.device | str
) -> tuple[nn.Module, dict[str, Any]]:
    state, meta = load_checkpoint(checkpoint)
    try:
        family = meta["families"][network == "critic"]
        config = config_of(_FAMILIES[network], family, meta["config"][network])
        values = part_of(state, "modules", checkpoint)[weights]
        model = build_with(lambda: build(config), config, values)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{checkpoint}: not a checkpoint of a GAN ({reason})") from error
    return model.to(device), meta


def checkpoint_of(folder: str | Path) -> Path:
    """The best weights of a run, by FID, or the last.

    Raises:
        CheckpointError: the folder holds no run of a generator.
    """
    kind = recorded.kind_of(Path(folder))
    found = recorded.checkpoint_of(Path(folder), kind if kind == "vae" else "gan")
    assert found is not None  # of a mesh autoencoder alone there is none
    return found
