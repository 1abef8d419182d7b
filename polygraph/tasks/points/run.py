"""A finished run of a point cloud classifier: its model without its data."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polygraph._arrays import as_numpy
from polygraph.data.shapes import ShapeDataConfig, ShapeDataset, open_shapes
from polygraph.mesh.origin import ZERO, checked_point, to_float32
from polygraph.models.points.dgcnn import DGCNNClassifier, DGCNNClassifierConfig
from polygraph.models.state import build_with
from polygraph.train.checkpoint import (
    CheckpointError,
    load_checkpoint,
    part_of,
    read_json_object,
)
from polygraph.train.recorded import checkpoint_of, recorded_data
from polygraph.train.supervised import classification_summary, model_logits

RESULT, BUILT_IN = "result.json", "shapes"
_BATCH = 32


@dataclass(frozen=True)
class Run:
    """A trained network of point clouds.

    From `polygraph.tasks.points.train` or `polygraph.tasks.points.load`.

    Attributes:
        folder: where it lies.
        model: in eval mode; maps clouds ``[B, N, 3]``, less ``origin``, to logits.
        meta: configuration, hashes and versions, as in the checkpoint.
        dataset: what it was trained on, where that is at hand.
    """

    folder: Path
    model: DGCNNClassifier
    meta: dict[str, Any]
    dataset: ShapeDataset | None = None

    def __repr__(self) -> str:
        """Folder and classes."""
        return f"Run({str(self.folder)!r}, {len(self.classes)} classes)"

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of what is told apart."""
        return tuple(str(name) for name in self.meta["classes"])

    @cached_property
    def result(self) -> dict[str, Any]:
        """What ``result.json`` holds: accuracies, steps, seconds; empty where training goes on."""
        path = self.folder / RESULT
        return read_json_object(path, "steps", "test", "val") if path.is_file() else {}

    def predict_proba(self, clouds: Any) -> NDArray[np.float64]:
        """Probabilities ``[B, classes]`` of clouds; see `predict`."""
        points = as_numpy(clouds)
        points = points[None] if points.ndim == 2 else points
        if points.ndim != 3 or points.shape[2] != 3:
            raise ValueError(
                f"predict: clouds must have shape [B, N, 3] or [N, 3], got {list(points.shape)}"
            )
        origin = checked_point(self.meta.get("origin", ZERO))
        single = to_float32(points, "predict", 0, origin, "cloud")

        def rows(indices: NDArray[np.int64]) -> Tensor:
            return torch.from_numpy(single[indices])

        logits = model_logits(self.model, rows, np.arange(len(single)), _BATCH)
        return torch.from_numpy(logits).softmax(-1).numpy()

    def predict(self, clouds: Any) -> NDArray[np.int64]:
        """The most probable class of clouds, by number; `classes` has the names.

        Args:
            clouds: ``[B, N, 3]`` or one ``[N, 3]``, numpy or torch, N at least the network's k; as
                those that it was trained on: usually centred, within the unit sphere.

        Returns:
            int64 ``[B]``.

        Raises:
            ValueError: the shape is wrong, or there are fewer points than k.
            MeshError: a coordinate is not finite.
        """
        found: NDArray[np.int64] = self.predict_proba(clouds).argmax(-1)
        return found

    def evaluate(self, data: Any = None, *, part: str = "test") -> dict[str, Any]:
        """`polygraph.train.supervised.classification_summary` of some clouds.

        Args:
            data: default: what the run was trained on. Or an archive, ``"shapes"``, ``(points,
                labels)`` or a `polygraph.data.ShapeDataset`, with the classes of the run.
            part: ``train``, ``val`` or ``test``.

        Raises:
            ValueError: other classes, or another part.
        """
        dataset = self._opened() if data is None else shape_data(data)
        if dataset.classes != self.classes:
            raise ValueError(
                f"{dataset.name}: has the classes {', '.join(dataset.classes)}, the run "
                f"{', '.join(self.classes)}"
            )
        if part not in ("train", "val", "test"):
            raise ValueError(f"part must be train, val or test, got {part!r}")
        indices = getattr(dataset, part)
        shift = np.subtract(dataset.origin, checked_point(self.meta.get("origin", ZERO)))

        def rows(chosen: NDArray[np.int64]) -> Tensor:
            return torch.from_numpy((dataset.points[chosen] + shift).astype(np.float32))

        logits = model_logits(self.model, rows, indices, _BATCH)
        return classification_summary(logits, dataset.labels[indices], self.classes)

    def _opened(self) -> ShapeDataset:
        """What the run was trained on.

        Raises:
            ValueError: it is not what it was.
        """
        if self.dataset is not None:
            return self.dataset
        config = recorded_data(ShapeDataConfig, self.meta, self.folder, None, "as data")
        dataset = open_shapes(config)
        then = self.meta["identity"]["dataset_hash"]
        if dataset.content_hash != then:
            raise ValueError(
                f"{dataset.name}: its content is not what {self.folder} was trained on: hash "
                f"{dataset.content_hash} now, {then} then"
            )
        return dataset


def load_run(folder: str | Path, device: torch.device | str = "cpu") -> Run:
    """Load the weights that were best on validation.

    Raises:
        CheckpointError: the folder holds no run of point clouds.
    """
    folder = Path(folder)
    checkpoint = checkpoint_of(folder, "points")
    assert checkpoint is not None  # of a mesh autoencoder alone there is none
    return Run(folder, *load_classifier(checkpoint, device))


def shape_data(data: Any) -> ShapeDataset:
    """The data set of what was handed over.

    Args:
        data: an archive, ``"shapes"`` (built in), ``(points, labels)`` or a `ShapeDataset`.

    Raises:
        TypeError: it is something else.
        FileNotFoundError, ValueError: see `polygraph.data.open_shapes`.
    """
    if is_in_memory(data):
        return in_memory(data)
    return open_shapes(ShapeDataConfig(None if data == BUILT_IN else os.fspath(data)))


def is_in_memory(data: Any) -> bool:
    """Whether the clouds are here already.

    Raises:
        TypeError: it is nothing that clouds can come from.
    """
    if isinstance(data, ShapeDataset) or (isinstance(data, tuple | list) and len(data) == 2):
        return True
    if isinstance(data, str | os.PathLike):
        return False
    raise TypeError(
        f"data must be an .npz archive, {BUILT_IN!r}, (points [S, N, 3], labels [S]) or a "
        f"ShapeDataset, got {type(data).__name__}"
    )


def in_memory(data: Any) -> ShapeDataset:
    """The data set of clouds that are here already."""
    return data if isinstance(data, ShapeDataset) else ShapeDataset.from_arrays(*data)


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
