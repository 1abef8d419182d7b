"""The convex problem of one layer: its data, made for some inputs at a time, loss and gradient."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from polygraph.models.convexified.network import ConvexifiedLayer
from polygraph.models.convexified.nuclear import nuclear_norm, operator_norm

_CHUNK = 1 << 24  # numbers that one step of a pass over the data makes, beside others as large
_SAMPLES = 64  # inputs, at least, that Nyström's patches are chosen from


class Inputs:
    """What comes into a layer: kept, or made of what comes into the network.

    Args:
        x: ``[N, ...]``; bytes count as 0 to 1.
        dtype: of what is made of them.
        before: layers that they go through.
    """

    def __init__(
        self, x: Tensor, dtype: torch.dtype, before: Sequence[ConvexifiedLayer] = ()
    ) -> None:
        self.x, self.dtype, self.before = x, dtype, tuple(before)

    def __len__(self) -> int:
        """N."""
        return len(self.x)

    def take(self, rows: Tensor | slice) -> Tensor:
        """Those of these numbers."""
        x = self.x[rows]
        x = x.to(self.dtype) / 255 if x.dtype == torch.uint8 else x.to(self.dtype)
        for layer in self.before:
            x = layer(x)
        return x

    def chunks(self, layer: ConvexifiedLayer) -> Iterator[slice]:
        """Rows that are taken at a time, so that what ``layer`` and others make is bounded."""
        step = self.rows_at_once(layer)
        for start in range(0, len(self), step):
            yield slice(start, min(len(self), start + step))

    def rows_at_once(self, layer: ConvexifiedLayer) -> int:
        """How many of them."""
        widest = max(
            each.patches.num_patches * max(each.mean.shape[0], each.features.num_features)
            for each in (*self.before, layer)
        )
        return max(1, _CHUNK // widest)

    def after(self, layer: ConvexifiedLayer, pooled: Pooled, channels: int, memory: int) -> Inputs:
        """What comes into the next layer, which uses so many channels."""
        used = min(channels, layer.num_filters)
        itemsize = torch.empty((), dtype=self.dtype).element_size()
        if len(self) * layer.patches.num_pooled * used * itemsize > memory:
            return Inputs(self.x, self.dtype, (*self.before, layer))
        maps = []
        for rows in self.chunks(layer):
            found = layer.maps(pooled.take(rows))
            # A copy: a slice would keep the channels that nobody uses.
            maps.append(found[:, :used].clone() if found.dim() == 4 else found[..., :used].clone())
        return Inputs(torch.cat(maps), self.dtype)


class Pooled:
    """Pooled features ``[N, Q, m]`` of a data set: kept if they fit, or made when they are taken.

    What `take` returns is read before it is called again.

    Args:
        layer: whose normalisation is fitted.
        inputs: what comes into it.
        memory: bytes that may be kept.
    """

    def __init__(self, layer: ConvexifiedLayer, inputs: Inputs, memory: int) -> None:
        self.layer, self.inputs = layer, inputs
        self.kept: Tensor | None = None
        self._taken: Tensor | None = None
        shape = (len(inputs), layer.patches.num_pooled, layer.features.num_features)
        itemsize = torch.empty((), dtype=inputs.dtype).element_size()
        if shape[0] * shape[1] * shape[2] * itemsize <= memory:
            kept = torch.empty(shape, dtype=inputs.dtype)
            for rows in inputs.chunks(layer):
                kept[rows] = layer.pooled(inputs.take(rows))
            self.kept = kept

    def take(self, rows: Tensor | slice) -> Tensor:
        """Those of these numbers ``[B, Q, m]``."""
        if self.kept is not None:
            if isinstance(rows, slice):
                return self.kept[rows]
            if self._taken is None or len(self._taken) != len(rows):
                self._taken = torch.empty(len(rows), *self.kept.shape[1:], dtype=self.kept.dtype)
            # Memory that was written before is written faster.
            return torch.index_select(self.kept, 0, rows, out=self._taken)
        if isinstance(rows, slice):
            return self.layer.pooled(self.inputs.take(rows))
        some = torch.split(rows, self.inputs.rows_at_once(self.layer))
        return torch.cat([self.layer.pooled(self.inputs.take(part)) for part in some])


def fit_normalisation(layer: ConvexifiedLayer, inputs: Inputs, generator: torch.Generator) -> None:
    """Set a layer's whitening, random features, centre and scale from a training set.

    Args:
        layer: is changed.
        inputs: the training set alone.
        generator: draws the features.

    Raises:
        ValueError: patches or features do not differ at all, or are not finite.
    """
    if layer.config.zca is not None:
        _fit_whitening(layer, inputs)
    layer.features.fit(_sample(layer, inputs, generator), generator)
    count, total = 0, torch.zeros_like(layer.center, dtype=torch.float64)
    squares = 0.0
    for rows in inputs.chunks(layer):
        raw = layer.raw(inputs.take(rows)).flatten(0, 1).double()
        count += len(raw)
        total += raw.sum(0)
        squares += float(raw.square().sum())
    mean = total / count
    spread = squares / count - float(mean.square().sum())
    if not spread > 1e-12 * max(squares / count, 1e-30):
        raise ValueError(
            "ConvexifiedCNN: features must be finite and differ from patch to patch, but all are "
            f"alike or not finite (their variance is {spread:.3g})"
        )
    layer.center.copy_(mean)
    layer.scale.fill_(spread**-0.5)


def _fit_whitening(layer: ConvexifiedLayer, inputs: Inputs) -> None:
    """ZCA of all patches, after their normalisation: ``(covariance + zca)^(-1/2)``."""
    size = layer.mean.shape[0]
    total = torch.zeros(size, dtype=torch.float64)
    products = torch.zeros(size, size, dtype=torch.float64)
    count = 0
    for rows in inputs.chunks(layer):
        patches = layer.normalized(inputs.take(rows)).flatten(0, 1)
        count += len(patches)
        total += patches.sum(0, dtype=torch.float64)
        products += patches.T @ patches
    mean = total / count
    values, vectors = torch.linalg.eigh(products / count - torch.outer(mean, mean))
    assert layer.config.zca is not None
    layer.mean.copy_(mean)
    layer.whitening.copy_((vectors * (values.clamp(min=0) + layer.config.zca).rsqrt()) @ vectors.T)


def _sample(layer: ConvexifiedLayer, inputs: Inputs, generator: torch.Generator) -> Tensor:
    """Patches ``[n, d]`` of some inputs, for features that are made of patches."""
    if layer.config.method != "nystroem":
        return torch.empty(0, layer.mean.shape[0])
    wanted = 8 * layer.features.num_features // layer.patches.num_patches + 1
    rows = torch.randperm(len(inputs), generator=generator)[: max(_SAMPLES, wanted)]
    return layer.whitened(inputs.take(rows)).flatten(0, 1)


@dataclass(frozen=True)
class Certificate:
    """How far a solution is from the best one, proved by convexity.

    Attributes:
        loss: mean logistic loss over the training set (and all crops), in nats.
        lower_bound: no matrix in the ball has a smaller loss.
        nuclear_norm: of the solution.
        radius: of the ball.

    Example:
        >>> from polygraph.models.convexified import Certificate
        >>> Certificate(loss=0.21, lower_bound=0.2, nuclear_norm=99.8, radius=100)
        Certificate(loss=0.21, optimum >= 0.2, gap=0.01, nuclear norm 99.8 of 100)
    """

    loss: float
    lower_bound: float
    nuclear_norm: float
    radius: float

    @property
    def gap(self) -> float:
        """``loss - lower_bound``: the loss is at most so far from the best."""
        return max(0.0, self.loss - self.lower_bound)

    def __repr__(self) -> str:
        """One line."""
        return (
            f"Certificate(loss={self.loss:.4g}, optimum >= {self.lower_bound:.4g}, "
            f"gap={self.gap:.3g}, nuclear norm {self.nuclear_norm:.4g} of {self.radius:g})"
        )


class LogisticProblem:
    """Multinomial logistic loss of ``tr(Z(x) A_k)`` over all A with ``|A|_* <= R``.

    A is held as weights ``[Q', m, K - 1]`` and is the matrix ``[m, Q'·(K - 1)]`` to the ball
    (`as_matrix`). Of crops the loss is the mean over all of them.

    Args:
        pooled: the data.
        labels: int64 ``[N]`` in ``[0, num_classes)``.
        num_classes: K; the last has the logit 0.
        radius: R.
        crops: int64 ``[T, Q']``.
    """

    def __init__(
        self, pooled: Pooled, labels: Tensor, num_classes: int, radius: float, crops: Tensor
    ) -> None:
        self.pooled, self.labels, self.radius, self.crops = pooled, labels, radius, crops
        self.num_classes = num_classes
        m = pooled.layer.features.num_features
        self.shape = (crops.shape[1], m, num_classes - 1)
        self._whole = crops.shape == (1, pooled.layer.patches.num_pooled)

    def zeros(self) -> Tensor:
        """Weights 0."""
        return torch.zeros(self.shape, dtype=self.pooled.inputs.dtype)

    def sgd_step(self, weight: Tensor, size: int, rate: float, generator: torch.Generator) -> None:
        """Change weights by a gradient of so many inputs, drawn with replacement, and crops."""
        rows = torch.randint(len(self.labels), (size,), generator=generator)
        features = self.pooled.take(rows)
        if not self._whole:
            crop = self.crops[torch.randint(len(self.crops), (size,), generator=generator)]
            features = features[torch.arange(size)[:, None], crop]
        flat = features.flatten(1)
        flat_weight = weight.view(-1, weight.shape[2])
        residual = self._residual(flat @ flat_weight, self.labels[rows])[1]
        flat_weight.addmm_(flat.T, residual, alpha=-rate / size)

    def evaluate(self, weight: Tensor) -> tuple[float, Tensor]:
        """Loss and gradient ``[Q', m, K - 1]`` (float64) over all inputs and crops."""
        loss, gradient = 0.0, torch.zeros(self.shape, dtype=torch.float64).flatten(0, 1)
        flat_weight, count = weight.flatten(0, 1), len(self.labels) * len(self.crops)
        for rows, features in self._passes():
            part, residual = self._residual(features @ flat_weight, self.labels[rows])
            loss += part
            gradient += features.T @ residual
        return loss / count, gradient.view(self.shape) / count

    def scores(self, weight: Tensor) -> Tensor:
        """Logits but the last, float64 ``[N·T, K - 1]``, in the order of `targets`."""
        flat = weight.flatten(0, 1)
        return torch.cat([(features @ flat).double() for _, features in self._passes()])

    def targets(self) -> Tensor:
        """Labels ``[N·T]`` in the order of `scores`."""
        return torch.cat([self.labels[rows] for rows, _ in self._passes(make=False)])

    def loss_of(self, scores: Tensor, targets: Tensor) -> float:
        """The loss of logits, as `scores` gives them."""
        return self._residual(scores, targets)[0] / len(targets)

    def slope(self, scores: Tensor, direction: Tensor, targets: Tensor) -> float:
        """Derivative of the loss at ``scores`` along ``direction``, another array of scores."""
        residual = self._residual(scores, targets)[1]
        return float((residual * direction).sum()) / len(targets)

    def bound(self, weight: Tensor, loss: float, gradient: Tensor) -> float:
        """A lower bound of the optimum: of the tangent plane at ``weight`` over the ball."""
        inner = float((weight.double() * gradient).sum())
        return loss - inner - self.radius * operator_norm(as_matrix(gradient))

    def certificate(self, weight: Tensor, loss: float, lower_bound: float) -> Certificate:
        """What is known of ``weight``; the loss, and so the optimum, is never below 0."""
        norm = nuclear_norm(as_matrix(weight))
        return Certificate(loss, max(0.0, lower_bound), norm, self.radius)

    def _passes(self, make: bool = True) -> Iterator[tuple[slice, Tensor]]:
        for rows in self.pooled.inputs.chunks(self.pooled.layer):
            features = self.pooled.take(rows) if make else self.crops
            for crop in self.crops:
                if not make or self._whole:
                    yield rows, features.flatten(1)
                else:
                    yield rows, features[:, crop].flatten(1)

    def _residual(self, scores: Tensor, labels: Tensor) -> tuple[float, Tensor]:
        """Sum of losses, and probabilities less truth ``[B, K - 1]``."""
        logits = torch.nn.functional.pad(scores, (0, 1))
        logs = logits.log_softmax(1)
        loss = -float(logs.double().gather(1, labels[:, None]).sum())
        truth = torch.nn.functional.one_hot(labels, self.num_classes).to(scores.dtype)
        return loss, (logs.exp() - truth)[:, :-1]


def as_matrix(weight: Tensor) -> Tensor:
    """Weights ``[Q', m, K - 1]`` as the matrix ``[m, Q'·(K - 1)]`` whose rank counts filters."""
    return weight.permute(1, 0, 2).flatten(1)


def as_weight(matrix: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """The inverse of `as_matrix`."""
    positions, features, classes = shape
    return matrix.view(features, positions, classes).permute(1, 0, 2).contiguous()
