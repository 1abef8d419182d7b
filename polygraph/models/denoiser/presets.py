"""Denoisers by name.

``gcdn``: the published network, ``gcdn-local`` its twin without graphs. ``gcdn-33``: a quarter of
the width, two blocks of one layer each, which two cores can train; ``gcdn-33-local`` is its twin,
``gcdn-33-local-wide`` a twin of its size. ``dncnn``: the published network; ``dncnn-10``: 10
convolutions of 40 features, as large as ``gcdn-33`` or nearly.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from polygraph._checks import check_choice
from polygraph.models.denoiser.denoiser import Denoiser
from polygraph.models.denoiser.dncnn import DnCNN, DnCNNConfig
from polygraph.models.denoiser.gcdn import GCDN, GCDNConfig

_SMALL = GCDNConfig(width=33, blocks=2, layers=1, k=8, norm_momentum=0.01)

#: name -> network
DENOISER_PRESETS: dict[str, Any] = {
    "gcdn": GCDNConfig(),
    "gcdn-local": GCDNConfig(graph="none"),
    "gcdn-33": _SMALL,
    "gcdn-33-local": replace(_SMALL, graph="none"),
    "gcdn-33-local-wide": replace(_SMALL, graph="none", width=39),
    "dncnn": DnCNNConfig(),
    "dncnn-10": DnCNNConfig(width=40, depth=10),
}
#: family -> (class of the config, class of the module)
DENOISERS: dict[str, tuple[type, type[Denoiser]]] = {
    "gcdn": (GCDNConfig, GCDN),
    "dncnn": (DnCNNConfig, DnCNN),
}


def denoiser_family(config: Any) -> str:
    """The family that a denoiser's config belongs to.

    Raises:
        TypeError: it is no such config.
    """
    for name, (cls, _) in DENOISERS.items():
        if type(config) is cls:
            return name
    raise TypeError(f"denoiser_family: not a config of a denoiser: {type(config).__name__}")


def build_denoiser(config: Any) -> Denoiser:
    """The network of a config, initialised from torch's global generator."""
    return DENOISERS[denoiser_family(config)][1](config)


def denoiser_config(family: str, fields: Any) -> Any:
    """The config of a family from its fields, as a checkpoint holds them.

    Raises:
        ValueError: an unknown family, or a field has a bad value.
        TypeError: an unknown field.
    """
    check_choice("checkpoint", "family", family, DENOISERS)
    return DENOISERS[family][0](**fields)
