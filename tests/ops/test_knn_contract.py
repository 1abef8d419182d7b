"""Nearest neighbours against the contract of all operators; large and hostile clouds."""

import hashlib
from fractions import Fraction
from functools import partial
from itertools import pairwise

import pytest
import torch
from calls import convert, require_same, run
from contract import OperatorContract
from devices import GPU, PLACE, capture
from faults import at, put, with_value
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from isa_worker import results_on
from tables import normal
from tolerances import KERNEL, assert_close
from torch.testing._internal.optests import aot_autograd_check

from polygraph import ops, reference


def dist2(
    x,
    k,
    *,
    y=None,
    ptr=None,
    y_ptr=None,
    exclude_self=False,
    grid=None,
    exclude_radius=None,
    search_radius=None,
):
    """The differentiable half of the result, in the dtype of the points."""
    _, found = ops.knn(
        x,
        k,
        y=y,
        ptr=ptr,
        y_ptr=y_ptr,
        exclude_self=exclude_self,
        grid=grid,
        exclude_radius=exclude_radius,
        search_radius=search_radius,
    )
    return found.to(x.dtype)


def dist2_reference(x, k, **options):
    """The same of the definition."""
    return reference.knn(x, k, **options)[1].to(x.dtype)


def call(*shape, k, seed=0, **options):
    """One call's arguments; ``y=M`` makes that many other queries."""
    queries = options.pop("y", None)
    inputs = {"x": normal(*shape, seed=seed), "k": k} | options
    if queries is not None:
        inputs["y"] = normal(*shape[:-2], queries, shape[-1], seed=seed + 1)
    return inputs


def three_of_each(k):
    """Every point three times."""
    return {"x": normal(2, 5, 6).repeat(1, 3, 1), "k": k}


CASES = {
    "plain": partial(call, 2, 9, 5, k=3),
    "other queries": partial(call, 2, 9, 5, k=4, y=6),
    "without itself": partial(call, 2, 9, 3, k=4, exclude_self=True),
    "ragged": partial(call, 12, 5, k=2, ptr=torch.tensor([0, 4, 4, 9, 12])),
    "ragged, other queries": partial(
        call, 12, 5, k=3, y=7, ptr=torch.tensor([0, 4, 4, 12]), y_ptr=torch.tensor([0, 2, 2, 7])
    ),
    "image": partial(call, 2, 20, 5, k=3, grid=(4, 5), exclude_radius=1, search_radius=2),
    "image, all but itself": partial(call, 2, 12, 5, k=11, grid=(3, 4), exclude_radius=0),
    "image, wherever": partial(
        call, 2, 20, 5, k=3, grid=(4, 5), exclude_radius=1, search_radius=2**63 - 1
    ),
    "duplicates": partial(three_of_each, 7),
    "one point": partial(call, 2, 1, 4, k=1),
    "every candidate": partial(call, 3, 11, 9, k=11),
    "many rows": partial(call, 3, 500, 16, k=9),
    "few channels, many points": partial(call, 1, 900, 3, k=6),
} | {f"{C} channels": partial(call, 2, 30, C, k=5) for C in (1, 2, 4, 8, 33, 66)}

EMPTY = {
    "no samples": partial(call, 0, 5, 3, k=2),
    "no queries": partial(call, 2, 5, 3, k=2, y=0),
    "no points and no queries": partial(call, 2, 0, 3, k=2),
    "no channels": partial(call, 2, 5, 0, k=2),
    "nothing but empty samples": partial(call, 0, 3, k=2, ptr=torch.zeros(4, dtype=torch.int64)),
    "no ragged samples": partial(call, 0, 3, k=2, ptr=torch.zeros(1, dtype=torch.int64)),
}


def raw_arguments():
    """Argument tuples of the compiled operator."""
    x, y = normal(2, 20, 5).float().requires_grad_(), normal(2, 7, 5).float().requires_grad_()
    ptr, y_ptr = torch.tensor([0, 12, 20]), torch.tensor([0, 3, 7])
    one = [t[:1].detach().requires_grad_() for t in (x, y)]
    return [
        (x, y, None, None, 3, False, 0, 0, -1, -1),
        (*one, ptr, y_ptr, 4, False, 0, 0, -1, -1),
        (x, x, None, None, 3, True, 0, 0, -1, -1),
        (x, x, None, None, 2, False, 4, 5, 1, 3),
    ]


def ragged(ptr, **others):
    """The good call's first sample as ragged samples."""
    return lambda i: {"x": i["x"][0], "k": 2, "ptr": torch.as_tensor(ptr)} | others


def image(height, width, **others):
    """The good call (nine points) as an image."""
    return lambda i: i | {"grid": (height, width)} | others


def with_queries(change):
    """The call with other queries, changed."""
    return lambda i: i | {"y": change(i["x"].clone())}


def spoiled(place, value):
    """A change of one number of a tensor."""
    return lambda t: with_value(place, value)(t.flatten()).view(t.shape)


def runtime(name, change, message):
    """A fault that the library finds."""
    return {name: (change, RuntimeError, message)}


def value(name, change, message):
    """A fault that the public function finds."""
    return {name: (change, ValueError, message)}


NINE = torch.tensor([0, 9])
BROKEN = (
    runtime("k zero", put("k", lambda _: 0), "k must be at least 1, got 0")
    | runtime("k negative", put("k", lambda _: -4), "k must be at least 1, got -4")
    | runtime("k beyond all", put("k", lambda _: 10), "sample 0 has 9 candidates, k is 10")
    | runtime(
        "k of all, itself excluded",
        lambda i: i | {"k": 9, "exclude_self": True},
        "sample 0 has 8 candidates, k is 9",
    )
    | runtime("k beyond a sample", ragged([0, 2, 3, 9]), "sample 1 has 1 candidates, k is 2")
    | runtime(
        "k of all of a sample, itself excluded",
        ragged([0, 0, 7, 9], exclude_self=True),
        "sample 2 has 1 candidates, k is 2",
    )
    | runtime(
        "k beyond a corner",
        image(3, 3, search_radius=1, exclude_radius=0, k=4),
        r"sample 0 has 3 candidates at pixel \(0, 0\), k is 4",
    )
    | runtime(
        "k beyond the middle",
        image(3, 3, exclude_radius=1, k=1),
        r"sample 0 has 0 candidates at pixel \(1, 1\), k is 1",
    )
    | runtime(
        "NaN",
        put("x", spoiled(52, float("nan"))),
        r"x must be finite, got 1 NaN or inf, the first at \[1, 1, 2\]",
    )
    | runtime(
        "many inf",
        put("x", lambda x: torch.full_like(x, float("inf"))),
        r"x must be finite, got 90 NaN or inf, the first at \[0, 0, 0\]",
    )
    | runtime(
        "inf in a query",
        with_queries(spoiled(7, float("-inf"))),
        r"y must be finite, got 1 NaN or inf, the first at \[0, 1, 2\]",
    )
    | value("x of rank 1", put("x", lambda x: x[0, 0]), r"must both have shape \[B, N, C\]")
    | value("x of rank 4", put("x", lambda x: x[None]), r"must both have shape \[B, N, C\]")
    | runtime(
        "y of another width",
        with_queries(lambda y: y[..., 1:]),
        r"y must have shape \[B, M, C\] = \[2, \*, 5\], got \[2, 9, 4\]",
    )
    | runtime(
        "y of another batch",
        with_queries(lambda y: y[:1]),
        r"y must have shape \[B, M, C\] = \[2, \*, 5\], got \[1, 9, 5\]",
    )
    | value("y of another rank", with_queries(lambda y: y[0]), "must both have shape")
    | runtime(
        "y of another dtype", with_queries(lambda y: y.double()), "y must be float32, got float64"
    )
    | runtime(
        "y on another device", with_queries(lambda y: y.to("meta")), "y must be on the device of x"
    )
    | runtime(
        "itself excluded among others",
        lambda i: i | {"y": i["x"][:, :4].clone(), "exclude_self": True},
        "exclude_self needs as many queries as points, got M = 4 and N = 9",
    )
    | runtime(
        "itself excluded in other samples",
        lambda i: {
            "x": i["x"][0],
            "k": 1,
            "y": i["x"][0].clone(),
            "ptr": torch.tensor([0, 4, 9]),
            "y_ptr": torch.tensor([0, 5, 9]),
            "exclude_self": True,
        },
        "exclude_self needs y_ptr equal to x_ptr, got 5 and 4 at position 1",
    )
    | value("ptr with a batch", put("ptr", lambda _: NINE), r"with ptr, x must have shape \[N, C\]")
    | runtime("ptr begins late", ragged([1, 9]), "x_ptr must begin with 0, got 1")
    | runtime("ptr falls", ragged([0, 5, 4, 9]), "must not fall, got 4 after 5 at position 2")
    | runtime("ptr ends early", ragged([0, 5, 8]), "x_ptr must end with N = 9, got 8")
    | runtime("ptr ends late", ragged([0, 5, 10]), "x_ptr must end with N = 9, got 10")
    | runtime("ptr huge", ragged([0, 2**62, 9]), "x_ptr must not fall")
    | runtime("ptr empty", ragged(NINE[:0]), r"x_ptr must have shape \[S\+1\], got \[0\]")
    | runtime("ptr of rank 2", ragged([[0, 9]]), r"x_ptr must have shape \[S\+1\]")
    | runtime("ptr int32", ragged(NINE.int()), "x_ptr must be int64, got int32")
    | runtime("ptr on another device", ragged(NINE.to("meta")), "ptr must be on the device of x")
    | value(
        "y without its ptr",
        lambda i: {"x": i["x"][0], "y": i["x"][0], "k": 1, "ptr": NINE},
        "y_ptr is needed",
    )
    | value("y_ptr alone", put("y_ptr", lambda _: NINE), "y_ptr needs ptr")
    | runtime(
        "y_ptr of another length",
        ragged(NINE, y_ptr=torch.tensor([0, 4, 9])),
        r"y_ptr must have shape \[S\+1\] = \[2\], got \[3\]",
    )
    | runtime(
        "y_ptr ends early", ragged(NINE, y_ptr=torch.tensor([0, 8])), "y_ptr must end with M = 9"
    )
    | runtime("grid of another size", image(2, 4), r"grid 2 x 4 needs N = M = 2 \* 4, got N = 9")
    | runtime(
        "grid with other queries",
        lambda i: i | {"y": i["x"][:, :5].clone(), "grid": (3, 3)},
        "got N = 9 and M = 5",
    )
    | runtime("grid that overflows", image(2**32, 2**32), "grid 4294967296 x 4294967296")
    | value("grid of nothing", image(0, 0), "grid must be positive, got 0 x 0")
    | runtime("grid with ptr", ragged(NINE, grid=(3, 3)), "a grid cannot be combined with ptr")
    | value("radius without grid", put("exclude_radius", lambda _: 1), "need a grid")
    | value("window without grid", put("search_radius", lambda _: 1), "need a grid")
    | value(
        "negative exclude_radius", image(3, 3, exclude_radius=-1), "must not be negative, got -1"
    )
    | value("negative search_radius", image(3, 3, search_radius=-2), "must not be negative, got -2")
)

RAW_BROKEN = {
    name: ("knn", change, message)
    for name, change, message in (
        ("x of rank 2", at(0, lambda x: x[0]), r"x must have shape \[B, N, C\]"),
        ("x of integers", at(0, lambda x: x.long()), "x must be float32"),
        ("y of another dtype", at(1, lambda y: y.half()), "y must be float32, got float16"),
        ("x_ptr alone", at(2, lambda _: torch.tensor([0, 20])), "given together, got x_ptr"),
        ("y_ptr alone", at(3, lambda _: torch.tensor([0, 7])), "given together, got y_ptr"),
        (
            "ptr with a batch",
            lambda a: [*a[:2], torch.tensor([0, 20]), torch.tensor([0, 7]), *a[4:]],
            r"with ptr, x must have shape \[1, N, C\]",
        ),
        ("k", at(4, lambda _: 21), "sample 0 has 20 candidates, k is 21"),
        ("itself", at(5, lambda _: True), "exclude_self needs as many queries"),
        ("height alone", at(6, lambda _: 20), "grid 20 x 0 needs N"),
        ("width negative", at(7, lambda _: -5), "grid 0 x -5 needs N"),
        ("radius", at(8, lambda _: 0), "need a grid"),
        ("window", at(9, lambda _: 0), "need a grid"),
        ("radius below -1", at(8, lambda _: -2), "must be at least -1, got -2 and -1"),
    )
}
RAW = {"knn": raw_arguments}


class TestKnn(OperatorContract):
    """The contract."""

    stem = "knn"
    apart = ("knn_pairs",)  # PyG's lists of edges, a layer's
    op = staticmethod(dist2)
    reference = staticmethod(dist2_reference)
    batched = ("x",)
    cases = CASES
    small = ("plain", "other queries", "ragged", "image", "without itself")
    empty = EMPTY
    threaded = "many rows"
    broken = BROKEN
    raw = RAW
    raw_broken = RAW_BROKEN
    vectors = ("8 channels", "many rows")
    gpu_asserts = {  # noqa: RUF012
        "NaN": "knn: x and y must be finite",
        "many inf": "knn: x and y must be finite",
        "inf in a query": "knn: x and y must be finite",
        "ptr falls": "must rise from 0 to N",
        "ptr ends early": "must rise from 0 to N",
        "k beyond a sample": "fewer candidates than k",
    }

    def test_opcheck(self, raw_name):
        """As in the contract; but opcheck adds up the outputs, and fails if integers come first."""
        op = getattr(torch.ops.polygraph, raw_name).default
        without_sums = ("test_schema", "test_autograd_registration", "test_faketensor")
        for arguments in self.raw[raw_name]():
            torch.library.opcheck(op, arguments, test_utils=without_sums)
            aot_autograd_check(
                lambda *a: op(*a)[::-1], arguments, {}, dynamic=True, check_gradients="auto"
            )

    def check_autocast(self, half, device="cpu"):
        """Autocast leaves the points alone: neighbours are chosen in float32."""
        inputs = convert(CASES["plain"](), dtype=torch.float32, device=device)
        expected = run(dist2, inputs)
        with torch.autocast(device, dtype=half):
            require_same(run(dist2, inputs), expected)
        assert expected["out"].dtype == torch.float32


# ---- clouds that fast selections fail on ----


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


# ---- the points among themselves, in pairs of blocks ----


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
    require_rows(x, 9, exclude_self)
    require_rows(x.double(), 13, exclude_self)


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
@settings(max_examples=200, deadline=None)
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


def test_gradient_of_one_neighbour():
    """``index`` has no gradient; a distance reaches its query and its point."""
    x = normal(1, 6, 2).requires_grad_()
    index, found = ops.knn(x, 2, exclude_self=True)
    assert not index.requires_grad
    (grad,) = torch.autograd.grad(found[0, 3, 1], x)
    expected = torch.zeros_like(x)
    difference = (x[0, 3] - x[0, index[0, 3, 1]]).detach()
    expected[0, 3] = 2 * difference
    expected[0, index[0, 3, 1]] = -2 * difference
    torch.testing.assert_close(grad, expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("cloud", ["offset 1e4", "clusters of 1e-6", "plain"])
def test_gradient_does_not_cancel(cloud):
    """In float32 the gradient is that of float64, also where neighbours are nearly equal."""
    x = CLOUDS[cloud]((300, 7), torch.Generator().manual_seed(4), torch.float32)
    weight = normal(300, 9, seed=5)
    grads = []
    for points in (x.double().requires_grad_(), x.clone().requires_grad_()):
        found = reference.knn(points, 9)[1] if points.dtype == torch.float64 else None
        found = ops.knn(points, 9)[1] if found is None else found
        grads.append(torch.autograd.grad(found, points, weight.to(found.dtype))[0].double())
    index = [reference.knn(x.double(), 9)[0], ops.knn(x, 9)[0]]
    same = (index[0] == index[1]).all(1)
    same &= ~torch.isin(torch.arange(300), torch.cat([i[~same] for i in index]))
    assert same.sum() > 150
    torch.testing.assert_close(grads[1][same], grads[0][same], rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_far_from_the_origin(dtype):
    """Map coordinates: 6.4e6 away, neighbours 1e-3 apart (1 in float32, which holds no less)."""
    apart = 1e-3 if dtype == torch.float64 else 1.0
    x = (6.4e6 + apart * normal(2, 200, 3)).to(dtype)
    y = (6.4e6 + apart * normal(2, 40, 3, seed=1)).to(dtype)
    weight = normal(2, 40, 9, seed=2)
    leaves = [t.clone().requires_grad_() for t in (x, y)]
    index, found = ops.knn(leaves[0], 9, y=leaves[1])
    grads = torch.autograd.grad(found, leaves, weight.to(dtype))
    exact = [t.double().requires_grad_() for t in (x, y)]
    points = torch.stack([cloud[i] for cloud, i in zip(exact[0], index, strict=True)])
    distances = (exact[1][:, :, None] - points).square().sum(3)
    expected = torch.autograd.grad(distances, exact, weight.to(dtype).double())
    for grad, wanted in zip(grads, expected, strict=True):
        assert_close(grad, wanted, KERNEL[dtype], "gradient")


@given(
    exponents=st.lists(st.sampled_from([-308, -300, -1, 0, 100, 300, 308]), min_size=3, max_size=3),
    signs=st.lists(st.sampled_from([-1.0, 1.0]), min_size=3, max_size=3),
    fractions=st.lists(st.floats(1.0, 1.7), min_size=3, max_size=3),
)
def test_gradients_near_overflow(exponents, signs, fractions):
    """No factor, difference or sum on the way overflows where the gradient does not."""
    y, x, weight = (
        torch.tensor([[s * f * 10.0**e]], dtype=torch.float64)
        for s, f, e in zip(signs, fractions, exponents, strict=True)
    )
    wanted = 2 * (Fraction(y.item()) - Fraction(x.item())) * Fraction(weight.item())
    assume(abs(wanted) < Fraction(2) ** 1023)
    leaves = [t.clone().requires_grad_() for t in (x, y)]
    grads = torch.autograd.grad(ops.knn(leaves[0], 1, y=leaves[1])[1], leaves, weight)
    for grad, sign in zip(grads, (-1, 1), strict=True):
        torch.testing.assert_close(grad.item(), sign * float(wanted), rtol=1e-14, atol=1e-307)


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


# ---- the same lists on a GPU ----

EVERY_KERNEL = [
    {"sizes": (2, 300, 3), "k": 20},
    {"sizes": (2, 300, 2), "k": 250},
    {"sizes": (2, 1500, 66), "k": 32},
    {"sizes": (2, 700, 24), "k": 20},
    {"sizes": (1, 16500, 3), "k": 16},
    {"sizes": (2, 16500, 2), "k": 100, "exclude_self": True},
    {"sizes": (2, 333, 33), "k": 50, "exclude_self": True},
    {"sizes": (1, 700, 16), "k": 128},
    {"sizes": (1, 3000, 20), "k": 2000},
    {"sizes": (600, 7), "k": 5, "ptr": torch.tensor([0, 200, 200, 213, 600])},
    {"sizes": (2, 20 * 31, 12), "k": 9, "grid": (20, 31), "exclude_radius": 1, "search_radius": 6},
]


def require_same_on_gpu(x, k, **options):
    """The GPU's list is the CPU's, and both distances are the same bits."""
    index, found = ops.knn(x.to(GPU), k, **convert(options, device=GPU))
    expected_index, expected = ops.knn(x, k, **options)
    assert torch.equal(found.cpu(), expected)
    assert torch.equal(index.cpu(), expected_index)


@pytest.mark.gpu
@pytest.mark.parametrize("cloud", CLOUDS)
@pytest.mark.parametrize("case", EVERY_KERNEL, ids=lambda c: f"{c['sizes']} k {c['k']}")
def test_gpu_lists(case, cloud):
    """Every kernel, every dtype, every hostile cloud."""
    if PLACE == "emulated":
        pytest.skip("would compare CUDA's kernels with themselves")
    generator = torch.Generator().manual_seed(3)
    options = {name: value for name, value in case.items() if name != "sizes"}
    *samples, points, channels = case["sizes"]
    rows = [CLOUDS[cloud]((points, channels), generator, torch.float32) for _ in range(2)]
    x = torch.stack(rows[: samples[0]]) if samples else rows[0]
    require_same_on_gpu(x, **options)
    require_same_on_gpu(x.double(), **options)
    for dtype in (torch.float16, torch.bfloat16):
        if x.to(dtype).isfinite().all():
            require_same_on_gpu(x.to(dtype), **options)


@pytest.mark.gpu
def test_gpu_lists_replayed():
    """A CUDA graph replays on other points and other samples."""
    x, ptr = normal(200, 9).float().to(GPU), torch.tensor([0, 50, 200]).to(GPU)
    replayed, replay = capture(lambda: dict(enumerate(ops.knn(x, 7, ptr=ptr))))
    x.copy_(normal(200, 9, seed=1))
    ptr.copy_(torch.tensor([0, 130, 200]))
    replay()
    for number, expected in enumerate(ops.knn(x.cpu(), 7, ptr=ptr.cpu())):
        assert torch.equal(replayed[number].cpu(), expected)
