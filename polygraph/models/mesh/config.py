"""What a mesh autoencoder is made of: channels, operators, kinds of blocks, likelihood."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from polygraph._checks import check_choice, check_numbers, check_positive
from polygraph.models.vae.likelihood import check_likelihood
from polygraph.nn.block import ACTIVATIONS
from polygraph.nn.norm import NORMS

COORDINATES = 3
BLOCKS = (
    "first_order",
    "simple",
    "full",
    "skip",
    "skip_code",
    "skip_linear",
    "skip_plus_nested",
)
PUBLISHED = "published"  #: rule of the dummy vertex
LIKELIHOODS = ("optimal", "learned", "fixed")  #: of coordinates
OPERATORS = ("spiral", "chebyshev", "gat", "feastnet", "monet", "edgeconv", "ecc")


@dataclass(frozen=True)
class MeshAutoencoderConfig:
    """What a `MeshAutoencoder` is made of.

    Attributes:
        encoder_channels: channels after each encoder layer, finest first; one per down-sampling.
        decoder_channels: channels after the decoder's linear layer, then after each decoder layer,
            coarsest first, the last being the 3 coordinates; one more than encoder channels, or
            two more, which adds a convolution at the finest level.
        latent_channels: numbers in the code of a mesh.
        block: ``"first_order"`` (spiral convolution), ``"simple"`` (one operator, its powers),
            ``"full"`` (NCP), ``"skip"`` (NCP-Skip), ``"skip_code"`` (NCP-Skip as the public code
            has it, whose residual begins with the second step; of order 2 it is ``"full"``),
            ``"skip_linear"`` or ``"skip_plus_nested"`` (other residuals, see
            `polygraph.nn.NCPSkip`).
        order: degree of the polynomial blocks, one for all or one for each, the encoder's first,
            in the order of the data's way; first-order blocks ignore it.
        operator: of the blocks: ``"spiral"`` convolution, or one on the edges of the mesh
            (`polygraph.nn.mesh_conv`): ``"chebyshev"``, ``"gat"``, ``"feastnet"``, ``"monet"``,
            ``"edgeconv"`` or ``"ecc"``.
        activation: after every block but the last: ``"elu"``, ``"none"``, ``"relu"``,
            ``"leaky_relu"`` (slope 0.2) or ``"leaky_relu_0.02"`` (the public code's slope).
        norm: of the products, a kind of `polygraph.nn.SecondOrderNorm`. With ``"none"`` and
            activation ``"none"`` the network is exactly a polynomial.
        fuse_downsampling: evaluate the last step of an encoder layer on the vertices that stay.
            A quarter of the work, and the same result where ``norm`` is per vertex (``"batch"``,
            ``"none"``); the other norms then take their statistics over the vertices that stay.
        dummy_vertex: the vertex that the public code adds to every level, and that gaps of spirals
            read. True counts it in the linear layers and in norm ``"batch"``, for the published
            counts of parameters; it is always zero. ``"published"`` computes with it as the public
            code does: it is zero between the layers, but the first layer of the decoder reads a
            learned row there, and within a layer, from order 3 on, the next step reads the bias
            that ``"batch"`` has there. So published weights give what they gave (see
            `polygraph.models.load_published`).
        variational: encode a mesh to a Gaussian over codes, by a second linear layer beside the
            last one of the encoder: see `polygraph.models.vae`.
        likelihood: of a variational one, the Gaussian of normalised coordinates around what is
            decoded, with one variance for all: ``"optimal"``, the mean squared error of the batch
            (σ-VAE); ``"learned"``, a parameter; ``"fixed"``, `variance`.
        variance: of the likelihood ``"fixed"``, in normalised units.
    """

    encoder_channels: tuple[int, ...] = (16, 16, 16, 32)
    decoder_channels: tuple[int, ...] = (32, 32, 16, 16, 3)
    latent_channels: int = 16
    block: Literal[
        "first_order", "simple", "full", "skip", "skip_code", "skip_linear", "skip_plus_nested"
    ] = "full"
    order: int | tuple[int, ...] = 2
    operator: Literal["spiral", "chebyshev", "gat", "feastnet", "monet", "edgeconv", "ecc"] = (
        "spiral"
    )
    activation: Literal["elu", "none", "relu", "leaky_relu", "leaky_relu_0.02"] = "elu"
    norm: Literal[
        "rms",
        "vertex_rms",
        "instance",
        "instance_vertex",
        "batch",
        "batch_channel",
        "tanh",
        "none",
    ] = "vertex_rms"
    fuse_downsampling: bool = True
    dummy_vertex: bool | Literal["published"] = False
    variational: bool = False
    likelihood: Literal["optimal", "learned", "fixed"] = "optimal"
    variance: float = 1.0

    def __post_init__(self) -> None:
        """Check every field; a list of channels (from JSON or YAML) becomes a tuple."""
        check_numbers(type(self).__name__, self)
        name = type(self).__name__
        for field in ("encoder_channels", "decoder_channels"):
            object.__setattr__(self, field, tuple(getattr(self, field)))
            for channels in getattr(self, field):
                check_positive(name, **{field: channels})
        check_positive(name, latent_channels=self.latent_channels)
        if not isinstance(self.order, int):
            object.__setattr__(self, "order", tuple(self.order))
        for order in self.orders:
            check_positive(name, order=order)
        check_choice(name, "block", self.block, BLOCKS)
        check_choice(name, "operator", self.operator, OPERATORS)
        check_choice(name, "activation", self.activation, ACTIVATIONS)
        check_choice(name, "norm", self.norm, NORMS)
        if not isinstance(self.dummy_vertex, bool):
            check_choice(name, "dummy_vertex", self.dummy_vertex, (PUBLISHED,))
            if self.operator != "spiral":
                raise ValueError(
                    f"{name}: dummy_vertex {PUBLISHED!r} belongs to operator 'spiral', got "
                    f"{self.operator!r}"
                )
        levels, decoder = len(self.encoder_channels), self.decoder_channels
        if levels < 1 or len(decoder) not in (levels + 1, levels + 2):
            raise ValueError(
                f"{name}: decoder_channels must be one or two more than encoder_channels, of which "
                f"there is at least one; got {len(decoder)} and {levels}"
            )
        if decoder[-1] != COORDINATES:
            raise ValueError(
                f"{name}: decoder_channels must end with 3 coordinates, got {decoder[-1]}"
            )
        check_likelihood(name, self.likelihood, self.variance, LIKELIHOODS)
        if len(self.orders) != self.num_blocks:
            raise ValueError(
                f"{name}: order must be one number, or one for each of the {self.num_blocks} "
                f"blocks, got {len(self.orders)}"
            )

    @property
    def num_blocks(self) -> int:
        """Of encoder and decoder."""
        return len(self.encoder_channels) + len(self.decoder_channels) - 1

    @property
    def orders(self) -> tuple[int, ...]:
        """Of every block, the encoder's first."""
        return (self.order,) * self.num_blocks if isinstance(self.order, int) else self.order

    def semantics(self) -> dict[str, Any]:
        """The fields that decide about the weights; of autoencoders without the variational ones.

        So runs and hashes of autoencoders stay what they were.
        """
        found = asdict(self)
        if not self.variational:
            for name in ("variational", "likelihood", "variance"):
                del found[name]
        return found
