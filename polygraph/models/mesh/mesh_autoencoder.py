"""Mesh autoencoders over spirals and other operators, of first order and polynomial.

Sources: Bouritsas et al., Neural 3D Morphable Models, ICCV 2019 (first order); Chrysos et al., Deep
Polynomial Neural Networks, T-PAMI 2021, section 4.4 (polynomial). We depart from the published
code in two ways, both optional: the normalisation of the products (see `SecondOrderNorm`), and
that a convolution before a down-sampling is evaluated only on the vertices that stay.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from polygraph._inputs import check_dtype, check_tensors
from polygraph.mesh.origin import ZERO, Point
from polygraph.models.mesh._levels import Hierarchy, level_operators, with_dummy
from polygraph.models.mesh.config import COORDINATES, PUBLISHED
from polygraph.models.mesh.config import OPERATORS as OPERATORS
from polygraph.models.mesh.config import MeshAutoencoderConfig as MeshAutoencoderConfig
from polygraph.models.mesh.pretrained import PretrainedMixin
from polygraph.models.vae.gaussian import Posterior, clamp_log_variance
from polygraph.models.vae.likelihood import make_likelihood
from polygraph.models.vae.variational import VariationalMixin
from polygraph.nn import (
    NCP,
    FirstOrder,
    NCPSkip,
    PolynomialBlock,
    Resample,
    SelectVertices,
    Simple,
)
from polygraph.nn.block import OperatorFactory
from polygraph.nn.tables import table_of


class MeshAutoencoder(VariationalMixin, PretrainedMixin):
    """Encodes meshes of one template to a few numbers, and decodes them.

    Encoder: per level a block, then vertices are selected; then a linear layer. Decoder: a linear
    layer, then per level up-sampling and a block; the last block has no activation. Inside, meshes
    are normalised per vertex and coordinate, see `set_normalization`.

    Args:
        config: channels, kind of block, and so on.
        hierarchy: of the template: a `polygraph.mesh.MeshHierarchy`, or anything with its
            ``vertices``, ``spirals``, ``keep``, ``up_index``, ``up_weight`` and ``hash``.

    Attributes:
        config: as given.
        hierarchy: as given; it is not part of the ``state_dict``.
        hierarchy_hash: of the hierarchy.
        num_vertices: V of the template.
        mean: ``[V, 3]``, in the units of the meshes.
        std: likewise.
        origin: x, y and z that were subtracted from the meshes before the model saw them, and are
            to be added to what it makes; zeros but for meshes far from 0, see
            `polygraph.mesh.origin`. Numbers of Python: float32 could not hold them.

    Raises:
        ValueError: if the config does not have one encoder layer per down-sampling.

    Example:
        >>> import numpy as np
        >>> import torch
        >>> from polygraph.mesh import build_hierarchy
        >>> from polygraph.models import MeshAutoencoder, MeshAutoencoderConfig
        >>> from scipy.spatial import Delaunay
        >>> vertices = np.random.default_rng(0).random((100, 3))
        >>> faces = Delaunay(vertices[:, :2]).simplices
        >>> config = MeshAutoencoderConfig((8, 16), (16, 8, 3), latent_channels=4, order=3)
        >>> model = MeshAutoencoder(config, build_hierarchy(vertices, faces, factors=(2, 2)))
        >>> codes = model.encode(torch.rand(16, 100, 3))
        >>> codes.shape, model.decode(codes).shape
        (torch.Size([16, 4]), torch.Size([16, 100, 3]))

    See Also:
        `polygraph.models.create_model`, by name; `from_pretrained`, a trained one;
        `polygraph.tasks.mesh`, which trains it.
    """

    config_class = MeshAutoencoderConfig
    config: MeshAutoencoderConfig
    hierarchy: Hierarchy
    mean: Tensor
    std: Tensor

    def __init__(self, config: MeshAutoencoderConfig, hierarchy: Hierarchy) -> None:
        super().__init__()
        levels = len(hierarchy.keep)
        if len(config.encoder_channels) != levels:
            raise ValueError(
                f"MeshAutoencoder: encoder_channels must have one entry for each of the {levels} "
                f"down-samplings of the hierarchy, got {len(config.encoder_channels)}"
            )
        self.config = config
        self.hierarchy = hierarchy
        self.hierarchy_hash = hierarchy.hash
        self.origin: Point = ZERO
        self.num_vertices = len(hierarchy.vertices[0])
        self.computes_dummy = config.dummy_vertex == PUBLISHED
        if self.computes_dummy:
            hierarchy = with_dummy(hierarchy)
        sizes = [len(vertices) for vertices in hierarchy.vertices]
        factories = [level_operators(config.operator, hierarchy, level) for level in range(levels)]

        orders = iter(config.orders)
        self.encoder = nn.ModuleList()
        self.select = None if config.fuse_downsampling else nn.ModuleList()
        width = COORDINATES
        for level, channels in enumerate(config.encoder_channels):
            keep = table_of(hierarchy.keep[level])
            select = SelectVertices(keep, sizes[level])
            every, kept = factories[level]
            if self.select is None:
                made = _kept_block(config, next(orders), every, kept, select, width, channels)
                self.encoder.append(made)
            else:
                self.encoder.append(_block(config, next(orders), every, width, channels))
                self.select.append(select)
            width = channels

        self.dummy = int(config.dummy_vertex is True)
        coarse = sizes[-1] + self.dummy
        self.to_latent = nn.Linear(coarse * width, config.latent_channels)
        self.coarse_shape = (coarse, config.decoder_channels[0])
        self.from_latent = nn.Linear(config.latent_channels, math.prod(self.coarse_shape))

        self.upsample = nn.ModuleList(
            Resample(hierarchy.up_index[n], hierarchy.up_weight[n], sizes[n + 1])
            for n in reversed(range(levels))
        )
        widths, last = config.decoder_channels, len(config.decoder_channels) - 2
        self.decoder = nn.ModuleList(
            _block(
                config,
                next(orders),
                factories[levels - 1 - n][0],
                widths[n],
                widths[n + 1],
                activation="none" if n == last else config.activation,
            )
            for n in range(levels)
        )
        self.head: PolynomialBlock | None = None
        if last == levels:
            made = _block(config, next(orders), factories[0][0], *widths[-2:], activation="none")
            self.head = made

        # Behind all others: with one seed an autoencoder and a variational one begin alike.
        self.to_log_variance: nn.Linear | None = None
        self.likelihood = None
        if config.variational:
            self.to_log_variance = nn.Linear(coarse * width, config.latent_channels)
            self.likelihood = make_likelihood(config.likelihood, config.variance)

        self.register_buffer("mean", torch.zeros(self.num_vertices, COORDINATES))
        self.register_buffer("std", torch.ones(self.num_vertices, COORDINATES))

    @property
    def degree(self) -> int | None:
        """The exact degree of the network as a polynomial, or None if it is none."""
        blocks = [m for m in self.modules() if isinstance(m, PolynomialBlock)]
        degrees = [block.degree for block in blocks if block.degree is not None]
        return math.prod(degrees) if len(degrees) == len(blocks) else None

    def set_normalization(self, mean: Tensor | np.ndarray, std: Tensor | np.ndarray) -> None:
        """Set mean and standard deviation per vertex and coordinate, both ``[V, 3]``.

        A coordinate that never moves (std zero) is given a hundredth of the mean deviation, so
        that it can be divided by and what the decoder adds to it stays small.

        Raises:
            ValueError: on another shape, values that are not finite, a negative std, or a std
                that is zero everywhere (a single mesh has no deviation).
        """
        wanted = (self.num_vertices, COORDINATES)
        values = {
            name: torch.as_tensor(value).to(self.mean)
            for name, value in (("mean", mean), ("std", std))
        }
        for name, value in values.items():
            if value.shape != wanted or not bool(torch.isfinite(value).all()):
                raise ValueError(
                    f"MeshAutoencoder: {name} must be finite, of shape {list(wanted)} (vertices of "
                    f"the template), got {list(value.shape)}"
                    + ("" if value.shape != wanted else " with values that are not finite")
                )
        deviation = values["std"]
        if bool((deviation < 0).any()) or not bool((deviation > 0).any()):
            raise ValueError(
                "MeshAutoencoder: std must not be negative, and not zero everywhere (it takes at "
                f"least two different meshes), got values from {float(deviation.min()):g} to "
                f"{float(deviation.max()):g}"
            )
        self.mean.copy_(values["mean"])
        self.std.copy_(torch.where(deviation > 0, deviation, 0.01 * deviation.mean()))

    def normalize(self, x: Tensor) -> Tensor:
        """``(x - mean) / std`` of meshes ``[B, V, 3]``; the loss is taken in these units."""
        return (x - self.mean) / self.std

    def denormalize(self, x: Tensor) -> Tensor:
        """``x · std + mean``: back to the units of the meshes."""
        return torch.addcmul(self.mean, x, self.std)

    def encode(self, x: Tensor) -> Tensor:
        """Latent codes ``[B, latent_channels]`` of meshes ``x [B, V, 3]``.

        Of a variational model they are the means of the posteriors.

        Raises:
            ValueError: if x does not have the vertices of the template.
        """
        return self._encode(self.normalize(self._check(x)))

    def decode(self, z: Tensor) -> Tensor:
        """Meshes ``[B, V, 3]`` of latent codes ``z [B, latent_channels]``."""
        check_tensors("MeshAutoencoder", z=z)
        if z.dim() != 2 or z.shape[1] != self.config.latent_channels:
            raise ValueError(
                f"MeshAutoencoder: z must have shape [B, {self.config.latent_channels}], "
                f"got {list(z.shape)}"
            )
        check_dtype("MeshAutoencoder", "z", z, self.from_latent.weight, of="model")
        return self.denormalize(self._decode(z))

    def forward(self, x: Tensor) -> Tensor:
        """Reconstruct meshes ``x [B, V, 3]``, in and out in their own units.

        Raises:
            ValueError: if x does not have the vertices of the template.
        """
        return self.denormalize(self._decode(self._encode(self.normalize(self._check(x)))))

    def forward_normalized(self, x: Tensor) -> Tensor:
        """Reconstruct meshes that are normalised already; the result is normalised, too."""
        return self._decode(self._encode(self._check(x)))

    def _check(self, x: Tensor) -> Tensor:
        check_tensors("MeshAutoencoder", x=x)
        if x.dim() != 3 or x.shape[1] != self.num_vertices or x.shape[2] != COORDINATES:
            raise ValueError(
                f"MeshAutoencoder: x must have shape [B, {self.num_vertices}, 3] (vertices of the "
                f"template), got {list(x.shape)}"
            )
        dtype = self.to_latent.weight.dtype
        if torch.promote_types(x.dtype, dtype) != dtype:  # the normalisation widens others
            check_dtype("MeshAutoencoder", "x", x, self.to_latent.weight, of="model")
        return x

    def observe(self, x: Tensor) -> Tensor:
        """Meshes ``x [B, V, 3]``, normalised, as the likelihood sees them."""
        return self.normalize(self._check(x))

    def infer(self, observed: Tensor) -> Posterior:
        """The Gaussian over codes of each mesh ``[B, V, 3]``, normalised already."""
        self.require_variational("infer")
        assert self.to_log_variance is not None
        features = self._features(self._check(observed))
        return Posterior(
            self.to_latent(features), clamp_log_variance(self.to_log_variance(features))
        )

    def expect(self, z: Tensor) -> Tensor:
        """What the likelihood is centred on, given codes ``z``: normalised meshes ``[B, V, 3]``."""
        return self._decode(z)

    def _encode(self, x: Tensor) -> Tensor:
        z: Tensor = self.to_latent(self._features(x))
        return z

    def _features(self, x: Tensor) -> Tensor:
        """What the linear layers behind the encoder read, ``[B, coarse vertices · channels]``."""
        if self.computes_dummy:
            x = nn.functional.pad(x, (0, 0, 0, 1))
        for level, block in enumerate(self.encoder):
            x = self._blanked(block(x))
            if self.select is not None:
                x = self.select[level](x)
        if self.dummy:
            x = nn.functional.pad(x, (0, 0, 0, 1))
        return x.flatten(1)

    def _decode(self, z: Tensor) -> Tensor:
        x: Tensor = self.from_latent(z).view(z.shape[0], *self.coarse_shape)
        if self.dummy:
            x = x[:, :-1]
        for upsample, block in zip(self.upsample, self.decoder, strict=True):
            x = self._blanked(block(upsample(x)))
        x = x if self.head is None else self.head(x)
        return x[:, :-1] if self.computes_dummy else x

    def _blanked(self, x: Tensor) -> Tensor:
        """The same with a dummy vertex that is zero, where there is one."""
        return nn.functional.pad(x[:, :-1], (0, 0, 0, 1)) if self.computes_dummy else x


_POLYNOMIALS: dict[str, Any] = {
    "simple": Simple,
    "full": NCP,
    "skip": NCPSkip,
    "skip_code": partial(NCPSkip, skip_first=False),
    "skip_linear": partial(NCPSkip, skip="linear"),
    "skip_plus_nested": partial(NCPSkip, skip="plus_nested"),
}


def _block(
    config: MeshAutoencoderConfig,
    order: int,
    factory: OperatorFactory,
    in_channels: int,
    out_channels: int,
    *,
    activation: str | None = None,
    **ncp: Any,
) -> PolynomialBlock:
    """A block of the kind that ``config`` asks for; ``ncp`` goes to the NCPs."""
    activation = config.activation if activation is None else activation
    if config.block == "first_order":
        return FirstOrder(factory, in_channels, out_channels, activation=activation)
    block: PolynomialBlock = _POLYNOMIALS[config.block](
        factory,
        in_channels,
        out_channels,
        order,
        norm=config.norm,
        activation=activation,
        dummy_vertex=config.dummy_vertex is True,
        **ncp,
    )
    return block


def _kept_block(
    config: MeshAutoencoderConfig,
    order: int,
    full: OperatorFactory,
    kept: OperatorFactory,
    select: SelectVertices,
    in_channels: int,
    out_channels: int,
) -> PolynomialBlock:
    """A block and the down-sampling that follows it, in one."""
    if config.block in ("first_order", "simple"):
        return _block(config, order, kept, in_channels, out_channels)
    selects: dict[str, Any] = {} if config.block == "skip_linear" else {"select": select}
    return _block(config, order, full, in_channels, out_channels, final_factory=kept, **selects)
