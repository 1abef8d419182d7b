"""Training of a denoiser, of pictures or of meshes and clouds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from polygraph.tasks.denoise.picture_training import describe_pictures, train_pictures
from polygraph.tasks.denoise.vertex_training import (
    KIND,
    VertexRunConfig,
    describe_vertices,
    train_vertices,
)


def train_denoise(config: Any, folder: str | Path, **options: Any) -> dict[str, Any]:
    """Train what a configuration describes; see `train_pictures` and `train_vertices`."""
    if isinstance(config, VertexRunConfig):
        return train_vertices(config, folder, **options)
    return train_pictures(config, folder, **options)


def describe_result(result: dict[str, Any]) -> str:
    """What training reached, in a line."""
    return describe_vertices(result) if result["kind"] == KIND else describe_pictures(result)
