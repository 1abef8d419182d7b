"""Calls of the polynomial step."""

import torch

from support.tables import normal

ACTIVATIONS = ("none", "elu", "relu", "leaky_relu")


def call(B, V, D, *, scale=True, bias=True, skip=True, packed=False, vertex="", **settings):
    """One call's arguments; what ``vertex`` names has values of its own at every vertex."""
    seed = hash((B, V, D)) % 1000
    a, s = normal(B, V, D, seed=seed), normal(B, V, D, seed=seed + 1)
    inputs = {"a": torch.cat([a, s], -1)} if packed else {"a": a, "s": s}
    return inputs | {
        "scale": normal(*[V] * ("scale" in vertex), D, seed=seed + 2) if scale else None,
        "bias": normal(*[V] * ("bias" in vertex), D, seed=seed + 3) if bias else None,
        "skip": normal(B, V, D, seed=seed + 4) if skip else None,
        **settings,
    }
