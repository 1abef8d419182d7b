"""Principal components of meshes: the linear yardstick for every autoencoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from polygraph._checks import check_positive
from polygraph._repr import short_repr

Array = np.ndarray[Any, np.dtype[Any]]

DENSE_LIMIT = 1500  # a full decomposition up to this size (a second); beyond it, Lanczos


@dataclass(frozen=True)
class PCA:
    """Principal component analysis of meshes ``[N, V, 3]``, exact up to rounding.

    Attributes:
        mean: float64 ``[V, 3]``.
        components: float64 ``[latent_channels, V*3]``, orthonormal rows, of falling variance;
            the largest entry of each is positive.
            Where the meshes have no variance left, rows are zero.
        variance: float64 ``[latent_channels]``, along each component.

    Example:
        >>> import numpy as np
        >>> from polygraph.models import PCA
        >>> meshes = np.random.default_rng(0).random((20, 10, 3))
        >>> pca = PCA.fit(meshes, 4)
        >>> pca.encode(meshes[:2]).shape, pca.reconstruct(meshes[:2]).shape
        ((2, 4), (2, 10, 3))

    See Also:
        `MeshAutoencoder`, which it is the yardstick of.
    """

    mean: Array
    components: Array
    variance: Array

    __repr__ = short_repr

    @classmethod
    def fit(
        cls,
        vertices: Array,
        latent_channels: int,
        *,
        indices: Array | None = None,
        block_bytes: int = 64 * 2**20,
    ) -> PCA:
        """Fit to meshes, which may be mapped from a file larger than memory.

        The data are read in blocks, two or three times over. What is kept is the smaller one of the
        Gram matrix ``[N, N]`` and the covariance ``[3V, 3V]``, in float64. Deterministic.

        Args:
            vertices: ``[N, V, 3]``, any floating dtype.
            latent_channels: number of components.
            indices: the meshes to fit to (a training split); default all.
            block_bytes: about how much of the data is in memory at a time.

        Raises:
            ValueError: on another shape, fewer than two meshes, or vertices that are not finite.
        """
        check_positive("PCA.fit", latent_channels=latent_channels)
        if vertices.ndim != 3 or vertices.shape[2] != 3:
            raise ValueError(f"PCA.fit: vertices must be [N, V, 3], got {list(vertices.shape)}")
        rows = np.arange(len(vertices)) if indices is None else np.asarray(indices)
        if len(rows) < 2 or vertices.shape[1] == 0:
            raise ValueError(
                f"PCA.fit: needs at least 2 meshes of at least 1 vertex, got {len(rows)} of "
                f"{vertices.shape[1]}"
            )
        data = _Rows(vertices, rows, block_bytes)
        make = _gram_components if data.samples <= data.features else _covariance_components
        count = min(latent_channels, data.samples - 1, data.features)
        components, squared = make(data, count)
        largest = components[np.arange(len(components)), np.abs(components).argmax(1)]
        components = components * np.where(largest < 0, -1.0, 1.0)[:, None]
        missing = latent_channels - len(squared)
        return cls(
            data.mean.reshape(-1, 3),
            np.pad(components, ((0, missing), (0, 0))),
            np.pad(squared / (len(rows) - 1), (0, missing)),
        )

    @property
    def latent_channels(self) -> int:
        """Number of components."""
        return len(self.components)

    @overload
    def encode(self, vertices: Tensor) -> Tensor: ...
    @overload
    def encode(self, vertices: Array) -> Array: ...
    def encode(self, vertices: Tensor | Array) -> Tensor | Array:
        """Coefficients ``[B, latent_channels]`` of meshes ``[B, V, 3]``; of the input's kind."""
        if tuple(vertices.shape[1:]) != self.mean.shape or vertices.ndim != 3:
            raise ValueError(
                f"PCA: vertices must have shape [B, {len(self.mean)}, 3], "
                f"got {list(vertices.shape)}"
            )
        return self._apply(lambda x, mean, rows: (x - mean).reshape(len(x), -1) @ rows.T, vertices)

    @overload
    def decode(self, latent: Tensor) -> Tensor: ...
    @overload
    def decode(self, latent: Array) -> Array: ...
    def decode(self, latent: Tensor | Array) -> Tensor | Array:
        """Meshes ``[B, V, 3]`` of coefficients ``[B, latent_channels]``; of the input's kind."""
        if latent.ndim != 2 or latent.shape[1] != self.latent_channels:
            raise ValueError(
                f"PCA: latent must have shape [B, {self.latent_channels}], got {list(latent.shape)}"
            )
        return self._apply(lambda z, mean, rows: (z @ rows).reshape(len(z), -1, 3) + mean, latent)

    @overload
    def reconstruct(self, vertices: Tensor) -> Tensor: ...
    @overload
    def reconstruct(self, vertices: Array) -> Array: ...
    def reconstruct(self, vertices: Tensor | Array) -> Tensor | Array:
        """The nearest meshes ``[B, V, 3]`` in the span of the components; of the input's kind."""
        return self._apply(lambda x, mean, rows: self.decode(self.encode(x)), vertices)

    def _apply(self, fn: Callable[[Any, Any, Any], Any], x: Tensor | Array) -> Tensor | Array:
        """``fn(x, mean, components)`` in float64, of the kind and dtype of ``x``.

        Tensors are computed by torch, as networks are: NumPy's products have threads of their own,
        which are still awake when the next network runs and make it several times slower.
        """
        if isinstance(x, Tensor):
            # Copied only if they are not writable, of which torch would warn.
            mean, rows = (
                torch.from_numpy(np.require(a, requirements="W"))
                for a in (self.mean, self.components)
            )
            return torch.as_tensor(fn(x.detach().cpu().double(), mean, rows)).to(x)
        out: Array = fn(x.astype(np.float64), self.mean, self.components)
        return out.astype(x.dtype)


class _Rows:
    """The meshes of a split as rows ``[N, 3V]``, read in blocks; centred once ``mean`` is known."""

    def __init__(self, vertices: Array, rows: Array, block_bytes: int) -> None:
        self.flat = vertices.reshape(len(vertices), -1)
        self.rows = rows
        self.samples, self.features = len(rows), self.flat.shape[1]
        self.block_bytes = block_bytes
        self.mean = np.zeros(self.features)
        mean = np.empty(self.features)
        for part, block in self.columns():
            mean[part] = block.mean(0)
            if not np.isfinite(mean[part]).all():
                bad = rows[~np.isfinite(block).all(1)]
                first = int(bad[0]) if len(bad) else -1
                raise ValueError(f"PCA.fit: vertices must be finite, mesh {first} is not")
        self.mean = mean

    def columns(self) -> Iterator[tuple[slice, Array]]:
        """Blocks ``[N, c]`` of all meshes, with their place in 3V."""
        for part in self._parts(self.features, self.samples):
            yield part, self.flat[:, part][self.rows].astype(np.float64) - self.mean[part]

    def meshes(self) -> Iterator[Array]:
        """Blocks ``[n, 3V]`` of whole meshes."""
        for part in self._parts(self.samples, self.features):
            yield self.flat[self.rows[part]].astype(np.float64) - self.mean

    def _parts(self, length: int, width: int) -> Iterator[slice]:
        step = max(1, self.block_bytes // (8 * width))
        for start in range(0, length, step):
            yield slice(start, min(start + step, length))


def _gram_components(data: _Rows, count: int) -> tuple[Array, Array]:
    """Components and squared singular values from ``X Xᵀ [N, N]``."""
    gram = np.zeros((data.samples, data.samples))
    for _, block in data.columns():
        gram += block @ block.T
    squared, left = _largest_eigenpairs(gram, count)
    components = np.empty((len(squared), data.features))
    for part, block in data.columns():
        components[:, part] = left.T @ block
    # Squaring has cost the small components digits of their right angles: QR restores them.
    basis, _ = np.linalg.qr((components / np.sqrt(squared)[:, None]).T)
    return basis.T, squared


def _covariance_components(data: _Rows, count: int) -> tuple[Array, Array]:
    """Components and squared singular values from ``Xᵀ X [3V, 3V]``."""
    covariance = np.zeros((data.features, data.features))
    for block in data.meshes():
        covariance += block.T @ block
    squared, vectors = _largest_eigenpairs(covariance, count)
    return vectors.T, squared


def _largest_eigenpairs(matrix: Array, count: int) -> tuple[Array, Array]:
    """The largest eigenvalues, falling, and eigenvectors in columns; those at rounding left out."""
    size = len(matrix)
    if size <= DENSE_LIMIT or 3 * count > size:
        values, vectors = np.linalg.eigh(matrix)
    else:
        from scipy.sparse.linalg import eigsh

        # A fixed start repeats the result; tol=0 asks for machine precision.
        start = np.random.default_rng(0).standard_normal(size)
        values, vectors = eigsh(matrix, count, which="LA", v0=start, tol=0)
    largest = np.argsort(values)[::-1][:count]
    values, vectors = values[largest], vectors[:, largest]
    real = values > values[0] * size * np.finfo(np.float64).eps
    return values[real], vectors[:, real]
