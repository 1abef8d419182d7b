"""`check_convex`: convex functions pass, others give a counterexample that is one."""

import math

import pytest
import torch

from polygraph.analysis import check_convex


def quadratic(x):
    return x.flatten(1).square().sum(1)


CONVEX = {
    "norm": lambda x: x.norm(dim=1),
    "largest": lambda x: x.amax(1),
    "quadratic": quadratic,
    "affine": lambda x: 3 * x - 1,
    "constant": lambda x: torch.ones(len(x), 2, dtype=x.dtype),
    "exponential": lambda x: torch.exp(x / 10),
    "two": lambda x: torch.stack([x.abs().sum(1), -x.sum(1)], 1),
}
NOT = {
    "sine": lambda x: torch.sin(x),
    "second output": lambda x: torch.stack([x.abs().sum(1), x.amin(1)], 1),
    "saddle": lambda x: x[:, 0] * x[:, 1],
    "dent": lambda x: (x.norm(dim=1) - 1).abs(),
}


@pytest.mark.parametrize("name", CONVEX)
def test_convex_functions_pass(name):
    report = check_convex(CONVEX[name], (3,), samples=60, chords=300)
    assert bool(report), report
    assert (report.chords, report.planes) == (600, 3600)
    assert report.counterexample is None
    assert len(repr(report).splitlines()) == 1


@pytest.mark.parametrize("planes", [True, False], ids=["planes", "chords"])
@pytest.mark.parametrize("name", NOT)
def test_a_counterexample_is_one(name, planes):
    """The chord that is handed over lies below the graph, by the gap that is named."""
    fn = NOT[name]
    report = check_convex(fn, (2,), samples=60, chords=300, planes=planes)
    found = report.counterexample
    assert not report
    assert 0 < found.t < 1
    x, y, t = found.x, found.y, found.t
    middle, first, second = (
        fn(p[None]).flatten()[found.output] for p in ((1 - t) * x + t * y, x, y)
    )
    gap = (middle - (1 - t) * first - t * second).item()
    assert gap > 0
    assert report.largest > 1e-3
    if name == "second output":
        assert found.output == 1
    assert len(repr(report).splitlines()) == 1


def test_planes_see_what_chords_miss():
    """A small dent between samples that no chord of a few crosses."""

    def fn(x):
        return (x.square() - 0.3 * torch.exp(-((x - 1) ** 2) * 200)).sum(1)

    points = torch.tensor([[-2.0], [0.96], [2.0]], dtype=torch.float64)
    assert bool(check_convex(fn, points, chords=1, planes=False))
    report = check_convex(fn, points, chords=1)
    assert not report
    assert report.counterexample.x.item() == 0.96
    assert report.planes == 9


def test_a_gradient_that_is_not_that_of_the_values():
    report = check_convex(lambda x: quadratic(x.detach()) + 5 * (x - x.detach()).sum(1), (2,))
    assert not report
    assert report.counterexample.t == 0


def test_points_of_any_shape_in_several_chunks(monkeypatch):
    monkeypatch.setattr("polygraph.analysis.convexity._MOST", 40)
    points = torch.randn(30, 2, 3, dtype=torch.float64)
    whole = check_convex(quadratic, points, chords=50)
    assert bool(whole)
    assert whole.planes == 900
    assert not check_convex(lambda x: -quadratic(x), points, chords=50)


def test_the_same_seed_finds_the_same():
    reports = [check_convex(torch.sin, (2,), seed=3) for _ in range(2)]
    assert reports[0].largest == reports[1].largest
    assert torch.equal(reports[0].counterexample.x, reports[1].counterexample.x)


@pytest.mark.parametrize(
    ("fn", "points", "options", "message"),
    [
        (
            quadratic,
            torch.zeros(3, 2),
            {},
            r"points must be finite float64 \[N, \*shape\], got tor",
        ),
        (quadratic, torch.full((3, 2), math.nan).double(), {}, "points must be finite"),
        (quadratic, torch.zeros(1, 2).double(), {}, "needs at least 2 samples, got 1"),
        (
            lambda x: x.sum(),
            (2,),
            {},
            r"fn must return float64 \[256, ...\], got torch.float64 \[\]",
        ),
        (lambda x: x.float(), (2,), {}, "fn must return float64"),
        (lambda x: x.log(), (2,), {}, "values that are not finite"),
        (quadratic, (2,), {"samples": 0}, "samples must be a positive integer, got 0"),
        (quadratic, (2,), {"chords": 0}, "chords must be a positive integer, got 0"),
        (quadratic, (2,), {"tolerance": math.nan}, "tolerance must be finite and 0 or more"),
    ],
)
def test_bad_input_is_named(fn, points, options, message):
    with pytest.raises(ValueError, match=message):
        check_convex(fn, points, **options)
