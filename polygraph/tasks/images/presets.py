"""Adversarial runs by name: networks, losses, optimizers.

``thesis/*``: WGAN-GP of `polygraph.models.images.graph_gan`, five critic steps, RMSprop 1e-4 (decay
0.9) that falls linearly to 0, batches of 32, the generator itself and no average; ``ecc-k16`` and
``ecc-k32`` have batches of 16 and 8 and rates of 7e-5 and 5e-5, as table 4.1 of the thesis.
``thesis/*-b32``: all in batches of 32 at 1e-4, with an averaged generator. ``critic-*`` has the graph
layer in the critic alone, ``both-*`` in both. ``small/*``: averaged, with a quarter of the features
in the critic and half in the generator's last layers, which two cores can carry. ``pi/*``: the
generators of the Π-net papers; SNGAN's pairs with the hinge loss, Adam 2e-4 (0, 0.9), five critic
steps of 64 images, 128 for the generator; ProGAN's with WGAN-GP and growing sizes. ``small/ccp``,
``small/ncp`` and ``small/ncp-skip``: polynomials of order 8 of z, without activations, which two
cores can carry too.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from polygraph._checks import check_choice
from polygraph.models.images.dcgan import ConvCriticConfig, DeconvGeneratorConfig
from polygraph.models.images.graph_gan import GraphCriticConfig, GraphGeneratorConfig
from polygraph.models.images.growing_gan import GrowingCriticConfig, GrowingGeneratorConfig
from polygraph.models.images.polynomial_gan import PolynomialGeneratorConfig
from polygraph.models.images.sngan import ResidualCriticConfig, ResidualGeneratorConfig
from polygraph.tasks.images.losses import GanConfig

NEIGHBORS = (8, 16, 32)
#: the name in presets -> the kind of layer, and δ of its edges' weights
_GRAPHS: dict[str, tuple[str, float | None]] = {
    "edge": ("edge-sum", None),
    "edge-max": ("edge-max", None),
    "ecc": ("ecc", 10.0),
    "light": ("light", 10.0),
}
#: batch and rate of the rows of table 4.1 that are not 32 and 1e-4
_TABLE_4_1 = {"ecc-k16": (16, 7e-5), "ecc-k32": (8, 5e-5)}


@dataclass(frozen=True)
class GanPreset:
    """What a run starts from.

    Attributes:
        generator: config of a family of `polygraph.models.images.families.GENERATORS`.
        critic: config of a family of `polygraph.models.images.families.CRITICS`.
        gan: the pair's settings.
        train: where the loop's settings differ from the defaults of `TrainConfig`.
    """

    generator: Any
    critic: Any
    gan: GanConfig
    train: dict[str, Any] = field(default_factory=dict)


_LOOP = {"schedule": "linear", "weight_decay": 0.0, "eval_every": 1000, "checkpoint_every": 500}
_THESIS = GanPreset(
    GraphGeneratorConfig(),
    GraphCriticConfig(),
    GanConfig(optimizer="rmsprop", ema=0.0),
    {**_LOOP, "steps": 100_000, "batch_size": 32, "learning_rate": 1e-4},
)
_SMALL = GanPreset(
    GraphGeneratorConfig(channels=(264, 132, 66, 33)),
    GraphCriticConfig(channels=(33, 66, 132)),
    GanConfig(ema=0.99),
    {
        **_LOOP,
        "steps": 2_000,
        "batch_size": 32,
        "learning_rate": 4e-4,
        "eval_every": 250,
        "log_every": 25,  # divides the steps between checkpoints: a resumed log is the same
        "checkpoint_every": 250,
    },
)
_SNGAN = GanPreset(
    ResidualGeneratorConfig(),
    ResidualCriticConfig(),
    GanConfig(loss="hinge", generator_batch=128),
    {**_LOOP, "steps": 50_000, "batch_size": 64, "learning_rate": 2e-4},
)
_DCGAN = GanPreset(
    DeconvGeneratorConfig(),
    ConvCriticConfig(),
    GanConfig(loss="non-saturating", critic_steps=1, beta1=0.5, beta2=0.999),
    {**_LOOP, "steps": 50_000, "batch_size": 64, "learning_rate": 2e-4},
)
_PROGAN = GanPreset(
    GrowingGeneratorConfig(),
    GrowingCriticConfig(),
    GanConfig(critic_steps=1, beta1=0.0, beta2=0.99, grow_steps=30_000),
    {**_LOOP, "schedule": "constant", "steps": 50_000, "batch_size": 32, "learning_rate": 1e-3},
)
_POLYNOMIAL = GanPreset(
    PolynomialGeneratorConfig(),
    ConvCriticConfig(batch_norm=False, spectral_norm=True),
    GanConfig(loss="hinge", critic_steps=1, beta1=0.0, beta2=0.9),
    {
        **_LOOP,
        "steps": 20_000,
        "batch_size": 64,
        "learning_rate": 2e-4,
    },
)
_SMALL_POLYNOMIAL = GanPreset(
    PolynomialGeneratorConfig(
        body="sngan", order=8, latent_channels=64, channels=(64, 48, 24, 16), norm="rms"
    ),
    ConvCriticConfig(channels=(32, 64, 128), batch_norm=False),
    GanConfig(critic_steps=2, beta1=0.0, beta2=0.9, ema=0.99),
    {
        **_SMALL.train,
        "steps": 8_000,
        "batch_size": 16,
        "learning_rate": 1e-3,
        "eval_every": 500,
        "log_every": 50,
        "checkpoint_every": 500,
    },
)


def _graph_presets(family: str, base: GanPreset) -> dict[str, GanPreset]:
    """A plain pair; a graph layer in the generator, in the critic, and in both."""
    found = {f"{family}/baseline": base}

    def add(name: str, graph: str, **settings: Any) -> None:
        generator = replace(base.generator, graph=graph, **settings)
        critic = replace(base.critic, graph=graph, **settings)
        found[f"{family}/{name}"] = replace(base, generator=generator)
        found[f"{family}/critic-{name}"] = replace(base, critic=critic)
        found[f"{family}/both-{name}"] = replace(base, generator=generator, critic=critic)

    for name, (graph, delta) in _GRAPHS.items():
        for k in NEIGHBORS:
            add(f"{name}-k{k}", graph, k=k, delta=delta)
    add("attention", "attention")
    return found


def _thesis_presets() -> dict[str, GanPreset]:
    """As printed in table 4.1; and all in the batches of the others, averaged."""
    found = _graph_presets("thesis", _THESIS)
    averaged = replace(_THESIS, gan=replace(_THESIS.gan, ema=GanConfig().ema))
    for name, preset in _graph_presets("thesis", averaged).items():
        found[f"{name}-b32"] = preset
    for name, (batch, rate) in _TABLE_4_1.items():
        row = found[f"thesis/{name}"]
        train = {**row.train, "batch_size": batch, "learning_rate": rate}
        found[f"thesis/{name}"] = replace(row, train=train)
    return found


def _polynomial_presets() -> dict[str, GanPreset]:
    base = _POLYNOMIAL.generator
    found = {}
    for decomposition in ("ccp", "ncp", "ncp-skip", "prodpoly"):
        order = 2 if decomposition == "prodpoly" else 4
        made = replace(base, decomposition=decomposition, order=order)
        found[f"pi/{decomposition}"] = replace(_POLYNOMIAL, generator=made)
        residual = replace(made, body="sngan")
        found[f"pi/{decomposition}-residual"] = replace(_POLYNOMIAL, generator=residual)
    for decomposition in ("ccp", "ncp", "ncp-skip"):
        made = replace(_SMALL_POLYNOMIAL.generator, decomposition=decomposition)
        found[f"small/{decomposition}"] = replace(_SMALL_POLYNOMIAL, generator=made)
    mapped = replace(base, mapping_order=2)
    found["pi/ncp-mapping"] = replace(_POLYNOMIAL, generator=mapped)
    return found


def _presets() -> dict[str, GanPreset]:
    digits = replace(
        _SMALL,
        generator=GraphGeneratorConfig(
            latent_channels=32, channels=(64, 32, 16, 16), graph="edge-sum", graph_sizes=(16,), k=8
        ),
        critic=GraphCriticConfig(channels=(16, 32, 64)),
        gan=GanConfig(critic_steps=2, beta1=0.0, beta2=0.9, ema=0.99),
        train={
            **_SMALL.train,
            "steps": 1_000,
            "learning_rate": 1e-3,
        },
    )
    return {
        "digits": digits,
        **_thesis_presets(),
        **_graph_presets("small", _SMALL),
        "pi/dcgan": _DCGAN,
        "pi/progan": _PROGAN,
        "pi/progan-mapping": replace(_PROGAN, generator=GrowingGeneratorConfig(mapping_order=2)),
        "pi/sngan": _SNGAN,
        "pi/sngan-ncp": replace(_SNGAN, generator=ResidualGeneratorConfig(kind="ncp")),
        "pi/sngan-prodpoly": replace(_SNGAN, generator=ResidualGeneratorConfig(kind="prodpoly")),
        **_polynomial_presets(),
    }


GAN_PRESETS = _presets()


def get_gan_preset(name: str) -> GanPreset:
    """The preset called ``name``.

    Raises:
        ValueError: on an unknown name; names the nearest.
    """
    check_choice("get_gan_preset", "preset", name, GAN_PRESETS)
    return GAN_PRESETS[name]
