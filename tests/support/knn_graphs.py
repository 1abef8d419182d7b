"""Clouds, and graphs of nearest neighbours edge by edge."""

import torch

from polygraph.reference.knn import squared_distance


def points(*shape, seed=0, dtype=torch.float32):
    """Normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def lattice(n, channels=3, seed=0):
    """Points on few places: many at the same distance, many at the same place."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 3, (n, channels), generator=generator).float()


def nearest(x, y, k, batch_x, batch_y, allowed=lambda query, point: True):
    """Pairs (query, point), one query after the other: the definition."""
    distance = squared_distance(y[:, None], x).tolist()
    batch_x, batch_y = batch_x.tolist(), batch_y.tolist()
    pairs = []
    for q, row in enumerate(distance):
        near = [(d, p) for p, d in enumerate(row) if batch_x[p] == batch_y[q] and allowed(q, p)]
        pairs += [(q, p) for _, p in sorted(near)[:k]]
    return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T


def graph(x, k, batch=None, loop=False, flow="source_to_target"):
    """`nearest` as knn_graph returns it."""
    batch = torch.zeros(len(x), dtype=torch.int64) if batch is None else batch
    pairs = nearest(x, x, k, batch, batch, lambda q, p: loop or q != p)
    return pairs.flip(0) if flow == "source_to_target" else pairs


# Sample numbers rise, may skip, and may skip far; sizes down to one point.
GAPS = torch.tensor([0] * 9 + [2] * 7 + [3] + [900_000_000_000] * 12)


BATCHES = {
    "one sample": None,
    "named one sample": torch.zeros(29, dtype=torch.int64),
    "gaps": GAPS,
    "all alone": torch.arange(29),
    "pairs": torch.arange(29) // 2,
}
