"""Clouds that fast selections of neighbours fail on, and what agrees with the definition."""

import torch

from polygraph import ops, reference


def plain(shape, generator, dtype):
    """Normal numbers."""
    return torch.randn(shape, generator=generator, dtype=dtype)


def clusters(shape, generator, dtype):
    """A few clusters of width 1e-6."""
    middle = plain((shape[0] // 30 + 1, shape[1]), generator, dtype)
    pick = torch.randint(len(middle), shape[:1], generator=generator)
    return middle[pick] + 1e-6 * plain(shape, generator, dtype)


def repeated(shape, generator, dtype):
    """Every point about four times."""
    pick = torch.randint(shape[0] // 4 + 1, shape[:1], generator=generator)
    return plain((shape[0] // 4 + 1, shape[1]), generator, dtype)[pick]


def mixed(shape, generator, dtype):
    """Scales from 1e-6 to 1e6 side by side."""
    scale = torch.randint(-6, 7, (shape[0], 1), generator=generator)
    return plain(shape, generator, dtype) * 10.0 ** scale.to(dtype)


def outliers(shape, generator, dtype):
    """Some points so far away that their squares overflow."""
    far = torch.rand((shape[0], 1), generator=generator) < 0.1
    return plain(shape, generator, dtype) * torch.where(far, 1e30, 1.0).to(dtype)


CLOUDS = {
    "plain": plain,
    "offset 1e4": lambda *a: plain(*a) + 1e4,
    "clusters of 1e-6": clusters,
    "duplicates": repeated,
    "mixed scales": mixed,
    "1e19": lambda *a: plain(*a) * 1e19,
    "outliers of 1e30": outliers,
    "1e38": lambda *a: plain(*a).clamp(-3, 3) * 1e38,
    "1e-24": lambda *a: plain(*a) * 1e-24,
    "lattice": lambda *a: (2 * plain(*a)).round(),
    "one place": lambda *a: torch.full(a[0], 0.3, dtype=a[2]),
    "a line": lambda *a: plain((a[0][0], 1), *a[1:]).expand(a[0]) * 1.5,
}


def require_exact(**inputs):
    """Index and distances agree with the definition in every bit."""
    index, found = ops.knn(**inputs)
    expected_index, expected = reference.knn(**inputs)
    assert torch.equal(found, expected)
    assert torch.equal(index, expected_index)
