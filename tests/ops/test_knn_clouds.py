"""Nearest neighbours in large and hostile clouds: the same list in every way, and the same bits."""

import hashlib
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.clouds import CLOUDS, plain, require_exact
from support.isa_worker import results_on
from support.tables import normal

from polygraph import ops, reference

# Several chunks of points, rows of several kinds of selection, k of thousands; then the tree, just
# below and above where it begins, with more ties than a query has room for, and k too large for it.
LARGE = [
    (2500, 40, 66, 20),
    (2500, 40, 8, 300),
    (2500, 12, 30, 2500),
    (700, 600, 3, 4),
    (1500, 600, 3, 16),
    (3300, 520, 2, 130),
    (1500, 600, 1, 1100),
]


@pytest.mark.parametrize("cloud", CLOUDS)
@pytest.mark.parametrize("sizes", LARGE, ids=str)
def test_large_clouds(cloud, sizes):
    """Queries that are points, and others."""
    points, queries, channels, k = sizes
    generator = torch.Generator().manual_seed(points + channels)
    x = CLOUDS[cloud]((points, channels), generator, torch.float32)
    y = torch.cat([x[: queries // 2], CLOUDS[cloud]((queries // 2, channels), generator, x.dtype)])
    require_exact(x=x, y=y, k=k)


@pytest.mark.parametrize("cloud", CLOUDS)
def test_queries_far_from_the_points(cloud):
    """No centre suits both; in the tree, the first leaves say little about the distance."""
    generator = torch.Generator().manual_seed(2)
    for channels in (3, 20):
        x = CLOUDS[cloud]((1200, channels), generator, torch.float32)
        y = plain((520, channels), generator, torch.float32) - 30
        require_exact(x=x, y=y, k=10)


@pytest.mark.parametrize("cloud", ["plain", "duplicates", "clusters of 1e-6", "mixed scales"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_tree_of_ragged_samples(cloud, dtype):
    """Some samples are large enough for a tree and some are not; queries skip themselves."""
    for channels in (1, 2, 3):
        generator = torch.Generator().manual_seed(channels)
        x = CLOUDS[cloud]((1850, channels), generator, dtype)
        ptr = torch.tensor([0, 900, 900, 950, 1850])
        require_exact(x=x, k=12, exclude_self=True, ptr=ptr)


def test_tree_shared_by_threads(set_threads):
    """A cloud that two threads build one tree of, against a selection of its queries alone."""
    set_threads(2)
    x = normal(40000, 3).float()
    some = torch.arange(0, 40000, 800)
    index, found = ops.knn(x, 9)
    expected_index, expected = reference.knn(x, 9, y=x[some])
    assert torch.equal(index[some], expected_index)
    assert torch.equal(found[some], expected)


def test_windows_over_several_chunks():
    """A large image: rows of scores list only some of the panels, chunk after chunk."""
    x = normal(1, 41 * 31, 5).float()
    for exclude, search in ((1, 9), (None, 3), (0, 40), (2, None)):
        require_exact(x=x, k=8, grid=(41, 31), exclude_radius=exclude, search_radius=search)


def sorted_along_a_line(shape, generator, dtype):
    """Near points stand side by side: the first limits are the last."""
    x = plain(shape, generator, dtype)
    return x[x[:, 0].argsort()]


def half_far(shape, generator, dtype):
    """The second half overflows: no block of the first half tells."""
    far = torch.arange(shape[0])[:, None] >= shape[0] // 2
    return plain(shape, generator, dtype) * torch.where(far, 1e30, 1.0).to(dtype)


AMONG_THEMSELVES = CLOUDS | {"sorted": sorted_along_a_line, "half of 1e30": half_far}


def require_rows(x, k, exclude_self=False, ptr=None, step=37):
    """The table of the points among themselves, on every step-th row, against the definition.

    The rows are queries of their own there, so a point that excludes itself must be taken out.
    """
    index, found = ops.knn(x, k, exclude_self=exclude_self, ptr=ptr)
    ends = ptr.tolist() if ptr is not None else [0, len(x)]
    for first, last in pairwise(ends):
        rows = torch.arange(first, last, step)
        if len(rows) == 0:
            continue
        wanted, distance = reference.knn(x[first:last], k + exclude_self, y=x[rows])
        wanted = wanted + first
        if exclude_self:
            itself = wanted == rows[:, None]
            itself[~itself.any(1), -1] = True  # among its duplicates, not among the k + 1
            wanted = wanted[~itself].view(-1, k)
            distance = distance[~itself].view(-1, k)
        assert torch.equal(index[rows], wanted)
        assert torch.equal(found[rows], distance)


@pytest.mark.parametrize(
    ("exclude_self", "threads"), [(False, 1), (True, 2)], ids=["with itself", "without"]
)
@pytest.mark.parametrize("cloud", AMONG_THEMSELVES)
def test_points_among_themselves(cloud, exclude_self, threads, set_threads):
    """Large enough for pairs of blocks, the last of them shorter, on every hostile cloud."""
    set_threads(threads)
    generator = torch.Generator().manual_seed(7)
    x = AMONG_THEMSELVES[cloud]((1811, 100), generator, torch.float32)
    require_rows(x, 9, exclude_self, step=97)
    require_rows(x.double(), 13, exclude_self, step=97)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("cloud", ["plain", "duplicates", "clusters of 1e-6", "lattice"])
def test_ragged_points_among_themselves(cloud, dtype, set_threads):
    """Samples that are large enough beside others that are not."""
    set_threads(2)
    x = AMONG_THEMSELVES[cloud]((3700, 100), torch.Generator().manual_seed(8), dtype)
    ptr = torch.tensor([0, 1500, 1500, 1540, 1900, 3700])
    require_rows(x, 10, True, ptr)
    require_rows(x, 10, False, ptr)


@pytest.mark.parametrize("channels", [66, 200])
@pytest.mark.parametrize("k", [1, 8, 64])
def test_where_pairs_of_blocks_begin(channels, k, set_threads):
    """Sizes around the crossover, and queries that are the same numbers elsewhere in memory."""
    set_threads(2)
    crossover = max(960, (80000 + 7500 * k) // (channels + 8))
    for points in (crossover - 1, crossover, crossover + 1, crossover + 29):
        x = normal(1, points, channels, seed=points).float()
        x[:, ::3] = (2 * x[:, ::3]).round()
        index, found = ops.knn(x, k)
        expected_index, expected = ops.knn(x, k, y=x.clone())
        assert torch.equal(found, expected)
        assert torch.equal(index, expected_index)


def test_more_points_than_lists_fit(set_threads):
    """Beyond the memory of the lists rows of scores take over; the list is the same."""
    set_threads(2)
    x = normal(24000, 36).float()
    for k in (60, 120):
        require_rows(x, k, step=2399)


@given(
    cloud=st.sampled_from(sorted(CLOUDS)),
    points=st.integers(1, 120),
    queries=st.integers(1, 20),
    channels=st.sampled_from([1, 2, 3, 4, 7, 8, 9, 17, 40]),
    seed=st.integers(0, 10**6),
    data=st.data(),
)
@settings(max_examples=200)
def test_agrees_with_float64(cloud, points, queries, channels, seed, data):
    """The r-th distance is that of a float64 brute force, up to rounding.

    A square has 3 relative roundings of 2^-24, a lane C/8 + 1 sums, their end 3: (C/8 + 7) of
    them, and an order statistic moves no further than its numbers. Below 1e-38 squares lose digits.
    """
    generator = torch.Generator().manual_seed(seed)
    x = CLOUDS[cloud]((points, channels), generator, torch.float32)
    y = CLOUDS[cloud]((queries, channels), generator, torch.float32)
    k = data.draw(st.integers(1, points))
    require_exact(x=x, y=y, k=k)
    _, found = ops.knn(x, k, y=y)
    _, exact = reference.knn(x.double(), k, y=y.double())
    rounding = (channels / 8 + 8) * 2.0**-24
    fits = exact * (1 + rounding) < torch.finfo(torch.float32).max
    error = (found.double() - exact)[fits].abs()
    assert (error <= rounding * exact[fits] + channels * 1.2e-38).all()
    assert (found[~fits] > 3.4e38).all()


def test_half_types_select_in_float32():
    """The neighbours of a half tensor are those of the same numbers in float32."""
    for dtype in (torch.float16, torch.bfloat16):
        x = normal(2, 200, 20).to(dtype)
        index, found = ops.knn(x, 9)
        expected_index, expected = ops.knn(x.float(), 9)
        assert found.dtype == torch.float32
        assert torch.equal(index, expected_index)
        assert torch.equal(found, expected)


def digests():
    """The instruction set in use, and a fingerprint of every path's results by one and two threads.

    Trees, whole rows in few and many channels, rows of scores, long lists, pairs of blocks.
    """
    found, before = [], torch.get_num_threads()
    sizes = ((3, 1600, 9), (2, 300, 40), (2, 400, 200), (21, 400, 5), (66, 1100, 20))
    sizes += ((13, 260, 260), (90, 1700, 10))
    for threads in (1, 2):
        torch.set_num_threads(threads)
        digest = hashlib.sha256()
        for channels, points, k in sizes:
            for dtype in (torch.float32, torch.float64):
                x = normal(points, channels).to(dtype)
                x[::2] = (2 * x[::2]).round()
                for part in ops.knn(x, k):
                    digest.update(part.numpy().tobytes())
        for channels in (8, 21, 66):
            for part in ops.knn(normal(8, 101, channels).float(), 90):
                digest.update(part.numpy().tobytes())
        found.append((torch.ops.polygraph.instruction_set(), digest.hexdigest()))
    torch.set_num_threads(before)
    return found


def test_same_bits_on_every_instruction_set_and_number_of_threads(tmp_path):
    """Not within rounding: the same bits."""
    results = digests()
    for isa in ("plain", "avx2"):
        results += results_on(isa, __file__, "digests", tmp_path / isa)
    assert {isa for isa, _ in results} >= {0, torch.ops.polygraph.instruction_set()}
    assert len({digest for _, digest in results}) == 1
