"""Features whose products are a kernel: random Fourier, Nyström, exact ones.

Each is a module from patches ``[..., d]`` to features ``[..., m]``; `fit` draws what is random.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from polygraph._memory import check_room
from polygraph.models.convexified.config import ConvexifiedLayerConfig

_MOST_QUADRATIC = 20_000  # features of the exact quadratic kernel
_LEAST_EIGENVALUE = 1e-12  # scikit-learn's


class ExactFeatures(nn.Module):
    """Features of the linear kernel (the patch) and of the quadratic one (all products of two).

    Args:
        size: d of the patches.
        quadratic: whether products are taken; their kernel is ``<z, z'>²``, so products of two
            different entries are multiplied by √2.

    Raises:
        ValueError: more than 20,000 products.
    """

    def __init__(self, size: int, quadratic: bool) -> None:
        super().__init__()
        self.size, self.quadratic = size, quadratic
        self.num_features = size * (size + 1) // 2 if quadratic else size
        if quadratic and self.num_features > _MOST_QUADRATIC:
            raise ValueError(
                f"ConvexifiedCNN: patches of {size} numbers have {self.num_features} products, "
                f"more than {_MOST_QUADRATIC}: method='nystroem' takes num_features of them"
            )

    def fit(self, patches: Tensor, generator: torch.Generator) -> None:
        """Nothing is drawn."""

    def forward(self, patches: Tensor) -> Tensor:
        """Features ``[..., m]`` of ``patches [..., d]``."""
        if not self.quadratic:
            return patches
        row, column = torch.triu_indices(self.size, self.size, device=patches.device)
        factor: Tensor = 1 + (math.sqrt(2.0) - 1) * (row != column).to(patches.dtype)
        return patches[..., row] * patches[..., column] * factor


class FourierFeatures(nn.Module):
    """``√(2/m) cos(Wᵀ z + b)``, whose products are near ``exp(-gamma |z - z'|²)``.

    Source: Rahimi and Recht, "Random Features for Large-Scale Kernel Machines", NIPS 2007. Columns
    of W are drawn from N(0, 2 gamma), b from [0, 2π), as scikit-learn's ``RBFSampler`` does.

    Args:
        size: d of the patches.
        num_features: m.
        gamma: of the kernel, above 0.
    """

    weight: Tensor
    offset: Tensor

    def __init__(self, size: int, num_features: int, gamma: float) -> None:
        super().__init__()
        self.num_features, self.gamma = num_features, gamma
        self.register_buffer("weight", torch.zeros(size, num_features))
        self.register_buffer("offset", torch.zeros(num_features))

    def fit(self, patches: Tensor, generator: torch.Generator) -> None:
        """Draw W and b, in float64 and then rounded."""
        normal = torch.randn(*self.weight.shape, generator=generator, dtype=torch.float64)
        turn = torch.rand(self.num_features, generator=generator, dtype=torch.float64)
        self.weight.copy_(normal * math.sqrt(2 * self.gamma))
        self.offset.copy_(turn * (2 * math.pi))

    def forward(self, patches: Tensor) -> Tensor:
        """Features ``[..., m]`` of ``patches [..., d]``."""
        angles = patches @ self.weight
        angles += self.offset
        return angles.cos_().mul_(math.sqrt(2 / self.num_features))


class NystroemFeatures(nn.Module):
    """``K(z, Z) K(Z, Z)^(-1/2)`` of m patches Z of the training set.

    Source: Williams and Seeger, "Using the Nyström Method to Speed Up Kernel Machines", NIPS 2000.
    Eigenvalues below 1e-12 count as that, as in scikit-learn's ``Nystroem``.

    Args:
        size: d of the patches.
        num_features: m.
        kernel: "rbf", "quadratic" or "inverse", see `ConvexifiedLayerConfig`.
        gamma: of the RBF kernel.
    """

    landmarks: Tensor
    root: Tensor

    def __init__(self, size: int, num_features: int, kernel: str, gamma: float) -> None:
        super().__init__()
        self.num_features, self.kernel, self.gamma = num_features, kernel, gamma
        self.register_buffer("landmarks", torch.zeros(num_features, size))
        self.register_buffer("root", torch.zeros(num_features, num_features))

    def fit(self, patches: Tensor, generator: torch.Generator) -> None:
        """Choose m of ``patches [N, d]``, and take the root of their kernel matrix.

        Raises:
            ValueError: there are fewer.
        """
        if len(patches) < self.num_features:
            raise ValueError(
                f"ConvexifiedCNN: num_features must be at most the number of patches, "
                f"{len(patches)}, got {self.num_features}"
            )
        chosen = torch.randperm(len(patches), generator=generator)[: self.num_features]
        self.set_landmarks(patches[chosen.to(patches.device)])

    def set_landmarks(self, landmarks: Tensor) -> None:
        """Take these ``[m, d]``."""
        self.landmarks.copy_(landmarks)
        values, vectors = torch.linalg.eigh(self.products(landmarks.double(), landmarks.double()))
        scale = values.clamp(min=_LEAST_EIGENVALUE).rsqrt()
        self.root.copy_((vectors * scale) @ vectors.T)

    def products(self, patches: Tensor, landmarks: Tensor) -> Tensor:
        """The kernel ``[..., m]`` of ``patches [..., d]`` and ``landmarks [m, d]``."""
        if self.kernel == "rbf":
            squares = patches.square().sum(-1, keepdim=True) + landmarks.square().sum(-1)
            distances = (squares - 2 * patches @ landmarks.T).clamp(min=0)
            return torch.exp(-self.gamma * distances)
        if self.kernel == "quadratic":
            return (patches @ landmarks.T).square()
        # Of norm 1 at most: then the products are, and the kernel is positive definite.
        patches, landmarks = (
            x / x.norm(dim=-1, keepdim=True).clamp(min=1e-12) for x in (patches, landmarks)
        )
        return 1 / (2 - patches @ landmarks.T)

    def forward(self, patches: Tensor) -> Tensor:
        """Features ``[..., m]`` of ``patches [..., d]``."""
        return self.products(patches, self.landmarks) @ self.root


Features = ExactFeatures | FourierFeatures | NystroemFeatures


def make_features(config: ConvexifiedLayerConfig, size: int) -> Features:
    """The features that a layer wants of patches of ``size`` numbers; nothing is drawn yet.

    Example:
        >>> import torch
        >>> from polygraph.models import ConvexifiedLayerConfig
        >>> from polygraph.models.convexified import make_features
        >>> features = make_features(ConvexifiedLayerConfig(num_features=2000, gamma=0.5), 4)
        >>> features.fit(torch.empty(0, 4), torch.Generator().manual_seed(0))
        >>> a, b = features(torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 0]]))
        >>> float(abs(a @ b - torch.exp(torch.tensor(-0.5)))) < 0.05
        True
    """
    if config.method == "fourier":
        return FourierFeatures(size, config.num_features, config.gamma)
    if config.method == "nystroem":
        check_room(8 * config.num_features**2, "ConvexifiedCNN: the matrix of num_features")
        return NystroemFeatures(size, config.num_features, config.kernel, config.gamma)
    return ExactFeatures(size, config.kernel == "quadratic")
