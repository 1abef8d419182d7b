"""k nearest neighbours: the exact list on every path, and derivatives of the distances."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tables import normal

from polygraph import ops, reference


def clouds():
    """Inputs of which fast selections lose neighbours: name -> ``[N, C]`` of a dtype."""

    def uniform(n, c, seed):
        return normal(n, c, seed=seed)

    mixed = torch.cat([1e-6 * uniform(150, 7, 1), 1e4 + uniform(150, 7, 2)])
    tiny = uniform(20, 5, 3)[torch.arange(300) % 20] + 1e-6 * uniform(300, 5, 4)
    return {
        "normal": uniform(300, 19, 0),
        "far from the origin": 1e4 + uniform(300, 9, 5),
        "clusters of 1e-6": tiny,
        "duplicates": uniform(10, 6, 6)[torch.arange(300) % 10],
        "all equal": torch.ones(300, 4, dtype=torch.float64),
        "mixed scales": mixed,
        "1e19": 1e19 * uniform(300, 8, 7),
        "1e-30": 1e-30 * uniform(300, 8, 8),
        "a line": torch.arange(300, dtype=torch.float64)[:, None] * torch.ones(1, 3),
        "a lattice": torch.cartesian_prod(*[torch.arange(7, dtype=torch.float64)] * 3)[:300],
        "one channel": uniform(300, 1, 9),
        "66 channels": uniform(300, 66, 10),
    }


def same(actual, expected):
    """Same list, same bits of the distances."""
    assert actual[0].dtype == torch.int64
    assert torch.equal(actual[0], expected[0])
    assert actual[1].dtype == expected[1].dtype
    assert torch.equal(actual[1], expected[1])


def check(x, k, **arguments):
    same(ops.knn(x, k, **arguments), reference.knn(x, k, **arguments))


def numpy_distance(y, x):
    """The documented order, one operation at a time, without the reference's vectors."""
    lanes = np.zeros((8, *np.broadcast_shapes(y.shape[:-1], x.shape[:-1])), y.dtype)
    for c in range(y.shape[-1]):
        difference = y[..., c] - x[..., c]
        lanes[c % 8] = lanes[c % 8] + difference * difference
    halves = [lanes[i] + lanes[i + 4] for i in range(4)]
    return (halves[0] + halves[2]) + (halves[1] + halves[3])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_distances_follow_the_documented_order(dtype):
    x, y = (normal(n, 43, seed=n).to(dtype) for n in (60, 50))
    index, dist2 = ops.knn(x, 9, y=y)
    d = numpy_distance(y.numpy()[:, None], x.numpy()[None])
    order = np.argsort(d, axis=1, kind="stable")[:, :9]
    assert (index.numpy() == order).all()
    assert (dist2.numpy() == np.take_along_axis(d, order, 1)).all()


@pytest.mark.parametrize("name", list(clouds()))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("k", [1, 8, 40, 300])
def test_hostile_clouds(name, dtype, k):
    x = clouds()[name].to(dtype)
    if not x.isfinite().all():
        pytest.skip("beyond the range of the dtype")
    check(x, k)


@pytest.mark.parametrize("name", ["normal", "clusters of 1e-6", "duplicates", "1e19"])
def test_options_on_hostile_clouds(name):
    x = clouds()[name].float()
    check(x, 299, exclude_self=True)
    check(x, 5, exclude_self=True)
    check(x, 5, y=x[40:90] + x[:50])
    for arguments in (
        {"exclude_radius": 1},
        {"exclude_radius": 0, "search_radius": 2},
        {"search_radius": 3},
        {"exclude_radius": 2, "search_radius": 4},
    ):
        check(x, 3, grid=(15, 20), **arguments)
    check(x.view(2, 150, -1), 7, grid=(10, 15), exclude_radius=1)


@pytest.mark.parametrize("name", list(clouds()))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("k", [1, 8, 60])
def test_samples_enough_for_all_threads(name, dtype, k):
    """Each belongs to one thread, which scores all pairs of its points at once."""
    x = clouds()[name].to(dtype)
    x = x[:, torch.arange(max(8, x.shape[1])) % x.shape[1]]
    check(x.view(4, 75, -1), k)
    check(x.view(4, 75, -1), k, exclude_self=True)
    if k <= 8:
        check(x.view(4, 75, -1), k, grid=(5, 15), exclude_radius=1)
    check(x[:299], k, ptr=torch.tensor([0, 61, 128, 299]), exclude_self=True)


def test_samples_of_which_one_is_not_finite_in_norm():
    x = normal(6, 40, 12).float()
    x[3] *= 1e25
    check(x, 7)


def test_ragged_samples():
    x, y = normal(50, 6).float(), normal(30, 6, seed=1).float()
    ptr, y_ptr = torch.tensor([0, 20, 20, 31, 50]), torch.tensor([0, 9, 9, 30, 30])
    check(x, 4, ptr=ptr)
    check(x, 11, y=y, ptr=ptr, y_ptr=y_ptr)
    check(x, 3, ptr=ptr, exclude_self=True)
    index, _ = ops.knn(x, 11, y=y, ptr=ptr, y_ptr=y_ptr)
    assert (index[:9] < 20).all()
    assert ((index[9:] >= 20) & (index[9:] < 31)).all()


@pytest.mark.parametrize("N", [5000, 20000])
@pytest.mark.parametrize("C", [2, 3])
def test_large_clouds_of_few_channels(N, C):
    """Where a path for low dimensions may take over; against scipy, and ties by brute force."""
    scipy = pytest.importorskip("scipy.spatial")
    x = normal(N, C, seed=C)
    index, dist2 = ops.knn(x, 6)
    distance, found = scipy.cKDTree(x.numpy()).query(x.numpy(), k=6)
    assert torch.equal(index, torch.from_numpy(found))
    torch.testing.assert_close(dist2.sqrt(), torch.from_numpy(distance))
    lattice = (10 * x).round().float()
    some = torch.arange(0, N, N // 40)
    same(
        [part[some] for part in ops.knn(lattice, 6)],
        reference.knn(lattice, 6, y=lattice[some]),
    )


@given(
    N=st.integers(1, 70),
    M=st.integers(0, 12),
    C=st.integers(1, 20),
    data=st.data(),
    scale=st.sampled_from([1.0, 1e-6, 1e4, 1e19]),
    offset=st.sampled_from([0.0, 1.0, 1e4]),
    step=st.sampled_from([None, 1.0, 0.25]),
)
@settings(max_examples=300)
def test_any_cloud(N, M, C, data, scale, offset, step):
    """Random clouds, with ties when they are rounded to a lattice."""
    k = data.draw(st.integers(1, N))
    seed = data.draw(st.integers(0, 1000))
    x, y = normal(N, C, seed=seed), normal(M, C, seed=seed + 1)
    if step is not None:
        x, y = (x / step).round() * step, (y / step).round() * step
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    check((scale * x + offset).to(dtype), k, y=(scale * y + offset).to(dtype))


@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    C=st.integers(1, 10),
    inner=st.integers(-1, 3),
    outer=st.integers(-1, 4),
    levels=st.integers(1, 4),
    data=st.data(),
)
@settings(max_examples=300)
def test_any_image(height, width, C, inner, outer, levels, data):
    """Windows at every border; colours of few levels, so that most distances tie."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    at = torch.stack([rows, columns], -1).view(-1, 2)
    apart = (at[:, None] - at).abs().amax(-1)
    candidates = ((apart > inner) & ((apart <= outer) if outer >= 0 else True)).sum(1).min()
    x = (levels * normal(height * width, C, seed=levels)).round().float()
    arguments = {
        "grid": (height, width),
        "exclude_radius": None if inner < 0 else inner,
        "search_radius": None if outer < 0 else outer,
    }
    if candidates == 0:
        with pytest.raises(RuntimeError, match=r"sample 0 has 0 candidates .*k is 1"):
            ops.knn(x, 1, **arguments)
    else:
        check(x, data.draw(st.integers(1, int(candidates))), **arguments)


@pytest.mark.parametrize("k", [3, 700])
def test_threads_change_nothing(k):
    x = normal(2, 900, 21).float()
    before = torch.get_num_threads()
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            results.append(ops.knn(x, k))
        finally:
            torch.set_num_threads(before)
    same(*results)


@pytest.mark.parametrize("arguments", [{}, {"y": True}, {"ptr": True}, {"grid": (4, 3)}])
def test_derivatives_of_distances(arguments):
    x = normal(12, 3).requires_grad_()
    y = normal(5, 3, seed=1).requires_grad_() if arguments.pop("y", False) else None
    if arguments.pop("ptr", False):
        arguments = {"ptr": torch.tensor([0, 5, 12])}
    elif arguments:
        arguments = arguments | {"exclude_radius": 0}

    def distances(*tensors):
        return ops.knn(tensors[0], 3, y=tensors[1] if y is not None else None, **arguments)[1]

    leaves = (x,) if y is None else (x, y)
    assert torch.autograd.gradcheck(distances, leaves)
    assert torch.autograd.gradgradcheck(distances, leaves)
    expected = torch.autograd.grad(reference.knn(x, 3, y=y, **arguments)[1].square().sum(), leaves)
    actual = torch.autograd.grad(distances(*leaves).square().sum(), leaves)
    torch.testing.assert_close(actual, expected)


def test_compiles_without_graph_break():
    def f(x):
        index, dist2 = ops.knn(x, 4, exclude_self=True)
        return (x[index] * dist2[..., None].neg().exp()).sum()

    x = normal(40, 5).float().requires_grad_()
    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), f(x))
    (expected,) = torch.autograd.grad(f(x), x)
    (actual,) = torch.autograd.grad(compiled(x), x)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("shape", [(0, 7, 3), (2, 7, 0), (3, 0, 4)])
def test_nothing(shape):
    x = torch.zeros(shape)
    k = 2 if shape[1] else 1
    index, dist2 = ops.knn(x, k)
    assert index.shape == dist2.shape == (*shape[:2], k)
    if shape[2] == 0:
        assert torch.equal(index[0, 3], torch.tensor([0, 1]))
        assert (dist2 == 0).all()


def test_strides_change_nothing():
    x = normal(3, 50, 24).float()
    for strided in (x.transpose(0, 1).contiguous().transpose(0, 1), x.mT.contiguous().mT):
        same(ops.knn(strided, 5), ops.knn(x, 5))
    same(ops.knn(x[..., ::2], 5), ops.knn(x[..., ::2].contiguous(), 5))


X = torch.ones(2, 12, 3)
FLAT = torch.ones(12, 3)


@pytest.mark.parametrize(
    ("x", "k", "arguments", "error", "message"),
    [
        (X, 0, {}, RuntimeError, "k must be at least 1, got 0"),
        (X, 13, {}, RuntimeError, "sample 0 has 12 candidates, k is 13"),
        (X, 12, {"exclude_self": True}, RuntimeError, "sample 0 has 11 candidates, k is 12"),
        (
            FLAT,
            5,
            {"ptr": torch.tensor([0, 8, 12])},
            RuntimeError,
            "sample 1 has 4 candidates, k is 5",
        ),
        (X, 1, {"grid": (3, 5)}, RuntimeError, r"grid 3 x 5 needs N = M = 3 \* 5, got N = 12"),
        (X, 1, {"grid": (0, 12)}, ValueError, "grid must be positive, got 0 x 12"),
        (X, 1, {"exclude_radius": 1}, ValueError, "exclude_radius and search_radius need a grid"),
        (X, 1, {"grid": (3, 4), "exclude_radius": -1}, ValueError, "must not be negative, got -1"),
        (FLAT, 1, {"ptr": torch.tensor([0, 9, 5, 12])}, RuntimeError, "x_ptr must not fall, got 5"),
        (FLAT, 1, {"ptr": torch.tensor([0, 9])}, RuntimeError, "x_ptr must end with N = 12, got 9"),
        (FLAT, 1, {"ptr": torch.tensor([1, 12])}, RuntimeError, "x_ptr must begin with 0, got 1"),
        (FLAT, 1, {"y_ptr": torch.tensor([0, 12])}, ValueError, "y_ptr needs ptr"),
        (X, 1, {"ptr": torch.tensor([0, 12])}, ValueError, r"with ptr, x must have shape \[N, C\]"),
        (X.long(), 1, {}, RuntimeError, "x must be float32, .*got int64"),
        (X, 1, {"y": X[..., :2]}, RuntimeError, r"y must have shape \[B, M, C\] = \[2, \*, 3\]"),
        (X, 1, {"y": X.double()}, RuntimeError, "y must be float32, got float64"),
        (X, 1, {"y": X.to("meta")}, RuntimeError, "y must be on the device of x"),
        (X[0, 0], 1, {}, ValueError, "x and y must both have shape"),
    ],
)
def test_bad_arguments(x, k, arguments, error, message):
    with pytest.raises(error, match=message):
        ops.knn(x, k, **arguments)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["x", "y"])
def test_values_that_are_not_finite(value, where):
    x, y = torch.ones(2, 12, 3), torch.ones(2, 5, 3)
    bad = x if where == "x" else y
    bad[1, 3, 2] = bad[1, 4, 0] = value
    message = rf"{where} must be finite, got 2 NaN or inf, the first at \[1, 3, 2\]"
    with pytest.raises(RuntimeError, match=message):
        ops.knn(x, 2, y=y)
