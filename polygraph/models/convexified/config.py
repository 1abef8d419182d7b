"""What a layer of a convexified network is made of, and the constants that were published."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from polygraph._checks import check_choice, check_numbers, check_positive

#: kernel -> ways to make its features, the usual one first
KERNELS = {
    "rbf": ("fourier", "nystroem"),
    "linear": ("exact",),
    "quadratic": ("exact", "nystroem"),
    "inverse": ("nystroem",),
}
SOLVERS = ("sgd", "accelerated", "frank-wolfe")


@dataclass(frozen=True)
class ConvexifiedLayerConfig:
    """Patches, features, pooling and the convex problem of one layer.

    The defaults are those published for the first layer on MNIST.

    Attributes:
        patch_size: height and width of a patch in pixels; not used on graphs.
        padding: zeros around the image, in pixels; not used on graphs.
        channels: how many of the input's channels are used, the first ones.
        contrast: a patch loses its mean and is divided by its norm and this; None: left alone.
        zca: added to the eigenvalues of the patches' covariance before whitening; None: none.
        kernel: "rbf", ``exp(-gamma |z - z'|²)``; "linear", ``<z, z'>``; "quadratic", ``<z, z'>²``;
            "inverse", ``1 / (2 - <z, z'>)`` of patches scaled to norm 1.
        method: "fourier" (random Fourier features), "nystroem" or "exact"; None: the kernel's usual
            one.
        num_features: m, of random Fourier features and of Nyström's.
        gamma: of the RBF kernel.
        pool_size: height and width of the windows whose mean is taken; not used on graphs.
        pool_stride: from window to window; those at the border are cut.
        crop: share of the pooled positions in each direction that is drawn at random in training,
            and taken from the middle in prediction.
        radius: R, the largest nuclear norm.
        solver: "sgd" (projected, as published), "accelerated" or "frank-wolfe".
        iterations: projections of "sgd", steps of the others.
        batches: mini-batches between two projections.
        batch_size: images of a mini-batch, drawn with replacement.
        learning_rate: of "sgd".
        window: as many projected iterates at the end are averaged; measured at its every end.
        tolerance: the other solvers end when the gap is at most this share of the loss.
        filters: most channels of the output.
    """

    patch_size: int = 5
    padding: int = 0
    channels: int = 16
    contrast: float | None = 0.1
    zca: float | None = 0.1
    kernel: str = "rbf"
    method: str | None = None
    num_features: int = 500
    gamma: float = 0.2
    pool_size: int = 2
    pool_stride: int = 2
    crop: float = 1.0
    radius: float = 200.0
    solver: str = "sgd"
    iterations: int = 1000
    batches: int = 10
    batch_size: int = 50
    learning_rate: float = 0.2
    window: int = 250
    tolerance: float = 0.01
    filters: int = 25

    def __post_init__(self) -> None:
        """Refuse what no layer can be made of."""
        owner = type(self).__name__
        check_numbers(owner, self)
        check_choice(owner, "kernel", self.kernel, KERNELS)
        check_choice(owner, "solver", self.solver, SOLVERS)
        if self.method is None:
            object.__setattr__(self, "method", KERNELS[self.kernel][0])
        else:
            check_choice(owner, "method", self.method, KERNELS[self.kernel])
        names = (
            *("patch_size", "channels", "num_features", "pool_size", "pool_stride", "iterations"),
            *("batches", "batch_size", "window", "filters"),
        )
        check_positive(owner, **{name: getattr(self, name) for name in names})
        if self.padding < 0:
            raise ValueError(f"{owner}: padding must be 0 or more, got {self.padding}")
        for name in ("radius", "gamma", "learning_rate", "contrast", "zca", "tolerance"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{owner}: {name} must be finite and above 0, got {value}")
        if not 0 < self.crop <= 1:
            raise ValueError(f"{owner}: crop must be in (0, 1], got {self.crop}")
        if self.window > self.iterations:
            object.__setattr__(self, "window", self.iterations)


_MNIST_1 = ConvexifiedLayerConfig()
_CIFAR_1 = ConvexifiedLayerConfig(
    padding=2, channels=32, num_features=1000, gamma=1.0, pool_size=3, crop=0.75, radius=1000.0,
    iterations=500, learning_rate=1.0, window=100, filters=32,
)  # fmt: skip

#: name -> layers; constants of the authors' code (revision 849ff27 for CIFAR-10)
PRESETS: dict[str, tuple[ConvexifiedLayerConfig, ...]] = {
    "ccnn-1-mnist": (_MNIST_1,),
    "ccnn-2-mnist": (
        _MNIST_1,
        replace(
            _MNIST_1, num_features=1000, gamma=2.0, radius=500.0, learning_rate=1.0, iterations=2000
        ),
    ),
    "ccnn-1-cifar10": (_CIFAR_1,),
    "ccnn-2-cifar10": (
        _CIFAR_1,
        replace(_CIFAR_1, num_features=2000, gamma=2.0, iterations=1000),
    ),
    "ccnn-3-cifar10": (
        _CIFAR_1,
        replace(_CIFAR_1, num_features=2000, gamma=2.0, iterations=1000),
        replace(_CIFAR_1, num_features=2000, gamma=2.0, iterations=5000, crop=1.0),
    ),
}
