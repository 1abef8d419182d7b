"""A finished run of a point cloud classifier: its model without its data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from polygraph.models.points.dgcnn import DGCNNClassifier, DGCNNClassifierConfig
from polygraph.models.state import build_with
from polygraph.train.checkpoint import CheckpointError, load_checkpoint, part_of


def load_classifier(
    checkpoint: str | Path, device: torch.device | str = "cpu"
) -> tuple[DGCNNClassifier, dict[str, Any]]:
    """Build the classifier of a checkpoint, such as ``best.safetensors`` in a run's folder.

    Returns:
        The model in eval mode, and the checkpoint's description, with the names of the classes and
        the ``origin`` to be subtracted from clouds before the model sees them.

    Raises:
        CheckpointError: the checkpoint is unreadable, or of something else.
    """
    state, meta = load_checkpoint(checkpoint)
    try:
        config = DGCNNClassifierConfig(**meta["config"]["model"])
        weights = part_of(state, "modules", checkpoint)["model"]
        model = build_with(lambda: DGCNNClassifier(config), config, weights)
    except (KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{checkpoint}: not a checkpoint of a point cloud classifier ({reason})"
        ) from error
    return model.to(device), meta
