"""A finished run for verification: its embedder without its head and its data."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from polygraph._arrays import as_numpy
from polygraph.data.identities import (
    IdentityDataConfig,
    IdentityDataset,
    divided,
    open_identities,
)
from polygraph.data.image_files import read_picture
from polygraph.data.images import ImageDataset, pad_images
from polygraph.data.pairs import PairList
from polygraph.data.shapes import ShapeDataset
from polygraph.mesh.cloud import read_cloud
from polygraph.mesh.origin import ZERO, checked_point, to_float32
from polygraph.metrics.verification import pair_scores, verification_summary
from polygraph.models.state import build_with
from polygraph.tasks.verify.embedder import Embedder, embedder_config, is_of_points
from polygraph.tasks.verify.learning import embed_samples
from polygraph.train.checkpoint import CheckpointError, load_checkpoint, part_of
from polygraph.train.frame import SupervisedRun
from polygraph.train.recorded import checkpoint_of
from polygraph.train.supervised import RESULT

_BATCH = 64
_SCALED = ("folder", "orl", "omniglot")  # kinds whose pictures are scaled to the network's size


class Verified(NamedTuple):
    """Whether samples are of one identity.

    Attributes:
        similarity: float64 ``[B]``, cosines of embeddings.
        same: bool ``[B]``: the similarity is at least the threshold.
        threshold: the run's: right for most of the validation pairs.
    """

    similarity: NDArray[np.float64]
    same: NDArray[np.bool_]
    threshold: float


@dataclass(frozen=True, repr=False)
class Run(SupervisedRun):
    """A trained embedder.

    From `polygraph.tasks.verify.train` or `polygraph.tasks.verify.load`. Its ``model`` maps images
    ``[B, C, H, W]`` in [-1, 1], or clouds ``[B, N, 3]``, to embeddings ``[B, D]``.
    """

    def __repr__(self) -> str:
        """Folder, embedding, identities."""
        width, count = self.model.embedding_dim, len(self.meta["identities"])
        return f"Run({str(self.folder)!r}, embedding of {width}, {count} training identities)"

    @property
    def threshold(self) -> float:
        """Pairs are of one identity from this similarity on: best for the validation pairs.

        Raises:
            CheckpointError: training has not come to its end.
        """
        if not self.result:
            raise CheckpointError(
                f"{self.folder}: no threshold yet: training has not come to its end ({RESULT} is "
                "missing)"
            )
        return float(self.result["val"]["threshold"])

    def embed(self, samples: Any) -> NDArray[np.float64]:
        """Embeddings ``[B, D]``, whose direction says whom a sample shows.

        Args:
            samples: images uint8 ``[B, C, H, W]`` or one ``[C, H, W]``, smaller ones padded with
                black; or clouds ``[B, N, 3]`` or one ``[N, 3]``, as those in training: of
                ``--kind meshes`` centred, in metres. Numpy or torch.

        Raises:
            ValueError: the shape or dtype is wrong, or there are no samples.
        """
        dataset = (
            self._clouds(samples) if is_of_points(self.model.config) else self._images(samples)
        )
        return self._embedded(dataset, np.arange(len(dataset.train)))

    def similarity(self, first: Any, second: Any) -> NDArray[np.float64]:
        """Cosines ``[B]`` of the embeddings of B samples and B others; see `embed`.

        Raises:
            ValueError: see `embed`; or there are not as many of both.
        """
        one, other = self.embed(first), self.embed(second)
        if len(one) != len(other):
            raise ValueError(
                f"similarity: there must be as many second samples as first ones, {len(one)}, got "
                f"{len(other)}"
            )
        places = np.arange(len(one))
        return pair_scores(np.concatenate([one, other]), places, len(one) + places)

    def verify(self, first: Any, second: Any) -> Verified:
        """Whether B samples and B others are of one identity each; see `embed`.

        Raises:
            CheckpointError: training has not come to its end.
            ValueError: see `similarity`.
        """
        threshold, found = self.threshold, self.similarity(first, second)
        return Verified(found, found >= threshold, threshold)

    def read(self, path: str | os.PathLike[str]) -> NDArray[Any]:
        """A picture, or a point cloud, as `embed` wants it.

        Pictures are scaled, and cut about their middle, as those of folders are; of other data, as
        MNIST, those that are no larger are padded. Of clouds as many points are drawn as training
        had, where there are more; those of ``--kind meshes`` are centred.

        Raises:
            ImportError, ValueError: see `polygraph.data.image_files.read_picture`.
            MeshError: see `polygraph.mesh.cloud.read_cloud`.
        """
        config, data = self.model.config, self.meta["config"]["data"]
        if not is_of_points(config):
            pad = data["kind"] not in _SCALED
            return read_picture(path, config.size, config.in_channels, pad_small=pad)
        points = read_cloud(path)
        if data["kind"] == "meshes":
            points = points - points.mean(0)
        count = int(self.meta["points"])
        if len(points) > count:
            points = points[np.random.default_rng(0).permutation(len(points))[:count]]
        return points

    def evaluate(self, pairs: PairList, data: Any = None, *, resamples: int = 0) -> dict[str, Any]:
        """`polygraph.metrics.verification.verification_summary` of a list of pairs.

        Args:
            pairs: from `polygraph.data.pairs.make_pairs` or `polygraph.data.pairs.read_pairs`,
                numbers of samples of the data.
            data: default: what the run was trained on. Or a folder or archive like it, or an
                `ImageDataset` or `ShapeDataset`.
            resamples: of identities, for intervals.

        Raises:
            ValueError: the list names samples that the data do not have.
        """
        dataset = self._opened(data)
        assert dataset.labels is not None
        rows = np.unique(np.concatenate([pairs.first, pairs.second]))
        if rows[0] < 0 or rows[-1] >= len(dataset.labels):
            raise ValueError(
                f"{dataset.name}: has {len(dataset.labels)} samples, and the pairs name {rows[-1]}"
            )
        first, second = (np.searchsorted(rows, index) for index in (pairs.first, pairs.second))
        return verification_summary(
            pair_scores(self._embedded(dataset, rows), first, second),
            pairs.same,
            pairs.fold if pairs.num_folds > 1 else None,
            identities=pairs.identities(dataset.labels),
            by="identities",
            resamples=resamples,
        )

    def _embedded(self, dataset: IdentityDataset, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        return embed_samples(self.model, dataset, rows, _BATCH, bool(self.meta["config"]["mirror"]))

    def _images(self, images: Any) -> ImageDataset:
        """Images ``[B, C, H, W]`` in the network's size."""
        pixels, config = as_numpy(images), self.model.config
        pixels = pixels[None] if pixels.ndim == 3 else pixels
        good = pixels.ndim == 4 and pixels.shape[1] == config.in_channels and len(pixels)
        if not good or pixels.dtype != np.uint8:
            raise ValueError(
                f"embed: images must be uint8 of shape [B, {config.in_channels}, H, W] or "
                f"[{config.in_channels}, H, W], got {pixels.dtype} {list(pixels.shape)}"
            )
        padded = pad_images("embed", [pixels], config.size)
        none = np.empty(0, np.int64)
        return ImageDataset("embed", padded, None, (), np.arange(len(padded)), none, "", "")

    def _clouds(self, clouds: Any) -> ShapeDataset:
        """Clouds ``[B, N, 3]``, less the run's origin."""
        points = as_numpy(clouds)
        points = points[None] if points.ndim == 2 else points
        if points.ndim != 3 or points.shape[2] != 3 or not len(points):
            raise ValueError(
                f"embed: clouds must have shape [B, N, 3] or [N, 3], got {list(points.shape)}"
            )
        origin = checked_point(self.meta.get("origin", ZERO))
        single = to_float32(points, "embed", 0, origin, "cloud")
        every, none = np.arange(len(single)), np.empty(0, np.int64)
        return ShapeDataset("embed", single, every, (), every, none, none, "", "")

    def _opened(self, data: Any) -> IdentityDataset:
        """Samples that were handed over, or what the run was trained on."""
        if isinstance(data, ImageDataset | ShapeDataset):
            return data
        path = None if data is None else os.fspath(data)
        found: IdentityDataset = self.opened(open_identities, IdentityDataConfig, path)
        return found


def in_memory(data: Any, config: IdentityDataConfig) -> IdentityDataset | None:
    """The set of samples that were handed over; None of a path or a name.

    Args:
        data: ``(images uint8 [N, C, H, W], identities [N])``, ``(clouds [N, P, 3], identities)``,
            an `ImageDataset` or a `ShapeDataset` with labels; or a path.
        config: says how identities are divided, and the size of images.

    Raises:
        TypeError: it is nothing that samples can come from.
        ValueError: see `polygraph.data.identities.divided`.
    """
    if isinstance(data, ImageDataset | ShapeDataset):
        return divided(data, config)
    if isinstance(data, tuple | list) and len(data) == 2:
        samples = as_numpy(data[0])
        if samples.ndim == 3:
            label = as_numpy(data[1])
            often = np.bincount(label).argmax() if label.dtype.kind in "iu" else 0
            any_of = int(np.argmax(label == often))  # parts are drawn below; one must be there
            made: IdentityDataset = ShapeDataset.from_arrays(samples, label, test=[any_of])
        else:
            made = ImageDataset.from_arrays(samples, data[1], size=config.size)
        return divided(made, config)
    if isinstance(data, str | os.PathLike):
        return None
    raise TypeError(
        "data must be a folder, an archive, 'glyphs', (samples, identities), an ImageDataset "
        f"or a ShapeDataset, got {type(data).__name__}"
    )


def load_run(folder: str | Path, device: torch.device | str = "cpu") -> Run:
    """Load the weights that were best on validation.

    Raises:
        CheckpointError: the folder holds no run for verification.
    """
    folder = Path(folder)
    checkpoint = checkpoint_of(folder, "verify")
    assert checkpoint is not None  # of a mesh autoencoder alone there is none
    return Run(folder, *load_embedder(checkpoint, device))


def load_embedder(
    checkpoint: str | Path, device: torch.device | str = "cpu"
) -> tuple[nn.Module, dict[str, Any]]:
    """Build the embedder of a checkpoint, such as ``best.safetensors`` in a run's folder.

    Its head is left out, so that no extra is needed.

    Returns:
        The embedder in eval mode, and the checkpoint's description.

    Raises:
        CheckpointError: the checkpoint is unreadable, or of something else.
    """
    state, meta = load_checkpoint(checkpoint)
    try:
        config = embedder_config(meta["family"], meta["config"]["model"])
        weights = part_of(state, "modules", checkpoint)["model"]
        own = {
            name.removeprefix("embedder."): value
            for name, value in weights.items()
            if not name.startswith("head.")
        }
        model = build_with(lambda: Embedder(config), config, own)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{checkpoint}: not a checkpoint of an embedder ({reason})"
        ) from error
    return model.to(device), meta
