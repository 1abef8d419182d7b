"""What a network sees in images: features and logits, from which scores are computed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polygraph.data.images import ImageDataset, to_float, to_uint8


class Extractor(Protocol):
    """A network that scores can be taken through.

    Attributes:
        label: what scores are labelled with: architecture and training set.

    Example:
        >>> from polygraph.models import create_model
        >>> extractor = create_model("lenet")  # has a label, and extract()
        >>> extractor.label
        'LeNet'

    See Also:
        `collect`; `polygraph.models.LeNet`, `polygraph.models.InceptionV3`.
    """

    label: str

    def extract(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features and logits.

        Args:
            images: float32 ``[B, C, H, W]`` in [-1, 1].

        Returns:
            Features ``[B, F]`` for FID, KID, precision and recall; logits ``[B, K]`` for IS.
        """
        ...


class Activations:
    """Features and logits of images, collected batch by batch.

    Images are rounded to the 256 values that a file could hold before the network sees them, so a
    score is that of the pictures and not of the generator's last digits. The result does not depend
    on the size of the batches, but for rounding.

    Args:
        extractor: the network. A module is set to evaluation mode for each batch.
        device: where it lives.

    Attributes:
        label: the extractor's.
        num_nonfinite: how many images, or what the extractor made of them, were not finite.

    Example:
        >>> import torch
        >>> from polygraph.metrics.image_scores import Activations
        >>> from polygraph.models import create_model
        >>> seen = Activations(create_model("lenet"))
        >>> seen.update(torch.rand(8, 1, 32, 32))
        >>> seen, seen.features().shape
        (Activations('LeNet', 8 images so far), torch.Size([8, 84]))

    See Also:
        `collect`, of a data set; `score`, of two of them.
    """

    def __init__(self, extractor: Extractor, device: torch.device | str = "cpu") -> None:
        self.extractor, self.device = extractor, torch.device(device)
        self.label = extractor.label
        self.num_nonfinite = 0
        self._features: list[Tensor] = []
        self._logits: list[Tensor] = []

    def __repr__(self) -> str:
        """One line: the extractor, and how many images it has seen."""
        return f"Activations({self.label!r}, {len(self)} images so far)"

    def __len__(self) -> int:
        """Number of images so far."""
        return sum(len(features) for features in self._features)

    @torch.no_grad()
    def update(self, images: Tensor) -> None:
        """Add images ``[B, C, H, W]``: uint8, or floating point in [-1, 1] (clipped, rounded).

        Raises:
            ValueError: another number of dimensions, or the extractor gives other shapes than it
                should.
        """
        if images.dim() != 4:
            raise ValueError(
                f"Activations: images must have shape [B, C, H, W], got {list(images.shape)}"
            )
        if not len(images):
            return
        images = images.to(self.device)
        finite = torch.isfinite(images).flatten(1).all(1)
        if images.dtype != torch.uint8:
            images = to_uint8(torch.where(finite[:, None, None, None], images, 0.0))
        with _evaluating(self.extractor):
            features, logits = self.extractor.extract(to_float(images))
        for name, rows in (("features", features), ("logits", logits)):
            if rows.dim() != 2 or len(rows) != len(images):
                raise ValueError(
                    f"Activations: the extractor ({self.label}) must give {name} of shape "
                    f"[{len(images)}, channels], got {list(rows.shape)}"
                )
        finite &= torch.isfinite(features).all(1) & torch.isfinite(logits).all(1)
        self.num_nonfinite += int((~finite).sum())
        self._features.append(features.cpu())
        self._logits.append(logits.cpu())

    def features(self) -> Tensor:
        """All features so far, float64 ``[N, F]`` on the CPU, in the order of the updates."""
        return self._all(self._features)

    def logits(self) -> Tensor:
        """All logits so far, float64 ``[N, K]`` on the CPU."""
        return self._all(self._logits)

    def _all(self, batches: list[Tensor]) -> Tensor:
        if not batches:
            raise ValueError("Activations: no images to measure, update() was never called")
        return torch.cat([batch.double() for batch in batches])


@contextmanager
def _evaluating(extractor: Any) -> Iterator[None]:
    """Evaluation mode, for those extractors that are modules and were training."""
    training = bool(getattr(extractor, "training", False))
    if training:
        extractor.eval()
    try:
        yield
    finally:
        if training:
            extractor.train()


def collect(
    extractor: Extractor,
    dataset: ImageDataset,
    indices: NDArray[np.int64] | None = None,
    *,
    batch_size: int = 250,
    device: torch.device | str = "cpu",
) -> Activations:
    """Activations of a data set's images: made once, used for every score of a run.

    Args:
        extractor: the network.
        dataset: the images.
        indices: which of them; None for those that train, which a generator imitates.
        batch_size: images at a time.
        device: where the extractor lives.

    Example:
        >>> import numpy as np
        >>> from polygraph.data import ImageDataset
        >>> from polygraph.metrics.image_scores import collect
        >>> from polygraph.models import create_model
        >>> images, train = np.zeros((4, 1, 32, 32), np.uint8), np.arange(3)
        >>> dataset = ImageDataset("mine", images, None, (), train, train[:0], "hash", "hash")
        >>> collect(create_model("lenet"), dataset)
        Activations('LeNet', 3 images so far)

    See Also:
        `Activations`, of batches that you make.
    """
    if batch_size < 1:
        raise ValueError(f"collect: batch_size must be at least 1, got {batch_size}")
    chosen = dataset.train if indices is None else indices
    activations = Activations(extractor, device)
    for start in range(0, len(chosen), batch_size):
        rows = chosen[start : start + batch_size]
        activations.update(torch.from_numpy(np.ascontiguousarray(dataset.images[rows])))
    return activations


def check_rows(owner: str, at_least: int, **rows: Tensor) -> None:
    """Refuse sets of features or logits that are not finite ``[N, channels]``, or too few."""
    width: int | None = None
    for name, x in rows.items():
        if x.dim() != 2 or not x.is_floating_point():
            raise ValueError(
                f"{owner}: {name} must be floating point of shape [N, channels], got {x.dtype} "
                f"{list(x.shape)}"
            )
        if width is not None and x.shape[1] != width:
            raise ValueError(
                f"{owner}: {name} must have as many channels as the other set, {width}, got "
                f"{x.shape[1]}"
            )
        width = x.shape[1]
        if len(x) < at_least:
            raise ValueError(f"{owner}: {name} must have at least {at_least} rows, got {len(x)}")
        if not bool(torch.isfinite(x).all()):
            raise ValueError(f"{owner}: {name} must be finite, got NaN or infinity")
