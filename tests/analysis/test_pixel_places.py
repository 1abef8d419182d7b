"""Where neighbours lie: planted offsets, chance against brute force and against draws."""

import itertools
import math

import pytest
import torch

from polygraph.analysis import (
    chance_places,
    offset_counts,
    places_of_counts,
    places_of_table,
    weighted_offset_counts,
)
from polygraph.nn import PixelGraph, pixel_knn


def test_planted_offsets():
    """Pixels four columns apart look alike: half of them look right, half of them left."""
    torch.manual_seed(0)
    half = torch.randn(2, 5, 6, 4)
    near, _ = pixel_knn(torch.cat([half, half], 3), 1)
    found = places_of_table(near, 6, 8)
    assert (found.distance, found.near) == (4.0, 0.0)
    assert found.entropy == pytest.approx(1.0)
    counts = offset_counts(near, 6, 8)
    assert counts.shape == (11, 15)
    assert counts.nonzero().tolist() == [[5, 3], [5, 11]]


def test_neighbors_of_the_window_of_5_x_5():
    """Two rows up on the diagonal is within it, three is not; empty slots do not count."""
    table, _ = PixelGraph(9, "dilated").find(torch.zeros(1, 1, 9, 9))
    found = places_of_table(table[:, :, :1], 9, 9)
    assert (found.near, found.entropy) == (1.0, 0.0)
    assert found.distance == pytest.approx(math.sqrt(8))
    assert places_of_table(table[:, :, 8:], 9, 9).near == 0.0  # four pixels away
    nothing = places_of_table(torch.full((1, 4, 2), -1), 2, 2)
    assert math.isnan(nothing.distance)


@pytest.mark.parametrize("size", [(1, 3), (5, 4), (7, 7)])
@pytest.mark.parametrize("exclude", [None, 0, 1])
@pytest.mark.parametrize("search", [None, 2, 3])
def test_chance_by_brute_force(size, exclude, search):
    """Every pair of pixels, each with one over the number of candidates of its pixel."""
    height, width = size
    counts = torch.zeros(2 * height - 1, 2 * width - 1, dtype=torch.float64)
    pixels = list(itertools.product(range(height), range(width)))
    for r, c in pixels:
        away = [(max(abs(a - r), abs(b - c)), a - r, b - c) for a, b in pixels]
        low, high = -1 if exclude is None else exclude, 99 if search is None else search
        offsets = [(down, right) for far, down, right in away if low < far <= high]
        if not offsets:
            with pytest.raises(ValueError, match="some pixel has no candidate"):
                chance_places(height, width, exclude, search)
            return
        for down, right in offsets:
            counts[down + height - 1, right + width - 1] += 1 / len(offsets)
    wanted, found = places_of_counts(counts), chance_places(height, width, exclude, search)
    assert found.distance == pytest.approx(wanted.distance)
    assert found.near == pytest.approx(wanted.near)
    assert found.entropy == pytest.approx(wanted.entropy)


def test_random_neighbors_lie_where_chance_says():
    torch.manual_seed(0)
    table, _ = PixelGraph(16, "random").find(torch.zeros(64, 1, 8, 8))
    found, chance = places_of_table(table, 8, 8), chance_places(8, 8, 1)
    # 65,536 draws: a deviation of 2 pixels, a share of 0.2, 225 offsets.
    assert found.distance == pytest.approx(chance.distance, abs=0.04)
    assert found.near == pytest.approx(chance.near, abs=0.01)
    assert found.entropy == pytest.approx(chance.entropy, abs=0.02)


def test_weights_of_attention():
    """Of one position alone they are a table; alike everywhere, chance; blocks are shared."""
    near, _ = pixel_knn(torch.randn(3, 2, 4, 6), 1)
    alone = torch.nn.functional.one_hot(near[:, :, 0], 24).double()
    assert torch.equal(weighted_offset_counts(alone, 4, 6), offset_counts(near, 4, 6))
    for positions in (24, 6):
        found = places_of_counts(
            weighted_offset_counts(torch.full((2, 24, positions), 1 / positions), 4, 6)
        )
        chance = chance_places(4, 6)
        assert found.distance == pytest.approx(chance.distance)
        assert found.entropy == pytest.approx(chance.entropy)
    block = torch.zeros(1, 16, 4)
    block[0, 0, 3] = 1  # of pixel (0, 0) of 4 x 4, to rows and columns 2 and 3
    counts = weighted_offset_counts(block, 4, 4)
    assert counts[5:7, 5:7].tolist() == [[0.25, 0.25], [0.25, 0.25]]
    assert float(counts.sum()) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: offset_counts(torch.zeros(1, 3, 2).long(), 2, 2), r"shape \[B, 4, k\]"),
        (lambda: offset_counts(torch.zeros(1, 4, 2), 2, 2), "table must be int64"),
        (lambda: offset_counts(torch.full((1, 4, 1), 4), 2, 2), r"lie in \[-1, 4\)"),
        (lambda: weighted_offset_counts(torch.zeros(1, 4, 2), 2, 2), r"\[B, 4, 4\] or \[B, 4, 1\]"),
        (lambda: chance_places(0, 2), "height must be"),
    ],
)
def test_wrong_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
