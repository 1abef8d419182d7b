"""Random graphs, and calls of operators on them."""

import torch

from support.tables import normal


def random_edges(M, N, E, seed=0, holes=False):
    """``ptr`` and ``source`` of random edges; the last target has none."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(max(1, M - 1), (E,), generator=generator).sort().values
    source = torch.randint(-1 if holes else 0, max(N, 1), (E,), generator=generator)
    return {"source": source, "ptr": torch.searchsorted(target, torch.arange(M + 1))}


def call(M, N, E, D, seed=0, edge=False, weight=False, holes=False, **options):
    """One call's arguments."""
    inputs = {"u": normal(M, D, seed=seed), "v": normal(N, D, seed=seed + 1)}
    inputs |= random_edges(M, N, E, seed, holes)
    if edge:
        inputs["edge"] = torch.randperm(E, generator=torch.Generator().manual_seed(seed))
    if weight:
        inputs["weight"] = normal(E, seed=seed + 2)
    return inputs | options
