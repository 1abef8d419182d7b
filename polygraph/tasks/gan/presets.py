"""Adversarial runs by name: a pair of networks, its losses, optimizers and length.

``thesis/*`` and ``small/*``: WGAN-GP, five critic steps; RMSprop 1e-4 (decay 0.9) that falls
linearly to 0, batches of 32. ``thesis/*`` are scored without an averaged generator, and ``ecc-k16``
and ``ecc-k32`` have batches of 16 and 8 at 7e-5 and 5e-5, as table 4.1 of the thesis (D'Amico,
Politecnico di Torino 2020) has it; ``thesis/*-b32`` are all of them in batches of 32 at 1e-4,
averaged. ``pi/*``: SNGAN's pairs with the hinge loss, Adam 2e-4 (0, 0.9), five critic steps of 64
images, 128 for the generator; ProGAN's with WGAN-GP and growing sizes. ``linear/*``: the hinge
loss, one critic step, batches of 32, 2e-4. The networks are those of
`polygraph.models.images.presets`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any

from polygraph._checks import check_choice
from polygraph.models.images.presets import PAIRS
from polygraph.tasks.gan.losses import GanConfig


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
_THESIS = {**_LOOP, "steps": 100_000, "batch_size": 32, "learning_rate": 1e-4}
_SMALL = {
    **_LOOP,
    "steps": 2_000,
    "batch_size": 32,
    "learning_rate": 4e-4,
    "eval_every": 250,
    "log_every": 25,  # divides the steps between checkpoints: a resumed log is the same
    "checkpoint_every": 250,
}
_SMALL_POLYNOMIAL = (
    GanConfig(critic_steps=2, beta1=0.0, beta2=0.9, ema=0.99),
    {
        **_SMALL,
        "steps": 8_000,
        "batch_size": 16,
        "learning_rate": 1e-3,
        "eval_every": 500,
        "log_every": 50,
        "checkpoint_every": 500,
    },
)
# Patterns of the names of `polygraph.models.images.presets.PAIRS`, of which the first that fits
# counts -> how such a pair is trained.
_TRAINING: dict[str, tuple[GanConfig, dict[str, Any]]] = {
    "digits": (
        GanConfig(critic_steps=2, beta1=0.0, beta2=0.9, ema=0.99),
        {**_SMALL, "steps": 1_000, "learning_rate": 1e-3},
    ),
    "thesis/*-b32": (GanConfig(optimizer="rmsprop"), _THESIS),
    "thesis/ecc-k16": (
        GanConfig(optimizer="rmsprop", ema=0.0),
        {**_THESIS, "batch_size": 16, "learning_rate": 7e-5},
    ),
    "thesis/ecc-k32": (
        GanConfig(optimizer="rmsprop", ema=0.0),
        {**_THESIS, "batch_size": 8, "learning_rate": 5e-5},
    ),
    "thesis/*": (GanConfig(optimizer="rmsprop", ema=0.0), _THESIS),
    "small/prodpoly": (
        GanConfig(loss="hinge", critic_steps=1, beta1=0.0, beta2=0.9, ema=0.99),
        {**_SMALL, "steps": 8_000, "batch_size": 32, "eval_every": 500, "checkpoint_every": 500},
    ),
    "small/*cp*": _SMALL_POLYNOMIAL,
    "linear/*": (
        GanConfig(loss="hinge", critic_steps=1, beta1=0.0, beta2=0.9, ema=0.99),
        {
            **_SMALL,
            "steps": 3_000,
            "batch_size": 32,
            "learning_rate": 2e-4,
            "eval_every": 500,
            "checkpoint_every": 500,
        },
    ),
    "small/*": (GanConfig(ema=0.99), _SMALL),
    "pi/dcgan*": (
        GanConfig(loss="non-saturating", critic_steps=1, beta1=0.5, beta2=0.999),
        {**_LOOP, "steps": 50_000, "batch_size": 64, "learning_rate": 2e-4},
    ),
    "pi/progan*": (
        GanConfig(critic_steps=1, beta1=0.0, beta2=0.99, grow_steps=30_000),
        {
            **_LOOP,
            "schedule": "constant",
            "steps": 50_000,
            "batch_size": 32,
            "learning_rate": 1e-3,
        },
    ),
    "pi/prodpoly-sn": (
        GanConfig(loss="hinge", critic_steps=1, beta1=0.0, beta2=0.9),
        {**_LOOP, "steps": 50_000, "batch_size": 64, "learning_rate": 2e-4},
    ),
    "pi/style*": (
        GanConfig(loss="hinge", critic_steps=1, beta1=0.0, beta2=0.9),
        {**_LOOP, "steps": 50_000, "batch_size": 64, "learning_rate": 2e-4},
    ),
    "pi/sngan*": (
        GanConfig(loss="hinge", generator_batch=128),
        {**_LOOP, "steps": 50_000, "batch_size": 64, "learning_rate": 2e-4},
    ),
    "pi/*": (
        GanConfig(loss="hinge", critic_steps=1, beta1=0.0, beta2=0.9),
        {**_LOOP, "steps": 20_000, "batch_size": 64, "learning_rate": 2e-4},
    ),
}


def _presets() -> dict[str, GanPreset]:
    averaged = {f"{name}-b32": pair for name, pair in PAIRS.items() if name.startswith("thesis/")}
    named = {**PAIRS, **averaged}
    return {
        name: GanPreset(
            *pair, *next(found for pattern, found in _TRAINING.items() if fnmatch(name, pattern))
        )
        for name, pair in named.items()
    }


GAN_PRESETS = _presets()


def get_gan_preset(name: str) -> GanPreset:
    """The preset called ``name``.

    Raises:
        ValueError: on an unknown name; names the nearest.
    """
    check_choice("get_gan_preset", "preset", name, GAN_PRESETS)
    return GAN_PRESETS[name]
