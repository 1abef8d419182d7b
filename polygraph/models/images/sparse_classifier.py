"""Classifiers of images by sparse codes: convolutional dictionaries, a pursuit, a linear layer."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from polygraph._checks import check_choice, check_numbers, check_positive
from polygraph._inputs import check_dtype, check_tensors
from polygraph.models.sparse_coding.coder import METHODS, STEPS, MultiLayerSparseCoder

_SCALE = 0.1  # of the first weights, times 1 / √fan_in


@dataclass(frozen=True)
class SparseCodingClassifierConfig:
    """A `SparseCodingClassifier`.

    Attributes:
        in_channels: of the images.
        size: height and width of the images.
        num_classes: K.
        channels: atoms of each dictionary.
        kernels: height and width of the atoms of each.
        strides: of each.
        padding: of all, in pixels, smaller than the kernels.
        tail: features of 3 x 3 convolutions behind the last code, each with a ReLU, and pooled by
            two (maximum) where more than a pixel is left; default: none.
        method: the pursuit, one of `MultiLayerSparseCoder`; ``layered`` is the network with ReLU.
        unfoldings: T, 0 or more; 0 with ``layered``, at least 1 with ``lista``.
        step_sizes: ``power``, ``unit`` or ``learned``, of the unfoldings.
        threshold: λ of every layer at first, 0 or more: biases start at -λ.
    """

    in_channels: int = 3
    size: int = 32
    num_classes: int = 10
    channels: tuple[int, ...] = (32, 64, 512)
    kernels: tuple[int, ...] = (6, 6, 4)
    strides: tuple[int, ...] = (2, 2, 1)
    padding: int = 0
    tail: tuple[int, ...] = ()
    method: str = "ista"
    unfoldings: int = 6
    step_sizes: str = "power"
    threshold: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what no network can be made of; lists (from JSON) become tuples."""
        owner = type(self).__name__
        check_numbers(owner, self)
        check_positive(owner, in_channels=self.in_channels, size=self.size)
        for name in ("channels", "kernels", "strides"):
            values = tuple(getattr(self, name))
            object.__setattr__(self, name, values)
            check_positive(owner, **{f"{name}[{n}]": value for n, value in enumerate(values)})
            if not values or len(values) != len(self.channels):
                raise ValueError(
                    f"{owner}: {name} must have a number for each layer, channels has "
                    f"{len(self.channels)}, got {list(values)}"
                )
        object.__setattr__(self, "tail", tuple(self.tail))
        check_positive(owner, **{f"tail[{n}]": value for n, value in enumerate(self.tail)})
        if self.num_classes < 2:
            raise ValueError(f"{owner}: num_classes must be at least 2, got {self.num_classes}")
        if not 0 <= self.padding < min(self.kernels):
            raise ValueError(
                f"{owner}: padding must be in [0, {min(self.kernels)}), below the kernels, got "
                f"{self.padding}"
            )
        if not 0 <= self.threshold < math.inf:
            raise ValueError(
                f"{owner}: threshold must be finite and at least 0, got {self.threshold}"
            )
        check_choice(owner, "method", self.method, METHODS)
        check_choice(owner, "step_sizes", self.step_sizes, STEPS)
        self._check_unfoldings(owner)
        if self._last_size() < 1:
            raise ValueError(
                f"{owner}: size must leave a pixel behind kernels {list(self.kernels)} with "
                f"strides {list(self.strides)}, got {self.size}"
            )

    def _check_unfoldings(self, owner: str) -> None:
        if self.unfoldings < 0:
            raise ValueError(f"{owner}: unfoldings must be at least 0, got {self.unfoldings}")
        if self.method == "layered" and self.unfoldings:
            raise ValueError(
                f"{owner}: unfoldings must be 0 with the method layered, got {self.unfoldings}"
            )
        if self.method == "lista" and not self.unfoldings:
            raise ValueError(
                f"{owner}: unfoldings must be at least 1 with the method lista, whose dictionaries "
                "nothing would train"
            )

    def _last_size(self) -> int:
        """Height and width of the last code."""
        size = self.size
        for kernel, stride in zip(self.kernels, self.strides, strict=True):
            size = (size + 2 * self.padding - kernel) // stride + 1
            if size < 1:
                return 0
        return size


class SparseCodingClassifier(nn.Module):
    """The last sparse code of an image in convolutional dictionaries, and a classifier on it.

    The classifier is a linear layer, behind plain convolutions where the config has a ``tail``.

    The coder's signals are ``(images + 1) / 2``, in [0, 1]. With the method ``layered``, and with
    any but ``lista`` without unfoldings, it is the network of convolutions with ReLUs, bit for bit.
    Unfoldings add no parameter to it; ``lista`` doubles those of the convolutions, learned step
    sizes are one number a layer.

    Source: Sulam, Aberdam, Beck and Elad, "On Multi-Layer Basis Pursuit, Efficient Algorithms and
    Convolutional Neural Networks", T-PAMI 2020, section 5; the sizes, first weights (0.1 / √fan_in
    · N(0, 1)) and biases (0) are those of the authors' code on MNIST, whose images are 28 x 28. We
    depart from it: step sizes are by power iteration unless others are asked for; theirs are
    learned. Of the network for CIFAR-10 the places of the pools and the first weights of the
    ``tail`` are ours.

    Args:
        config: what to build.

    Attributes:
        coder: the `MultiLayerSparseCoder`.
        tail: the plain convolutions.
        output: the linear layer.

    Call it with images ``[B, in_channels, size, size]`` in [-1, 1], of its weights' dtype; it
    returns logits ``[B, num_classes]``. Deterministic.

    Raises:
        ValueError: the images have another shape.

    Example:
        >>> import torch
        >>> from polygraph.models import SparseCodingClassifier, SparseCodingClassifierConfig
        >>> config = SparseCodingClassifierConfig(channels=(8, 16, 32), unfoldings=2)
        >>> model, images = SparseCodingClassifier(config).eval(), torch.rand(2, 3, 32, 32)
        >>> model(images).shape, [list(code.shape[1:]) for code in model.encode(images)]
        (torch.Size([2, 10]), [[8, 14, 14], [16, 5, 5], [32, 2, 2]])

    See Also:
        `MultiLayerSparseCoder`; `polygraph.report.atom_pictures.atom_figure`, a picture of the
        dictionaries; `SplineCNN`.
    """

    def __init__(self, config: SparseCodingClassifierConfig) -> None:
        super().__init__()
        self.config = config
        features, layers = config.in_channels, []
        for width, kernel, stride in zip(
            config.channels, config.kernels, config.strides, strict=True
        ):
            layer = nn.Conv2d(features, width, kernel, stride, config.padding)
            nn.init.normal_(layer.weight, std=_SCALE / math.sqrt(features * kernel**2))
            nn.init.constant_(layer.bias, -config.threshold)  # type: ignore[arg-type]
            layers.append(layer)
            features = width
        shape = (config.in_channels, config.size, config.size)
        # Without unfoldings nothing reads the step sizes: a learned one would get no gradient.
        steps = config.step_sizes if config.unfoldings else "unit"
        self.coder = MultiLayerSparseCoder(
            layers, shape, config.unfoldings, config.method, steps=steps
        )
        features, size, _ = self.coder.shapes[-1]
        tail: list[nn.Module] = []
        for width in config.tail:
            tail += [nn.Conv2d(features, width, 3, padding=1), nn.ReLU()]
            nn.init.kaiming_normal_(tail[-2].weight, nonlinearity="relu")  # type: ignore[arg-type]
            nn.init.zeros_(tail[-2].bias)  # type: ignore[arg-type]
            features = width
            if size > 1:
                tail.append(nn.MaxPool2d(2))
                size //= 2
        self.tail = nn.Sequential(*tail)
        self.output = nn.Linear(features * size**2, config.num_classes)

    def encode(self, images: Tensor) -> list[Tensor]:
        """The codes of all layers, ``[B, channels[i], H_i, W_i]``, 0 or more, of images."""
        return self.coder.encode(self._signals(images))

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, num_classes]`` of ``images [B, in_channels, size, size]``."""
        return self._logits(self.encode(images)[-1])

    def with_reconstruction(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, and how far the last code is from being the signal, from one pursuit.

        Returns:
            ``[B, num_classes]`` and ``½ |x - D₁ ... D_L Γ_L|²`` of the signals x, ``[B]``: what
            learning dictionaries minimises.
        """
        signals = self._signals(images)
        last = self.coder.encode(signals)[-1]
        rest = signals - self.coder.decode(last)
        return self._logits(last), rest.square().flatten(1).sum(1) / 2

    def _logits(self, code: Tensor) -> Tensor:
        out: Tensor = self.output(self.tail(code).flatten(1))
        return out

    def _signals(self, images: Tensor) -> Tensor:
        owner = type(self).__name__
        check_tensors(owner, images=images)
        config = self.config
        want = (config.in_channels, config.size, config.size)
        if images.dim() != 4 or images.shape[1:] != want:
            raise ValueError(
                f"{owner}: images must have shape [B, {want[0]}, {want[1]}, {want[2]}], got "
                f"{list(images.shape)}"
            )
        check_dtype(owner, "images", images, self.output.weight, of="model")
        return (images + 1) / 2
