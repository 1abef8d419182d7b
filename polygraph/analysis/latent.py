"""What lies between, beyond and around the meshes that an autoencoder knows.

Everything here is arithmetic on latent codes, followed by the decoder: straight lines between two
codes and beyond them, analogies ``a : b :: c : d`` with ``d = c + (b - a)``, and samples of a
Gaussian fitted to the codes of many meshes (Bouritsas et al., Neural 3D Morphable Models, ICCV
2019, section 5.4).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from polygraph._repr import short_repr


class Codec(Protocol):
    """What has codes: `polygraph.models.MeshAutoencoder`, and every model like it."""

    def encode(self, x: Tensor, /) -> Tensor:
        """Codes [B, L] of meshes [B, V, 3]."""

    def decode(self, z: Tensor, /) -> Tensor:
        """Meshes [B, V, 3] of codes [B, L]."""


@torch.no_grad()
def encode_meshes(
    model: Codec, vertices: Any, indices: ArrayLike | None = None, *, batch_size: int = 16
) -> Tensor:
    """Codes of many meshes, in batches.

    Args:
        model: in eval mode.
        vertices: ``[N, V, 3]``, an array or a memory map, in the units of the model's meshes.
        indices: which of them, ``[n]``; default all.
        batch_size: meshes per call.

    Returns:
        ``[n, L]``, dtype and device of the model.

    Raises:
        ValueError: no meshes, or a code that is not finite.

    Example:
        >>> import numpy as np
        >>> from polygraph.analysis import decode_codes, encode_meshes
        >>> from polygraph.models import PCA
        >>> meshes = np.random.default_rng(0).random((20, 10, 3))
        >>> model = PCA.fit(meshes, 4)
        >>> codes = encode_meshes(model, meshes, [0, 5, 7])
        >>> codes.shape, decode_codes(model, codes).shape
        (torch.Size([3, 4]), (3, 10, 3))

    See Also:
        `decode_codes`, the way back; `CodeGaussian`, `line`, `analogy`.
    """
    chosen = np.arange(len(vertices)) if indices is None else np.asarray(indices)
    if not len(chosen):
        raise ValueError("encode_meshes: indices is empty, there is no mesh to encode")
    like = _like(model)
    codes = torch.cat(
        [
            model.encode(torch.from_numpy(np.array(vertices[rows])).to(like))
            for rows in _batches(chosen, batch_size)
        ]
    )
    return _finite(codes, "encode_meshes: the codes of mesh")


@torch.no_grad()
def decode_codes(model: Codec, codes: Tensor, *, batch_size: int = 16) -> NDArray[np.float64]:
    """Meshes of many codes ``[n, L]``: float64 ``[n, V, 3]``.

    Raises:
        ValueError: a mesh that is not finite; its number is named.

    Example:
        >>> import numpy as np
        >>> import torch
        >>> from polygraph.analysis import decode_codes
        >>> from polygraph.models import PCA
        >>> model = PCA.fit(np.random.default_rng(0).random((20, 10, 3)), 4)
        >>> decode_codes(model, torch.zeros(2, 4)).shape
        (2, 10, 3)

    See Also:
        `encode_meshes`.
    """
    made = torch.cat(
        [model.decode(part.to(_like(model))) for part in torch.split(codes, batch_size)]
    )
    meshes: NDArray[np.float64] = (
        _finite(made, "decode_codes: the mesh of code").double().cpu().numpy()
    )
    return meshes


def line(start: Tensor, end: Tensor, positions: ArrayLike) -> Tensor:
    """Codes ``start + t (end - start)``: ``[T, L]`` for positions t ``[T]``.

    Positions from 0 to 1 lie between the two, others beyond them. 0 and 1 give them to the bit.

    Raises:
        ValueError: codes that are no vectors of one length, or positions that are not finite.

    Example:
        >>> import torch
        >>> from polygraph.analysis import line
        >>> line(torch.zeros(2), torch.ones(2), [0.0, 0.5, 1.5])  # the last goes beyond
        tensor([[0.0000, 0.0000],
                [0.5000, 0.5000],
                [1.5000, 1.5000]])

    See Also:
        `analogy`; `decode_codes`, which makes meshes of them.
    """
    t = np.asarray(positions, dtype=np.float64)
    if start.dim() != 1 or start.shape != end.shape:
        raise ValueError(
            "line: start and end must be codes of one length, got "
            f"{list(start.shape)} and {list(end.shape)}"
        )
    if t.ndim != 1 or not len(t) or not np.isfinite(t).all():
        raise ValueError(f"line: positions must be one or more finite numbers, got {positions!r}")
    where = torch.from_numpy(t).to(start)[:, None]
    # Weighted ends, not an offset from one: exact at both.
    return (1 - where) * start + where * end


def analogy(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """The code d for which c becomes d as a becomes b: ``c + (b - a)``.

    Example:
        >>> import torch
        >>> from polygraph.analysis import analogy
        >>> a, b, c = torch.tensor([[0.0, 0.0], [0.0, 1.0], [5.0, 0.0]])
        >>> analogy(a, b, c)
        tensor([5., 1.])

    See Also:
        `line`.
    """
    return c + (b - a)


@dataclass(frozen=True, eq=False)
class CodeGaussian:
    """A Gaussian over codes.

    Attributes:
        mean: float64 ``[L]``.
        factor: float64 ``[L, L]``; its product with its transpose is the covariance.
        num_codes: how many codes it was fitted to.

    Example:
        >>> import torch
        >>> from polygraph.analysis import CodeGaussian
        >>> gaussian = CodeGaussian.fit(torch.randn(100, 4))
        >>> gaussian.sample(3).shape, gaussian.along(0, [-2.0, 0.0, 2.0]).shape
        (torch.Size([3, 4]), torch.Size([3, 4]))

    See Also:
        `encode_meshes`, which makes codes; `decode_codes`.
    """

    mean: Tensor
    factor: Tensor
    num_codes: int

    __repr__ = short_repr

    @classmethod
    def fit(cls, codes: Tensor) -> CodeGaussian:
        """Mean and (unbiased) covariance of codes ``[n, L]``.

        Fewer codes than dimensions are allowed: samples then stay in the span of the codes.

        Raises:
            ValueError: fewer than two codes, or codes that are not finite.
        """
        if codes.dim() != 2 or len(codes) < 2:
            raise ValueError(
                "CodeGaussian: codes must have shape [n, L] with at least two rows, got "
                f"{list(codes.shape)}"
            )
        values = _finite(codes.detach().double().cpu(), "CodeGaussian: the code of mesh")
        mean = values.mean(0)
        _, scales, axes = torch.linalg.svd(values - mean, full_matrices=False)
        factor = torch.zeros(codes.shape[1], codes.shape[1], dtype=torch.float64)
        factor[:, : len(scales)] = axes.T * (scales / (len(codes) - 1) ** 0.5)
        return cls(mean, factor, len(codes))

    @classmethod
    def standard(cls, channels: int) -> CodeGaussian:
        """N(0, I), the prior of variational autoencoders; it was fitted to nothing.

        Raises:
            ValueError: no channels.
        """
        if channels < 1:
            raise ValueError(f"CodeGaussian: channels must be positive, got {channels}")
        factor = torch.eye(channels, dtype=torch.float64)
        return cls(torch.zeros(channels, dtype=torch.float64), factor, 0)

    @property
    def covariance(self) -> Tensor:
        """float64 ``[L, L]``."""
        return self.factor @ self.factor.T

    def sample(self, count: int, *, seed: int = 0, spread: float = 1.0) -> Tensor:
        """Draw codes: float64 ``[count, L]``.

        Args:
            count: how many.
            seed: equal seeds give equal codes.
            spread: standard deviations are multiplied by it; below 1 the meshes are more usual, 0
                is the mean itself.

        Raises:
            ValueError: ``count`` is not positive, ``spread`` is negative.
        """
        if count < 1 or not 0 <= spread < float("inf"):
            raise ValueError(
                f"sample: count must be positive and spread 0 or more, got {count} and {spread}"
            )
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(count, len(self.mean), generator=generator, dtype=torch.float64)
        return self.mean + spread * noise @ self.factor.T

    def along(self, axis: int, positions: Sequence[float]) -> Tensor:
        """Codes at so many standard deviations along a principal axis, 0 the widest: ``[T, L]``.

        Raises:
            ValueError: there is no such axis.
        """
        if not 0 <= axis < len(self.mean):
            raise ValueError(f"along: axis must lie in [0, {len(self.mean)}), got {axis}")
        where = torch.as_tensor(positions, dtype=torch.float64)
        return self.mean + where[:, None] * self.factor[:, axis]


def _like(model: Any) -> Tensor:
    """A tensor of the device and dtype of a model."""
    like: Tensor = model.mean if isinstance(model.mean, Tensor) else torch.from_numpy(model.mean)
    return like


def _batches(indices: NDArray[Any], size: int) -> Iterator[NDArray[Any]]:
    for start in range(0, len(indices), size):
        yield indices[start : start + size]


def _finite(values: Tensor, what: str) -> Tensor:
    good = torch.isfinite(values).flatten(1).all(1)
    if not bool(good.all()):
        first = int((~good).nonzero()[0])
        raise ValueError(
            f"{what} {first} is not finite ({int((~good).sum())} of {len(good)} are not)"
        )
    return values
