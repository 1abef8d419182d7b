"""A finished run of a point cloud network: its model without its data."""

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
from polygraph._names import unknown_name
from polygraph.data.shapes import BUILT_IN, ShapeDataConfig, ShapeDataset, open_shapes
from polygraph.mesh.origin import ZERO, checked_point, to_float32
from polygraph.models.points.dgcnn import (
    DGCNNClassifier,
    DGCNNClassifierConfig,
    DGCNNSegmenter,
    DGCNNSegmenterConfig,
)
from polygraph.models.state import build_with
from polygraph.tasks.points.segment import answers, part_logits, parts_of, summarize
from polygraph.train.checkpoint import (
    CheckpointError,
    load_checkpoint,
    part_of,
    read_json_object,
)
from polygraph.train.recorded import checkpoint_of, recorded_data
from polygraph.train.supervised import classification_summary, model_logits, predicted

RESULT = "result.json"
_BATCH = 32


@dataclass(frozen=True)
class Run:
    """A trained network of point clouds.

    From `polygraph.tasks.points.train` or `polygraph.tasks.points.load`.

    Attributes:
        folder: where it lies.
        model: in eval mode; maps clouds ``[B, N, 3]``, less ``origin``, to logits. A
            `DGCNNClassifier`, of a `SegmenterRun` a `DGCNNSegmenter`.
        meta: configuration, hashes and versions, as in the checkpoint.
        dataset: what it was trained on, where that is at hand.
    """

    folder: Path
    model: Any
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
        single = self._single(clouds)

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
            ValueError: the shape is wrong, there are fewer points than k, or the network's output
                is not finite.
            MeshError: a coordinate is not finite.
        """
        return predicted(self.predict_proba(clouds))

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
        return self._measured(dataset, getattr(dataset, part))

    def _measured(self, dataset: ShapeDataset, indices: NDArray[np.int64]) -> dict[str, Any]:
        def rows(chosen: NDArray[np.int64]) -> Tensor:
            return torch.from_numpy(self._moved(dataset, chosen))

        logits = model_logits(self.model, rows, indices, _BATCH)
        return classification_summary(logits, dataset.labels[indices], self.classes)

    def _single(self, clouds: Any) -> NDArray[np.float32]:
        """Clouds ``[B, N, 3]``, less the run's origin."""
        points = as_numpy(clouds)
        points = points[None] if points.ndim == 2 else points
        if points.ndim != 3 or points.shape[2] != 3:
            raise ValueError(
                f"predict: clouds must have shape [B, N, 3] or [N, 3], got {list(points.shape)}"
            )
        origin = checked_point(self.meta.get("origin", ZERO))
        return to_float32(points, "predict", 0, origin, "cloud")

    def _moved(self, dataset: ShapeDataset, chosen: NDArray[np.int64]) -> NDArray[np.float32]:
        """Clouds of a data set, less the run's origin and not their own."""
        shift = np.subtract(dataset.origin, checked_point(self.meta.get("origin", ZERO)))
        moved: NDArray[np.float32] = (dataset.points[chosen] + shift).astype(np.float32)
        return moved

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
        parts = self.meta["identity"].get("parts_hash")
        if parts is not None and parts_of(dataset).content_hash != parts:
            raise ValueError(
                f"{dataset.name}: the parts of its points are not what {self.folder} was trained on"
            )
        return dataset


@dataclass(frozen=True, repr=False)
class SegmenterRun(Run):
    """A trained segmenter: `Run` whose answers are of every point."""

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts that points are told by."""
        return tuple(str(name) for name in self.meta["parts"])

    @property
    def takes_class(self) -> bool:
        """Whether the network is told the class of a cloud."""
        return bool(self.model.num_categories)

    def predict_proba(self, clouds: Any, classes: Any = None) -> NDArray[np.float64]:
        """Probabilities ``[B, N, parts]`` of the points of clouds; see `predict`."""
        single = self._single(clouds)
        category = self._category(classes, len(single))
        logits = part_logits(self.model, single, category, _BATCH)
        return torch.cat([batch.softmax(-1) for batch in logits]).numpy()

    def predict(self, clouds: Any, classes: Any = None) -> NDArray[np.int64]:
        """The most probable part of every point, by number; `parts` has the names.

        Args:
            clouds: see `Run.predict`.
            classes: of each cloud, names or numbers ``[B]``, or one for all; must be given where
                the network is told the class (`takes_class`), and only there.

        Returns:
            int64 ``[B, N]``.

        Raises:
            ValueError: the shape is wrong, there are fewer points than k, a class is missing,
                unknown or not wanted, or the network's output is not finite.
            MeshError: a coordinate is not finite.
        """
        return predicted(self.predict_proba(clouds, classes))

    def _category(self, classes: Any, count: int) -> NDArray[np.int64] | None:
        if (classes is not None) != self.takes_class:
            known = ", ".join(self.classes)
            raise ValueError(
                f"predict: the network is told the class of a cloud: name one of {known}"
                if self.takes_class
                else "predict: the network is not told the class of a cloud: do not name one"
            )
        if classes is None:
            return None
        alone = isinstance(classes, str | int)
        given = [classes] * count if alone else as_numpy(classes).tolist()
        if len(given) != count:
            raise ValueError(f"predict: classes must be of {count} clouds, got {len(given)}")
        return np.array([self._number(word) for word in given], np.int64)

    def _number(self, word: Any) -> int:
        if isinstance(word, int) and 0 <= word < len(self.classes):
            return word
        if word not in self.classes:
            raise ValueError(f"predict: {unknown_name('class', str(word), self.classes)}")
        return self.classes.index(word)

    def _measured(self, dataset: ShapeDataset, indices: NDArray[np.int64]) -> dict[str, Any]:
        parts = parts_of(dataset)
        if parts.names != self.parts:
            raise ValueError(
                f"{dataset.name}: has the parts {', '.join(parts.names)}, the run "
                f"{', '.join(self.parts)}"
            )
        of_class = np.zeros((len(self.classes), len(self.parts)), np.bool_)
        for row, numbers in zip(of_class, self.meta["parts_of_class"], strict=True):
            row[numbers] = True
        other = parts.of_class & ~of_class
        if other.any():
            label, part = np.unravel_index(int(other.argmax()), other.shape)
            raise ValueError(
                f"{dataset.name}: {self.classes[label]!r} has points of part {self.parts[part]!r}, "
                "which it had nowhere in the run's data"
            )
        labels = dataset.labels[indices]
        points = self._moved(dataset, indices)
        rows = answers(self.model, points, labels, parts.labels[indices], _BATCH)
        return summarize(rows, dataset, indices, of_class)


def load_run(folder: str | Path, device: torch.device | str = "cpu") -> Run:
    """Load the weights that were best on validation.

    Raises:
        CheckpointError: the folder holds no run of point clouds.
    """
    folder = Path(folder)
    checkpoint = checkpoint_of(folder, "points")
    assert checkpoint is not None  # of a mesh autoencoder alone there is none
    model, meta = load_network(checkpoint, device)
    return (SegmenterRun if isinstance(model, DGCNNSegmenter) else Run)(folder, model, meta)


def shape_data(data: Any) -> ShapeDataset:
    """The data set of what was handed over.

    Args:
        data: an archive, ``"shapes"`` or ``"objects"`` (built in), ``(points, labels)``,
            ``(points, labels, parts)`` or a `ShapeDataset`.

    Raises:
        TypeError: it is something else.
        FileNotFoundError, ValueError: see `polygraph.data.open_shapes`.
    """
    if is_in_memory(data):
        return in_memory(data)
    if data in BUILT_IN:
        return open_shapes(ShapeDataConfig(built_in=data))
    return open_shapes(ShapeDataConfig(os.fspath(data)))


def is_in_memory(data: Any) -> bool:
    """Whether the clouds are here already.

    Raises:
        TypeError: it is nothing that clouds can come from.
    """
    if isinstance(data, ShapeDataset) or (isinstance(data, tuple | list) and len(data) in (2, 3)):
        return True
    if isinstance(data, str | os.PathLike):
        return False
    raise TypeError(
        f"data must be an .npz archive, {' or '.join(map(repr, BUILT_IN))}, (points [S, N, 3], "
        f"labels [S]), with parts [S, N] as a third for segmentation, or a ShapeDataset, got "
        f"{type(data).__name__}"
    )


def in_memory(data: Any) -> ShapeDataset:
    """The data set of clouds that are here already."""
    if isinstance(data, ShapeDataset):
        return data
    return ShapeDataset.from_arrays(data[0], data[1], parts=data[2] if len(data) > 2 else None)


def load_network(
    checkpoint: str | Path, device: torch.device | str = "cpu"
) -> tuple[DGCNNClassifier | DGCNNSegmenter, dict[str, Any]]:
    """Build the network of a checkpoint, such as ``best.safetensors`` in a run's folder.

    Returns:
        The model in eval mode, and the checkpoint's description, with the names of the classes and
        the ``origin`` to be subtracted from clouds before the model sees them.

    Raises:
        CheckpointError: the checkpoint is unreadable, or of something else.
    """
    state, meta = load_checkpoint(checkpoint)
    try:
        segments = dict(meta["config"]).get("task") == "segment"
        weights = part_of(state, "modules", checkpoint)["model"]
        model = (_segmenter if segments else _classifier)(meta["config"]["model"], weights)
        if segments:
            _check_parts(meta, model.config)
    except (KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{checkpoint}: not a checkpoint of a point cloud network ({reason})"
        ) from error
    return model.to(device), meta


def load_classifier(
    checkpoint: str | Path, device: torch.device | str = "cpu"
) -> tuple[DGCNNClassifier, dict[str, Any]]:
    """`load_network` of a classifier.

    Raises:
        CheckpointError: it is a segmenter, or see there.
    """
    model, meta = load_network(checkpoint, device)
    if not isinstance(model, DGCNNClassifier):
        raise CheckpointError(f"{checkpoint}: a segmenter of points, not a classifier of clouds")
    return model, meta


def _check_parts(meta: dict[str, Any], config: Any) -> None:
    """Refuse descriptions whose parts are not those of the network."""
    names, of_class = meta["parts"], meta["parts_of_class"]
    classes = len(meta["classes"])
    known = {*range(config.num_parts)}
    good = len(names) == len(known) and len(of_class) == classes
    if not (good and all(numbers and known.issuperset(numbers) for numbers in of_class)):
        raise ValueError(f"its parts are not those of {len(known)} parts and {classes} classes")
    if config.num_categories not in (0, classes):
        raise ValueError(f"its network knows {config.num_categories} classes, not {classes}")


def _classifier(settings: dict[str, Any], weights: Any) -> DGCNNClassifier:
    config = DGCNNClassifierConfig(**settings)
    return build_with(lambda: DGCNNClassifier(config), config, weights)


def _segmenter(settings: dict[str, Any], weights: Any) -> DGCNNSegmenter:
    config = DGCNNSegmenterConfig(**settings)
    return build_with(lambda: DGCNNSegmenter(config), config, weights)
