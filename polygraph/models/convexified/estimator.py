"""Convexified networks as an estimator: fit, predict, score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polygraph._arrays import as_numpy
from polygraph._checks import check_positive
from polygraph._names import unknown_name
from polygraph.data.images import ImageDataset
from polygraph.models.convexified.config import PRESETS, ConvexifiedLayerConfig
from polygraph.models.convexified.network import (
    ConvexifiedLayer,
    ConvexifiedNetwork,
    check_layers,
)
from polygraph.models.convexified.patches import GraphPatches
from polygraph.models.convexified.problem import (
    Certificate,
    Inputs,
    LogisticProblem,
    Pooled,
    as_matrix,
    fit_normalisation,
)
from polygraph.models.convexified.solvers import Step, Tracker, solve

Labels = NDArray[Any]


class ConvexifiedCNN:
    """A convolutional network of one to three layers, each trained by a convex problem.

    Instead of filters and the weights behind them the matrix of their products is learned, in a
    ball of the nuclear norm; nonlinear activations are features of a kernel. So a layer's training
    has no local minima, and a certificate says how far from the best it ended. Its first singular
    vectors are filters, whose outputs the next layer is trained on.

    Source: Zhang, Liang and Wainwright, "Convexified Convolutional Neural Networks", ICML 2017,
    algorithms 1 and 2; constants, contrast normalisation, whitening and pooling are those of the
    authors' code. We depart from it: whitening and centring are fitted on the training set alone,
    whatever is drawn has a seed, features need not be kept.

    Args:
        layers: a configuration for each layer; or the name of a preset, such as ``"ccnn-2-mnist"``.
        graphs: patches on graphs or meshes, one for each layer; None: images.
        seed: draws random features, mini-batches and crops.
        memory: bytes of a layer's features that may be kept; beyond, they are made again whenever
            they are read. Chunks come on top: 210 MB at CIFAR-10's sizes.
        say: called with lines for people; None: nothing is said.

    Attributes:
        network_: a `ConvexifiedNetwork`, an ordinary module.
        classes_: ``[K]``, labels in the order of logits.
        certificates_: a `Certificate` for each layer.
        history_: for each layer a list of `Step`.

    Raises:
        ValueError: an unknown preset, no layer, graphs of another number.

    Example:
        >>> import torch
        >>> from polygraph.models import ConvexifiedCNN, ConvexifiedLayerConfig
        >>> stripes = torch.zeros(60, 1, 8, 8)
        >>> stripes[:30, :, ::2], stripes[30:, :, :, ::2] = 1.0, 1.0
        >>> labels = torch.arange(60) // 30
        >>> layer = ConvexifiedLayerConfig(
        ...     patch_size=3, num_features=30, radius=2.0, solver="accelerated"
        ... )
        >>> model = ConvexifiedCNN([layer]).fit(stripes + 0.1 * torch.randn(60, 1, 8, 8), labels)
        >>> model.score(stripes, labels)
        1.0
        >>> certificate = model.certificates_[0]
        >>> certificate.gap <= 0.01 * certificate.loss
        True

    See Also:
        `ConvexifiedLayerConfig`; `ConvexifiedNetwork`; `polygraph.nn.convex` for networks that are
        convex in their input, which is another matter.
    """

    network_: ConvexifiedNetwork
    classes_: Labels
    certificates_: list[Certificate]
    history_: list[list[Step]]

    def __init__(
        self,
        layers: Sequence[ConvexifiedLayerConfig] | str = "ccnn-1-mnist",
        *,
        graphs: Sequence[GraphPatches] | None = None,
        seed: int = 0,
        memory: int = 1 << 30,
        say: Callable[[str], None] | None = None,
    ) -> None:
        if isinstance(layers, str):
            if layers not in PRESETS:
                raise ValueError(
                    f"ConvexifiedCNN: {unknown_name('preset', layers, tuple(PRESETS))}"
                )
            layers = PRESETS[layers]
        check_layers(layers, graphs)
        if memory < 0:
            raise ValueError(f"ConvexifiedCNN: memory must be 0 or more, got {memory}")
        self.layers, self.graphs = tuple(layers), graphs
        self.seed, self.memory, self.say = seed, memory, say

    @torch.no_grad()
    def fit(self, X: Any, y: Any = None, *, validation: tuple[Any, Any] | None = None) -> Any:
        """Train layer by layer.

        Args:
            X: inputs ``[N, C, H, W]``, or ``[N, V, C]`` with graphs: floating point (float64 is
                computed in float64, others in float32), or bytes, which count as 0 to 1; a tensor
                or an array. Or an `ImageDataset`, whose training part is taken.
            y: labels ``[N]``, at least two different ones; not with an `ImageDataset`.
            validation: inputs and labels whose error is written into the history, and used for
                nothing else.

        Returns:
            The estimator.

        Raises:
            ValueError: shapes do not fit, inputs are not finite, labels are of one class alone.
        """
        if isinstance(X, ImageDataset):
            X, y = _part(X, X.train)
        x, labels = _checked(X, y)
        classes, numbers = np.unique(labels, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(
                f"ConvexifiedCNN: y must have at least two classes, got {classes[0].item()!r} alone"
            )
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        network = ConvexifiedNetwork(self.layers, x.shape[1:], len(classes), self.graphs)
        self.network_, self.classes_ = network.to(dtype).eval(), classes
        self.certificates_, self.history_ = [], []
        self.network_.layer(0).patches.check(x)
        checks = None
        if validation is not None:
            held, truth = _checked(*validation)
            self._check_shape(held)
            checks = Inputs(held, dtype), torch.from_numpy(self._numbers(truth))
        inputs, targets = Inputs(x, dtype), torch.from_numpy(numbers.astype(np.int64))
        generator = torch.Generator().manual_seed(self.seed)
        for number, config in enumerate(self.layers):
            layer = network.layer(number)
            fit_normalisation(layer, inputs, generator)
            pooled = Pooled(layer, inputs, self.memory)
            crops = layer.patches.crops()
            if config.crop < 1:
                assert len(crops[0]) == len(layer.middle)
            problem = LogisticProblem(pooled, targets, len(classes), config.radius, crops)
            tracker = Tracker(self._error(layer, checks), self._say_of(number))
            weight, certificate = solve(problem, config, generator, tracker)
            layer.weight.copy_(weight)
            layer.filters.copy_(_filters(weight, layer.num_filters))
            self.certificates_.append(certificate)
            self.history_.append(tracker.history)
            if self.say is not None:
                self.say(f"layer {number + 1}: {certificate}")
            if number + 1 < len(self.layers):
                used = self.layers[number + 1].channels
                inputs = inputs.after(layer, pooled, used, self.memory)
                if checks is not None:
                    held_out = Pooled(layer, checks[0], 0)
                    checks = checks[0].after(layer, held_out, used, self.memory), checks[1]
        return self

    def _say_of(self, number: int) -> Callable[[str], None] | None:
        say = self.say
        return None if say is None else lambda line: say(f"layer {number + 1}, {line}")

    def _error(
        self, layer: ConvexifiedLayer, checks: tuple[Inputs, Tensor] | None
    ) -> Callable[[Tensor], float] | None:
        """Share of wrong predictions with other weights of the layer."""
        if checks is None:
            return None
        inputs, truth = checks
        features = Pooled(layer, inputs, self.memory)

        def error_of(weight: Tensor) -> float:
            layer.weight.copy_(weight)
            wrong = 0
            for rows in inputs.chunks(layer):
                wrong += int((layer.logits(features.take(rows)).argmax(1) != truth[rows]).sum())
            return wrong / len(truth)

        return error_of

    def decision_function(self, X: Any, *, depth: int | None = None) -> NDArray[Any]:
        """Logits ``[N, K]``, the last of them 0.

        Args:
            X: as in `fit`.
            depth: the classifier after so many layers; None: after all.

        Raises:
            RuntimeError: `fit` was not called.
            ValueError: another shape than was fitted, or values that are not finite.
        """
        if not hasattr(self, "network_"):
            raise RuntimeError("ConvexifiedCNN: fit must be called first")
        x = _inputs(X)
        self._check_shape(x)
        first = self.network_.layer(0)
        inputs = Inputs(x, first.weight.dtype)
        with torch.no_grad():
            logits = [
                self.network_(inputs.take(rows), depth)
                for rows in inputs.chunks(self.network_.layer(self._widest()))
            ]
        found: NDArray[Any] = torch.cat(logits).numpy()
        return found

    def _widest(self) -> int:
        """The layer whose features are the most numbers."""
        sizes = [
            layer.patches.num_patches * layer.features.num_features
            for layer in map(self.network_.layer, range(self.network_.depth))
        ]
        return sizes.index(max(sizes))

    def predict_proba(self, X: Any, *, depth: int | None = None) -> NDArray[Any]:
        """Probabilities ``[N, K]``, see `decision_function`."""
        logits = torch.from_numpy(self.decision_function(X, depth=depth))
        found: NDArray[Any] = logits.softmax(1).numpy()
        return found

    def predict(self, X: Any, *, depth: int | None = None) -> Labels:
        """Labels ``[N]``, see `decision_function`."""
        places = self.decision_function(X, depth=depth).argmax(1)
        found: Labels = self.classes_[places]
        return found

    def score(self, X: Any, y: Any = None, *, depth: int | None = None) -> float:
        """Share of right predictions; of an `ImageDataset` on its test part.

        Raises:
            RuntimeError: `fit` was not called.
            ValueError: shapes do not fit.
        """
        if isinstance(X, ImageDataset):
            X, y = _part(X, X.test)
        x, labels = _checked(X, y)
        return float((self.predict(x, depth=depth) == labels).mean())

    def _check_shape(self, x: Tensor) -> None:
        if tuple(x.shape[1:]) != self.network_.shape:
            raise ValueError(
                f"ConvexifiedCNN: inputs must have shape [N, "
                f"{', '.join(map(str, self.network_.shape))}] as in fit, got {list(x.shape)}"
            )

    def _numbers(self, labels: Labels) -> NDArray[np.int64]:
        """Places of labels among the classes."""
        places = np.searchsorted(self.classes_, labels).clip(max=len(self.classes_) - 1)
        if not bool((self.classes_[places] == labels).all()):
            strange = labels[self.classes_[places] != labels][0]
            raise ValueError(
                f"ConvexifiedCNN: validation has a class that y has not: {strange.item()!r}"
            )
        return places.astype(np.int64)

    def __repr__(self) -> str:
        """One line: what each layer is made of, and whether it is fitted."""
        layers = ", ".join(
            f"{c.kernel} {c.num_features} R={c.radius:g}" if c.method != "exact" else
            f"{c.kernel} R={c.radius:g}" for c in self.layers
        )  # fmt: skip
        fitted = ", fitted" if hasattr(self, "network_") else ""
        return f"ConvexifiedCNN({layers}, seed={self.seed}{fitted})"


def _part(dataset: ImageDataset, rows: NDArray[np.int64]) -> tuple[Tensor, Labels]:
    if dataset.labels is None:
        raise ValueError(f"{dataset.name}: a classifier needs labels, got none")
    return torch.from_numpy(dataset.images[rows]), dataset.labels[rows]


def _inputs(X: Any) -> Tensor:
    """Finite inputs as a tensor on the CPU."""
    x = torch.from_numpy(np.array(X)) if not isinstance(X, Tensor) else X.detach().cpu()
    if not (x.is_floating_point() or x.dtype == torch.uint8):
        raise ValueError(
            f"ConvexifiedCNN: inputs must be floating point or uint8, got "
            f"{str(x.dtype).removeprefix('torch.')}"
        )
    check_positive("ConvexifiedCNN", **{"number of inputs": len(x)})
    if x.is_floating_point() and not bool(torch.isfinite(x).all()):
        raise ValueError("ConvexifiedCNN: inputs must be finite, got NaN or infinity")
    return x


def _checked(X: Any, y: Any) -> tuple[Tensor, Labels]:
    x = _inputs(X)
    if y is None:
        raise ValueError("ConvexifiedCNN: y must have the labels, got None")
    labels = as_numpy(y)
    if labels.shape != (len(x),) or labels.dtype.kind in "fc":
        raise ValueError(
            f"ConvexifiedCNN: y must be labels of shape [{len(x)}], no floating-point numbers, got "
            f"{labels.dtype} {list(labels.shape)}"
        )
    return x, labels


def _filters(weight: Tensor, count: int) -> Tensor:
    """The first left singular vectors ``[m, count]`` of the weights as a matrix.

    Signs are such that the largest entry is positive; a vector of a singular value 0 is 0.
    """
    left, values, _ = torch.linalg.svd(as_matrix(weight).double(), full_matrices=False)
    left, values = left[:, :count], values[:count]
    signs = left.gather(0, left.abs().argmax(0, keepdim=True)).sign()
    kept: Tensor = left * signs * (values > 1e-7 * values[0])
    return kept.to(weight.dtype)
