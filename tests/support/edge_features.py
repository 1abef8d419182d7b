"""A random graph with features of nodes and edges."""

import torch

C, D, F, N, E = 5, 6, 4, 30, 150


def edges(seed=0):
    """Random edges, the last two nodes isolated, and their features."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(N - 2, (2, E), generator=generator), torch.randn(
        E, F, generator=generator
    ).double()
