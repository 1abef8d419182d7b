"""Scores of generated images: Inception Score, FID, KID, precision and recall.

All of them look at images through a network, the extractor, and mean nothing without its name:
every value carries a label such as ``FID (LeNet, Fashion-MNIST)``. Unqualified, the names belong to
the Inception network that the published tables use.

torchmetrics computes IS, FID and KID, here on features in float64 that were extracted once for all
scores. Around it: the splits of IS have equal sizes (its own may be fewer than asked for), random
choices have a seed of their own and leave torch's global generator alone, and features are centred
before covariances are taken. Nothing is dropped: the last, smaller batch counts, and an image that
is not finite makes FID and KID infinite and the other scores NaN, and is reported.

Several processes: gather the activations (`polygraph.train.distributed.gather_rows`) and score them
on one; nothing here communicates.
"""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from polygraph.metrics.activations import Activations, Extractor, check_rows, collect
from polygraph.metrics.precision_recall import precision_recall
from polygraph.metrics.wasserstein import wasserstein_estimate

__all__ = [
    "Activations",
    "Extractor",
    "ImageScores",
    "collect",
    "frechet_distance",
    "inception_score",
    "kernel_distance",
    "precision_recall",
    "score",
    "wasserstein_estimate",
]
_LOWEST = -700.0  # of logarithms of probabilities: exp of it is still a normal float64


@contextmanager
def _quiet(seed: int) -> Iterator[None]:
    """Silence torchmetrics' hints, and give it a random stream of its own.

    The CPU's generator alone is seeded: `torch.manual_seed` would also seed those of all GPUs,
    which are not restored, and with them the run that is being scored.
    """
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.default_generator.manual_seed(seed)
        yield


class _Given(nn.Module):
    """What torchmetrics takes for the extractor: the features are there already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def _metric(name: str, module: str, *arguments: Any, **options: Any) -> Any:
    """A metric of torchmetrics that does not communicate."""
    try:
        # By module: the package shows these names only where its own Inception is installed.
        found = importlib.import_module(f"torchmetrics.image.{module}")
    except ImportError as error:
        raise ImportError(
            "scores of images need torchmetrics: pip install 'polygraph-nn[train]'"
        ) from error
    return getattr(found, name)(*arguments, sync_on_compute=False, **options)


def inception_score(logits: Tensor, splits: int = 10, seed: int = 0) -> tuple[float, float]:
    """Inception Score: exp of the mean KL divergence of p(class | image) from p(class).

    From 1 (every image alike to the network) to K (sure of every image, all classes equally
    frequent). The images are shuffled and shared among the splits, whose sizes differ by one image
    at most; none is left out.

    Source: Salimans et al., "Improved Techniques for Training GANs", NeurIPS 2016, section 4.

    Args:
        logits: ``[N, K]``, N at least `splits`.
        splits: number of parts; 10 in the published tables.
        seed: of the shuffle. Deterministic.

    Returns:
        Mean and population standard deviation over the splits (as in the authors' code).

    Raises:
        ValueError: fewer images than splits, another shape, a value that is not finite.

    Example:
        >>> import torch
        >>> from polygraph.metrics.image_scores import inception_score
        >>> logits = 20.0 * torch.eye(4).repeat(5, 1)  # sure of every image, four classes alike
        >>> mean, std = inception_score(logits, splits=1)
        >>> round(mean, 3)
        4.0

    See Also:
        `score`, all scores at once.
    """
    if splits < 1:
        raise ValueError(f"inception_score: splits must be at least 1, got {splits}")
    check_rows("inception_score", splits, logits=logits)
    # A probability that underflows to 0 in a whole split would give 0 · (-inf - -inf).
    log_p = logits.detach().cpu().double().log_softmax(1).clamp(min=_LOWEST)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(log_p)))
    scores = []
    with _quiet(seed):
        for part in log_p[order].tensor_split(splits):
            metric = _metric("InceptionScore", "inception", nn.Identity(), splits=1)
            metric.update(part)
            scores.append(float(metric.compute()[0]))
    return float(np.mean(scores)), float(np.std(scores))


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """Fréchet distance of the Gaussians fitted to two sets of features (FID, with Inception's).

    ``|μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2 (Σ₁ Σ₂)^½)``, Σ with N - 1 in the denominator. It is biased: the
    distance of two samples of one distribution falls with N and is never 0, so compare values at
    equal N only.

    Source: Heusel et al., "GANs Trained by a Two Time-Scale Update Rule", NeurIPS 2017.

    Args:
        real: features ``[N, F]``, N at least 2.
        fake: features ``[M, F]``, M at least 2.

    Returns:
        0 or more: what rounding makes negative is 0. Deterministic.

    Raises:
        ValueError: another shape, too few rows, a value that is not finite.

    Example:
        >>> import torch
        >>> from polygraph.metrics.image_scores import frechet_distance
        >>> features = torch.randn(100, 4)
        >>> round(frechet_distance(features, features + 1.0), 3)  # |(1, 1, 1, 1)|²
        4.0

    See Also:
        `kernel_distance`, without bias for few images; `score`.
    """
    check_rows("frechet_distance", 2, real=real, fake=fake)
    real, fake = real.detach().cpu().double(), fake.detach().cpu().double()
    # The metric sums squares; far from the origin their difference would be all rounding.
    centre = real.mean(0)
    with _quiet(0):
        metric = _metric("FrechetInceptionDistance", "fid", _Given(real.shape[1]))
        metric.update(real - centre, real=True)
        metric.update(fake - centre, real=False)
        return max(0.0, float(metric.compute()))


def kernel_distance(
    real: Tensor, fake: Tensor, subsets: int = 50, subset_size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Squared maximum mean discrepancy with the kernel (xᵀy / F + 1)³ (KID, with Inception's).

    The unbiased estimator, on random subsets: its mean for two samples of one distribution is 0, so
    a value may be negative.

    Source: Bińkowski et al., "Demystifying MMD GANs", ICLR 2018.

    Args:
        real: features ``[N, F]``, N at least 2.
        fake: features ``[M, F]``, M at least 2.
        subsets: number of subsets, drawn without replacement from each set.
        subset_size: their size; of smaller sets, all rows.
        seed: of the draws. Deterministic.

    Returns:
        Mean and population standard deviation over the subsets.

    Raises:
        ValueError: another shape, too few rows, a value that is not finite.

    Example:
        >>> import torch
        >>> from polygraph.metrics.image_scores import kernel_distance
        >>> features = torch.randn(100, 4)
        >>> mean, std = kernel_distance(features, features + 1.0, subsets=5, subset_size=50)
        >>> mean > 1.0
        True

    See Also:
        `frechet_distance`; `score`.
    """
    if subsets < 1 or subset_size < 2:
        raise ValueError(
            "kernel_distance: subsets must be at least 1 and subset_size at least 2, got "
            f"{subsets} and {subset_size}"
        )
    check_rows("kernel_distance", 2, real=real, fake=fake)
    size = min(subset_size, len(real), len(fake))
    with _quiet(seed):
        given = _Given(real.shape[1])
        options = {"subsets": subsets, "subset_size": size}
        metric = _metric("KernelInceptionDistance", "kid", given, **options)
        metric.update(real.detach().cpu().double(), real=True)
        metric.update(fake.detach().cpu().double(), real=False)
        mean, std = metric.compute()
    return float(mean), float(std)


@dataclass(frozen=True)
class ImageScores:
    """What `score` found.

    Attributes:
        label: the extractor's: "LeNet, Fashion-MNIST".
        is_mean: Inception Score, mean over the splits; NaN when an image was not finite.
        is_std: its standard deviation over the splits.
        fid: Fréchet distance; infinite when an image was not finite.
        kid_mean: kernel distance, mean over the subsets; infinite when an image was not finite.
        kid_std: its standard deviation over the subsets.
        precision: share of generated images in the real manifold; NaN when one was not finite.
        recall: share of real images in the generated manifold; NaN when one was not finite.
        num_real: real images used.
        num_fake: generated images used.
        num_nonfinite: how many of these were not finite.

    Example:
        >>> import torch
        >>> from polygraph.metrics.image_scores import Activations, score
        >>> from polygraph.models import create_model
        >>> network = create_model("lenet", num_features=16)
        >>> real, fake = Activations(network), Activations(network)
        >>> for seen in (real, fake):
        ...     seen.update(torch.rand(64, 1, 32, 32))
        >>> scores = score(real, fake, subset_size=32, subsets=2)
        >>> sorted(scores.summary())[:3]  # each says what saw the images
        ['FID (LeNet)', 'IS (LeNet)', 'IS std (LeNet)']

    See Also:
        `score`, which makes it.
    """

    label: str
    is_mean: float
    is_std: float
    fid: float
    kid_mean: float
    kid_std: float
    precision: float
    recall: float
    num_real: int
    num_fake: int
    num_nonfinite: int

    def summary(self) -> dict[str, float]:
        """The numbers under their full names, ready for a log or a table."""
        of = f" ({self.label})"
        return {
            "IS" + of: self.is_mean,
            "IS std" + of: self.is_std,
            "FID" + of: self.fid,
            "KID" + of: self.kid_mean,
            "KID std" + of: self.kid_std,
            "precision" + of: self.precision,
            "recall" + of: self.recall,
            "num_real": float(self.num_real),
            "num_fake": float(self.num_fake),
            "num_nonfinite": float(self.num_nonfinite),
        }

    def __str__(self) -> str:
        """One line for people."""
        line = (
            f"IS {self.is_mean:.3f} ± {self.is_std:.3f}, FID {self.fid:.3f}, "
            f"KID {self.kid_mean:.4f} ± {self.kid_std:.4f}, precision {self.precision:.3f}, "
            f"recall {self.recall:.3f} ({self.label}; {self.num_fake} images)"
        )
        if self.num_nonfinite:
            line += f" ({self.num_nonfinite} images not finite)"
        return line


def score(
    real: Activations,
    fake: Activations,
    *,
    splits: int = 10,
    subsets: int = 50,
    subset_size: int = 1000,
    neighbors: int = 3,
    max_neighbor_rows: int = 10_000,
    seed: int = 0,
) -> ImageScores:
    """All scores of generated images against real ones.

    Args:
        real: activations of real images.
        fake: activations of generated images, through the same extractor.
        splits: of the Inception Score.
        subsets: of KID.
        subset_size: of KID.
        neighbors: of precision and recall.
        max_neighbor_rows: precision and recall, whose cost is quadratic, are of as many images of
            either set at most, drawn from the seed.
        seed: of all draws. Deterministic.

    Raises:
        ValueError: the extractors differ; a set is empty or has no more images than features, whose
            covariance is then singular and FID a matter of the number of images; a real image is
            not finite.

    Example:
        >>> import torch
        >>> from polygraph.metrics.image_scores import Activations, score
        >>> from polygraph.models import create_model
        >>> network = create_model("lenet", num_features=16)  # a trained one, in earnest
        >>> real, fake = Activations(network), Activations(network)
        >>> for seen in (real, fake):
        ...     seen.update(torch.rand(64, 1, 32, 32))
        >>> scores = score(real, fake, subset_size=32, subsets=2)
        >>> scores.label, scores.num_real, scores.fid > 0
        ('LeNet', 64, True)

    See Also:
        `frechet_distance`, `kernel_distance`, `inception_score`, `precision_recall`, which it
        calls.
    """
    if real.label != fake.label:
        raise ValueError(
            f"score: both sets must be seen by one extractor, got {real.label!r} for real and "
            f"{fake.label!r} for fake"
        )
    if real.num_nonfinite:
        raise ValueError(f"score: real images must be finite, got {real.num_nonfinite} that aren't")
    x, y = real.features(), fake.features()
    for name, rows in (("real", x), ("fake", y)):
        low = max(rows.shape[1] + 1, splits, neighbors + 1)
        if len(rows) < low:
            raise ValueError(
                f"score: {name} must hold at least {low} images (more than the {rows.shape[1]} "
                f"features, the splits and the neighbors), got {len(rows)}"
            )
    counts = {"num_real": len(x), "num_fake": len(y), "num_nonfinite": fake.num_nonfinite}
    if fake.num_nonfinite:
        nan, inf = math.nan, math.inf
        return ImageScores(real.label, nan, nan, inf, inf, nan, nan, nan, **counts)
    inception = inception_score(fake.logits(), splits, seed)
    kernel = kernel_distance(x, y, subsets, subset_size, seed)
    draw = np.random.default_rng(seed)
    few = [
        rows[torch.from_numpy(draw.permutation(len(rows))[:max_neighbor_rows])] for rows in (x, y)
    ]
    manifold = precision_recall(few[0], few[1], neighbors)
    return ImageScores(real.label, *inception, frechet_distance(x, y), *kernel, *manifold, **counts)
