"""Mesh autoencoders by name: the published ones, and the ones they are compared with."""

from __future__ import annotations

from typing import Any

from polygraph._checks import check_choice
from polygraph.mesh.spiral import SpiralConfig
from polygraph.models.mesh.mesh_autoencoder import OPERATORS, MeshAutoencoderConfig

Preset = tuple[MeshAutoencoderConfig, SpiralConfig]

KINDS = ("simple", "full", "skip")  #: of polynomial blocks
ONE_RING = SpiralConfig(convention="neural3dmm", hops=(1,), dilation=(1,))


def _presets() -> dict[str, Preset]:
    blocks: dict[str, dict[str, Any]] = {"first-order": {"block": "first_order", "order": 1}}
    for block in ("simple", "full", "skip", "skip_code"):
        kind, _, code = block.partition("_")
        for order in (2, 3, 4):
            name = "-".join(filter(None, (kind, str(order), code)))
            blocks[name] = {"block": block, "order": order}
    presets: dict[str, Preset] = {}
    for name, settings in blocks.items():
        presets[name] = MeshAutoencoderConfig(**settings), ONE_RING
        presets[f"{name}-noact"] = MeshAutoencoderConfig(activation="none", **settings), ONE_RING
    for operator in OPERATORS[1:]:
        settings = {**blocks["first-order"], "operator": operator}
        presets[operator] = MeshAutoencoderConfig(**settings), ONE_RING
    for block in KINDS:
        for order in (2, 3, 4):
            name = f"{block}-{order}"
            own: dict[str, Any] = {**blocks[name], "norm": "instance"}
            presets[f"{name}-instance"] = MeshAutoencoderConfig(**own), ONE_RING
            without = MeshAutoencoderConfig(activation="none", **own)
            presets[f"{name}-instance-noact"] = without, ONE_RING
    for name in ("simple-2", "full-2", "full-3"):
        presets[f"{name}-batchnorm"] = MeshAutoencoderConfig(norm="batch", **blocks[name]), ONE_RING
    for name in ("first-order", *(f"{kind}-{order}" for kind in KINDS for order in (2, 3, 4))):
        own = {**blocks[name], "variational": True}
        presets[f"vae-{name}"] = MeshAutoencoderConfig(**own), ONE_RING
    presets["first-order-spiralnet++"] = (
        MeshAutoencoderConfig(**blocks["first-order"]),
        SpiralConfig(convention="spiralnet++", length=9),
    )
    presets["neural3dmm"] = (
        MeshAutoencoderConfig(
            encoder_channels=(16, 32, 64, 128),
            decoder_channels=(128, 64, 32, 32, 16, 3),
            **blocks["first-order"],
        ),
        SpiralConfig(convention="neural3dmm", hops=(2, 2, 1), dilation=(2, 2, 1)),
    )
    presets["spiralnet++"] = (
        MeshAutoencoderConfig(
            encoder_channels=(32, 32, 32, 64),
            decoder_channels=(64, 64, 32, 32, 32, 3),
            **blocks["first-order"],
        ),
        SpiralConfig(convention="spiralnet++", length=9),
    )
    return presets


PRESETS = _presets()


def get_preset(name: str) -> Preset:
    """The config and the spirals of the preset called ``name``.

    ``first-order``, ``simple-N``, ``full-N``, ``skip-N`` and ``skip-N-code`` for N = 2..4, each
    also with ``-noact`` (no activations), are Neural3DMM with one-ring spirals and 16,16,16,32
    channels, as in the polynomial paper's comparison; ``full`` is NCP, ``skip`` NCP-Skip by the
    paper's formula, ``skip-N-code`` NCP-Skip as the public code has it (`polygraph.nn.NCPSkip`;
    ``skip-2-code`` is ``full-2``). ``skip-4`` and ``skip-3-noact`` want a rate of 1e-3 where 5e-3
    is better for the others.
    ``first-order-spiralnet++`` has SpiralNet++'s spirals in the same network; ``chebyshev``,
    ``gat``, ``feastnet``, ``monet``, ``edgeconv`` and ``ecc`` have those operators in it.
    ``simple-N``, ``full-N`` and ``skip-N`` with ``-instance``, also ``-instance-noact``, have the
    papers' normalisation (instance), ``simple-2``, ``full-2`` and ``full-3`` with ``-batchnorm``
    that of the public code. ``vae-first-order``, ``vae-simple-N``, ``vae-full-N`` and
    ``vae-skip-N`` are the same networks, variational (`polygraph.models.vae`).
    ``neural3dmm`` and ``spiralnet++`` are as published, filters and all.

    Raises:
        ValueError: on an unknown name; names the nearest.

    Example:
        >>> from polygraph.models import get_preset
        >>> config, spiral = get_preset("skip-3")
        >>> config.block, config.order, spiral.convention
        ('skip', 3, 'neural3dmm')

    See Also:
        `polygraph.models.create_model`, which makes the model.
    """
    check_choice("get_preset", "name", name, PRESETS)
    return PRESETS[name]
