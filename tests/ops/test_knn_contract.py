"""Nearest neighbours against the contract of all operators."""

from functools import partial

import torch
from support.calls import convert, require_same, run
from support.contract import OperatorContract
from support.faults import at, put, with_value
from support.tables import normal
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
