"""A variational autoencoder of images: convolutions down to a code, transposed ones back.

Sources: Kingma and Welling, "Auto-Encoding Variational Bayes", ICLR 2014; the network of Rybkin,
Daniilidis and Levine, "Simple and Effective VAE Training with Calibrated Decoders", ICML 2021
(32, 64 and 128 features, kernels 3, 4 and 5, 20 numbers). We depart from it: layers are padded, so
that any size that is halved often enough works, and images lie in [-1, 1].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from polygraph._checks import check_numbers, check_positive
from polygraph.models.images._images import check_batch, check_images, check_latent
from polygraph.models.vae.gaussian import Posterior, clamp_log_variance
from polygraph.models.vae.likelihood import check_likelihood, make_likelihood
from polygraph.models.vae.variational import VariationalMixin

_KERNELS = (3, 4, 5)  # of the first layer, the second, the third; further ones as the second
_MOST_SIZE = 1 << 13


@dataclass(frozen=True)
class ImageVAEConfig:
    """What an `ImageVAE` is made of.

    Attributes:
        in_channels: of the images: 1 or 3.
        size: height and width of the images, a multiple of 2 for each of the channels but one.
        channels: features at the full size, at half of it, at a quarter, ...; the decoder mirrors
            them.
        latent_channels: numbers in the code of an image.
        likelihood: ``"optimal"``, a Gaussian whose variance is the mean squared error of the batch
            (σ-VAE); ``"learned"``, a Gaussian whose variance is a parameter; ``"fixed"``, one with
            `variance`; ``"bernoulli"``: pixels are bits, 1 where they are brighter than the middle.
        variance: of the likelihood ``"fixed"``, of pixels in [-1, 1].
    """

    in_channels: int = 1
    size: int = 32
    channels: tuple[int, ...] = (32, 64, 128)
    latent_channels: int = 20
    likelihood: Literal["optimal", "learned", "fixed", "bernoulli"] = "optimal"
    variance: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what cannot be built; a list of channels (from JSON) becomes a tuple."""
        owner = type(self).__name__
        check_numbers(owner, self)
        object.__setattr__(self, "channels", tuple(self.channels))
        for channels in self.channels:
            check_positive(owner, channels=channels)
        check_positive(owner, latent_channels=self.latent_channels, size=self.size)
        check_images(owner, "in_channels", self.in_channels)
        check_likelihood(owner, self.likelihood, self.variance)
        if len(self.channels) < 2:
            raise ValueError(
                f"{owner}: channels must be two numbers or more, got {list(self.channels)}"
            )
        shrink = 2 ** (len(self.channels) - 1)
        if self.size % shrink or self.size > _MOST_SIZE:
            raise ValueError(
                f"{owner}: size must be a multiple of {shrink} up to {_MOST_SIZE} for "
                f"{len(self.channels)} channels, got {self.size}"
            )

    @property
    def coarse_shape(self) -> tuple[int, int, int]:
        """Features, height and width behind the last convolution."""
        side = self.size >> (len(self.channels) - 1)
        return self.channels[-1], side, side


class ImageDecoder(nn.Module):
    """The generator of an `ImageVAE`: ``[B, latent_channels]`` to images in (-1, 1).

    Whatever draws images from a generator takes it: samples, walks, scores.

    Args:
        config: of the autoencoder.

    Example:
        >>> import torch
        >>> from polygraph.models.images import ImageDecoder, ImageVAEConfig
        >>> ImageDecoder(ImageVAEConfig())(torch.randn(2, 20)).shape
        torch.Size([2, 1, 32, 32])
    """

    def __init__(self, config: ImageVAEConfig) -> None:
        super().__init__()
        self.config = config
        features, height, width = config.coarse_shape
        self.input = nn.Linear(config.latent_channels, features * height * width)
        layers: list[nn.Module] = [nn.ReLU()]
        for level in reversed(range(1, len(config.channels))):
            kernel = _kernel(level)
            before, after = config.channels[level], config.channels[level - 1]
            layers.append(
                nn.ConvTranspose2d(
                    before, after, kernel, 2, (kernel - 1) // 2, output_padding=kernel % 2
                )
            )
            layers.append(nn.ReLU())
        layers.append(nn.Conv2d(config.channels[0], config.in_channels, _kernel(0), padding=1))
        self.layers = nn.Sequential(*layers)

    def logits(self, z: Tensor) -> Tensor:
        """What the images are the hyperbolic tangent of half of; of bits the logits."""
        check_latent(self, z, self.config.latent_channels)
        out: Tensor = self.layers(self.input(z).view(-1, *self.config.coarse_shape))
        return out

    def forward(self, z: Tensor) -> Tensor:
        """Images ``[B, in_channels, size, size]`` of codes: ``2 sigmoid(logits) - 1``."""
        return torch.tanh(0.5 * self.logits(z))


class ImageVAE(VariationalMixin):
    """Encodes images to Gaussians over a few numbers, and decodes numbers to images.

    Encoder: a 3 x 3 convolution, then one of stride 2 for each further number of channels, ReLU,
    two linear heads. `decoder` mirrors it.

    Args:
        config: sizes and likelihood.

    Call it with images ``[B, in_channels, size, size]`` in [-1, 1]; it returns their
    reconstructions through the means of their posteriors, of the same shape.

    Attributes:
        decoder: `ImageDecoder`, a generator.

    Raises:
        ValueError: the images have another shape.

    Example:
        >>> import torch
        >>> from polygraph.models import create_model
        >>> model = create_model("vae/conv", latent_channels=8)
        >>> images = torch.rand(2, 1, 32, 32) * 2 - 1
        >>> model.encode(images).shape, model(images).shape, model.sample(3).shape
        (torch.Size([2, 8]), torch.Size([2, 1, 32, 32]), torch.Size([3, 1, 32, 32]))

    See Also:
        `MeshAutoencoder` with ``variational=True``, of meshes; `polygraph.tasks.vae`.
    """

    def __init__(self, config: ImageVAEConfig) -> None:
        super().__init__()
        self.config = config
        layers: list[nn.Module] = []
        before = config.in_channels
        for level, width in enumerate(config.channels):
            kernel = _kernel(level)
            layers.append(nn.Conv2d(before, width, kernel, 1 + (level > 0), (kernel - 1) // 2))
            layers.append(nn.ReLU())
            before = width
        self.layers = nn.Sequential(*layers)
        features, height, width = config.coarse_shape
        self.to_latent = nn.Linear(features * height * width, config.latent_channels)
        self.to_log_variance = nn.Linear(features * height * width, config.latent_channels)
        self.decoder = ImageDecoder(config)
        self.likelihood = make_likelihood(config.likelihood, config.variance)

    def observe(self, x: Tensor) -> Tensor:
        """Images as the likelihood sees them: as they are, or bits."""
        check_batch(self, x, self.config.in_channels, self.config.size)
        if self.config.likelihood != "bernoulli":
            return x
        # What is not finite stays so, and is refused where a bound is asked for.
        return torch.where(torch.isfinite(x), (x > 0).to(x), x)

    def infer(self, observed: Tensor) -> Posterior:
        """The Gaussian over codes of what `observe` gave."""
        features = self.layers(observed).flatten(1)
        return Posterior(
            self.to_latent(features), clamp_log_variance(self.to_log_variance(features))
        )

    def expect(self, z: Tensor) -> Tensor:
        """Images of codes, or logits of bits."""
        bits = self.config.likelihood == "bernoulli"
        return self.decoder.logits(z) if bits else self.decode(z)

    def encode(self, x: Tensor) -> Tensor:
        """The means of the posteriors, ``[B, latent_channels]``."""
        return self.infer(self.observe(x)).mean

    def decode(self, z: Tensor) -> Tensor:
        """Images ``[B, in_channels, size, size]`` in (-1, 1) of codes."""
        images: Tensor = self.decoder(z)
        return images

    def forward(self, x: Tensor) -> Tensor:
        """Reconstructions of images."""
        return self.decode(self.encode(x))


def _kernel(level: int) -> int:
    return _KERNELS[level] if level < len(_KERNELS) else _KERNELS[1]


#: name -> config
VAE_PRESETS: dict[str, ImageVAEConfig] = {
    "vae/conv": ImageVAEConfig(),
    "vae/bernoulli": ImageVAEConfig(likelihood="bernoulli"),
}
