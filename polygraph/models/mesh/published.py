"""Weights of the public code of the polynomial mesh autoencoders, by the names they have there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from polygraph.models.mesh.config import PUBLISHED, MeshAutoencoderConfig
from polygraph.models.mesh.mesh_autoencoder import MeshAutoencoder

_BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_NORMALIZATION = ("mean", "std")  # of the meshes: not in the public state


def load_published(model: MeshAutoencoder, state: Mapping[str, Tensor]) -> None:
    """Put the weights of the public mesh code (Pi-nets, and Neural3DMM's first order) into a model.

    The model computes what the public code computes with them, dummy vertex included, on meshes
    that are normalised as there (`MeshAutoencoder.set_normalization`) and with the hierarchy and
    the spirals that they were trained with.

    Args:
        model: made with ``dummy_vertex="published"``, ``fuse_downsampling=False`` and, unless it
            is of first order, ``norm="batch"``; its block is ``"first_order"`` (there ``linear``),
            ``"simple"``, ``"full"`` or ``"skip_code"`` (``full`` with ``residual``). The public
            placement of the normalisation must have been ``2nd``: that of ``all`` has the same
            names and cannot be told apart.
        state: the public ``state_dict``: ``conv.0.conva.0.weight``, ``fc_latent_enc.bias`` ...

    Raises:
        ValueError: the model computes something else, or a tensor is missing, superfluous or of
            another shape; nothing is loaded then.

    Example:
        >>> from polygraph.models import load_published
        >>> model = load_published("checkpoint.pth.tar", config, hierarchy)  # doctest: +SKIP

    See Also:
        `MeshAutoencoder.from_pretrained`, for models of this library.
    """
    _check_model(model.config)
    wanted = model.state_dict()
    sources: dict[str, list[str]] = {}
    for ours, theirs in (("to_latent", "fc_latent_enc"), ("from_latent", "fc_latent_dec")):
        sources |= {f"{ours}.{part}": [f"{theirs}.{part}"] for part in ("weight", "bias")}
    for ours, theirs in _blocks(model):
        # Neural3DMM's layers have their bias within the linear one.
        bias = f"{theirs}.conv.bias" if f"{theirs}.conv.bias" in state else f"{theirs}.bias"
        sources |= _block_sources(model.config, ours, theirs, bias)
    named = {name for names in sources.values() for name in names}
    missing, superfluous = sorted(named - set(state)), sorted(set(state) - named)
    if missing or superfluous:
        raise ValueError(
            f"load_published: the state does not fit block {model.config.block!r} of order "
            f"{model.config.order}: it lacks {missing[:3]} and has besides {superfluous[:3]}"
        )
    found = {
        name: torch.cat([state[n] for n in names]) if len(names) > 1 else state[names[0]]
        for name, names in sources.items()
    }
    for name, value in found.items():
        if value.shape != wanted[name].shape:
            raise ValueError(
                f"load_published: {' and '.join(sources[name])} must have shape "
                f"{list(wanted[name].shape)} together, got {list(value.shape)}"
            )
    model.load_state_dict({**{name: wanted[name] for name in _NORMALIZATION}, **found})


def _check_model(config: MeshAutoencoderConfig) -> None:
    wants = {"dummy_vertex": PUBLISHED, "fuse_downsampling": False}
    if config.block != "first_order":
        wants["norm"] = "batch"
    for name, wanted in wants.items():
        if getattr(config, name) != wanted:
            raise ValueError(
                f"load_published: the model must have {name}={wanted!r}, got "
                f"{getattr(config, name)!r}"
            )
    if config.block != "first_order":
        if not isinstance(config.order, int):
            raise ValueError(
                f"load_published: order must be one for all blocks, got {list(config.order)}"
            )
        if config.order < 2:
            raise ValueError(f"load_published: order must be 2 or more, got {config.order}")
    if config.block.startswith("skip") and config.block != "skip_code":
        raise ValueError(
            "load_published: the public residual begins with the second step: block must be "
            f"'skip_code', got {config.block!r}"
        )


def _blocks(model: MeshAutoencoder) -> Iterator[tuple[str, str]]:
    """The blocks by our name and by theirs."""
    for level in range(len(model.encoder)):
        yield f"encoder.{level}", f"conv.{level}"
    for level in range(len(model.decoder)):
        yield f"decoder.{level}", f"dconv.{level}"
    if model.head is not None:
        yield "head", f"dconv.{len(model.decoder)}"


def _block_sources(
    config: MeshAutoencoderConfig, ours: str, theirs: str, bias: str
) -> dict[str, list[str]]:
    """For each tensor of a block those of the public one that it holds, one below the other."""
    if config.block == "first_order":
        return {
            f"{ours}.operator.weight": [f"{theirs}.conv.weight"],
            f"{ours}.operator.bias": [bias],
        }
    found = {f"{ours}.beta": [bias]}
    assert isinstance(config.order, int)
    steps = range(config.order - 1)
    for n in steps:
        for part in _BATCH_NORM:
            found[f"{ours}.norms.{n}.batch_norm.{part}"] = [f"{theirs}.normalizer.{n}.{part}"]
    if config.block == "simple":
        return {**found, f"{ours}.operator.weight": [f"{theirs}.convs.weight"]}
    a = [f"{theirs}.conva.{n}.weight" for n in steps]
    s = [f"{theirs}.convs.{n}.weight" for n in steps]
    found |= {f"{ours}.nested.{n - 1}.weight": [s[n]] for n in steps[1:]}
    return {**found, f"{ours}.wide.weight": [a[0], s[0], *a[1:]]}
