"""Patches, features and the ball: against scikit-learn and brute force."""

import math

import numpy as np
import pytest
import torch
from sklearn.kernel_approximation import Nystroem, RBFSampler
from sklearn.metrics.pairwise import rbf_kernel

from polygraph.models import ConvexifiedLayerConfig
from polygraph.models.convexified import (
    FourierFeatures,
    GraphPatches,
    ImagePatches,
    NystroemFeatures,
    make_features,
    nuclear_norm,
    project_nuclear,
)

F64 = 1e-10  # rounding of float64 through a few hundred operations


def draw(seed):
    return torch.Generator().manual_seed(seed)


def patches(count=40, size=6, seed=0):
    return torch.randn(count, size, generator=draw(seed), dtype=torch.float64) * 0.5


def test_fourier_features_are_those_of_scikit_learn():
    x = patches()
    theirs = RBFSampler(gamma=0.3, n_components=50, random_state=0).fit(x.numpy())
    ours = FourierFeatures(6, 50, 0.3).double()
    ours.weight.copy_(torch.from_numpy(theirs.random_weights_))
    ours.offset.copy_(torch.from_numpy(theirs.random_offset_))
    np.testing.assert_allclose(ours(x), theirs.transform(x.numpy()), atol=F64)


def test_fourier_features_are_drawn_as_scikit_learn_draws():
    """Spread and range of weights and offsets, and the kernel that comes out."""
    ours = FourierFeatures(6, 20_000, 0.3).double()
    ours.fit(torch.empty(0, 6), draw(0))
    assert abs(float(ours.weight.std()) - math.sqrt(0.6)) < 0.01  # 120,000 draws: 4 sigma
    assert 0 <= float(ours.offset.min()) < 0.01
    assert 2 * math.pi - 0.01 < float(ours.offset.max()) < 2 * math.pi
    x = patches()
    found = ours(x) @ ours(x).T
    np.testing.assert_allclose(found, rbf_kernel(x.numpy(), gamma=0.3), atol=0.04)  # 5 sigma


@pytest.mark.parametrize(
    ("kernel", "theirs"),
    [
        ("rbf", {"kernel": "rbf", "gamma": 0.3}),
        ("quadratic", {"kernel": "poly", "degree": 2, "gamma": 1.0, "coef0": 0.0}),
    ],
)
def test_nystroem_features_are_those_of_scikit_learn(kernel, theirs):
    x = patches()
    peer = Nystroem(n_components=12, random_state=0, **theirs).fit(x.numpy())
    ours = NystroemFeatures(6, 12, kernel, 0.3).double()
    ours.set_landmarks(torch.from_numpy(peer.components_))
    np.testing.assert_allclose(ours(x), peer.transform(x.numpy()), atol=1e-8)


@pytest.mark.parametrize("kernel", ["rbf", "quadratic", "inverse"])
def test_nystroem_is_exact_on_its_patches(kernel):
    """Products of the features are the kernel wherever one of the two patches was chosen."""
    x = patches(15)
    ours = NystroemFeatures(6, 15, kernel, 0.3).double()
    ours.fit(x, draw(0))
    wanted = {
        "rbf": torch.exp(-0.3 * torch.cdist(x, x) ** 2),
        "quadratic": (x @ x.T) ** 2,
        "inverse": 1 / (2 - torch.cosine_similarity(x[:, None], x[None], dim=-1)),
    }[kernel]
    torch.testing.assert_close(ours(x) @ ours(x).T, wanted, atol=1e-7, rtol=0)
    assert sorted(ours.landmarks.tolist()) == sorted(x.tolist())


@pytest.mark.parametrize(("kernel", "count"), [("linear", 6), ("quadratic", 21)])
def test_exact_features_have_the_kernel(kernel, count):
    x = patches()
    features = make_features(ConvexifiedLayerConfig(kernel=kernel), 6)
    found = features(x)
    assert found.shape[1] == features.num_features == count
    power = 2 if kernel == "quadratic" else 1
    torch.testing.assert_close(found @ found.T, (x @ x.T) ** power, atol=F64, rtol=0)


def test_image_patches_and_windows():
    """Against slices, with padding and windows that the border cuts."""
    config = ConvexifiedLayerConfig(patch_size=3, padding=1, pool_size=3, pool_stride=2)
    images = torch.randn(2, 2, 8, 6, generator=draw(0))
    places = ImagePatches(8, 6, config)
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1))
    found = places.extract(images, 2)
    for y, x in ((0, 0), (3, 5), (7, 2)):
        wanted = padded[:, :, y : y + 3, x : x + 3].flatten(1)
        assert torch.equal(found[:, y * 6 + x], wanted)
    assert torch.equal(places.extract(images, 1), found[..., :9])
    pooled = places.pool(found).view(2, 4, 3, 18)
    grid = found.view(2, 8, 6, 18)
    torch.testing.assert_close(pooled[:, 3, 2], grid[:, 6:8, 4:6].mean((1, 2)))
    torch.testing.assert_close(pooled[:, 1, 1], grid[:, 2:5, 2:5].mean((1, 2)))
    assert torch.equal(places.arrange(pooled.flatten(1, 2))[0, :, 3, 2], pooled[0, 3, 2])


def test_crops():
    """All places of a 3 x 2 window in a 4 x 3 grid, and the middle one."""
    config = ConvexifiedLayerConfig(patch_size=1, pool_size=2, crop=0.75)
    places = ImagePatches(8, 6, config)
    assert places.cropped == (3, 2)
    crops = places.crops()
    assert crops.shape == (4, 6)
    assert crops[1].tolist() == [1, 2, 4, 5, 7, 8]
    assert places.center().tolist() == crops[0].tolist()


def test_graph_patches():
    """Holes read zeros and do not count in means; channels come one after the other."""
    table = torch.tensor([[0, 1, -1], [2, -1, 0], [1, 1, 2]])
    graph = GraphPatches(table, pool=torch.tensor([[0, 2], [1, -1]]))
    x = torch.randn(4, 3, 2, generator=draw(0))
    found = graph.extract(x, 2)
    zero = torch.zeros(4)
    wanted = torch.stack([x[:, 2, 0], zero, x[:, 0, 0], x[:, 2, 1], zero, x[:, 0, 1]], 1)
    assert torch.equal(found[:, 1], wanted)
    pooled = graph.pool(found)
    torch.testing.assert_close(pooled[:, 0], (found[:, 0] + found[:, 2]) / 2)
    assert torch.equal(pooled[:, 1], found[:, 1])


def brute_projection(matrix, radius):
    """Singular values less the threshold that a bisection finds."""
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    low, high = 0.0, float(values[0])
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if (values - middle).relu().sum() > radius else (low, middle)
    return (left * (values - high).relu()) @ right


@pytest.mark.parametrize("shape", [(7, 12), (12, 7), (1, 5), (6, 6)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_projection_is_the_nearest_matrix(shape, dtype):
    matrix = torch.randn(*shape, generator=draw(1), dtype=torch.float64).to(dtype)
    tolerance = 1e-5 if dtype == torch.float32 else F64
    for radius in (0.1, 1.0, 4.0):
        found = project_nuclear(matrix, radius).double()
        wanted = matrix.double()
        if nuclear_norm(matrix) > radius:
            wanted = brute_projection(matrix, radius)
        torch.testing.assert_close(found, wanted, atol=tolerance, rtol=0)
        assert nuclear_norm(found) <= radius + tolerance
    inside = matrix / nuclear_norm(matrix)
    assert project_nuclear(inside, 1.1) is inside


def test_no_point_of_the_ball_is_nearer():
    """The optimality of a projection: no direction into the ball leads nearer."""
    matrix = torch.randn(5, 8, generator=draw(2), dtype=torch.float64)
    near = project_nuclear(matrix, 2.0)
    for seed in range(50):
        other = project_nuclear(torch.randn(5, 8, generator=draw(seed), dtype=torch.float64), 2.0)
        assert float(((matrix - near) * (other - near)).sum()) <= F64


@pytest.mark.parametrize("radius", [0.0, -1.0, math.inf, math.nan])
def test_radius_is_above_zero(radius):
    with pytest.raises(ValueError, match=r"radius must be finite and above 0, got"):
        project_nuclear(torch.eye(2), radius)
    with pytest.raises(ValueError, match=r"radius must be finite and above 0, got"):
        ConvexifiedLayerConfig(radius=radius)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: project_nuclear(torch.eye(2) * math.nan, 1.0), "matrix must be finite"),
        (lambda: project_nuclear(torch.ones(2), 1.0), "matrix must have shape"),
        (lambda: ConvexifiedLayerConfig(kernel="rbff"), "did you mean 'rbf'"),
        (lambda: ConvexifiedLayerConfig(method="exact"), "method must be one of fourier"),
        (lambda: ConvexifiedLayerConfig(solver="adam"), "solver must be one of"),
        (lambda: ConvexifiedLayerConfig(gamma=0.0), "gamma must be finite and above 0"),
        (lambda: ConvexifiedLayerConfig(crop=1.5), "crop must be in"),
        (lambda: ConvexifiedLayerConfig(padding=-1), "padding must be 0 or more"),
        (lambda: ConvexifiedLayerConfig(iterations=0), "iterations must be a positive"),
        (lambda: ImagePatches(4, 9, ConvexifiedLayerConfig()), "patch_size must be at most"),
        (lambda: ImagePatches(5, 9, ConvexifiedLayerConfig()), "pool_size must be at most"),
        (lambda: GraphPatches(torch.tensor([[0, 3]])), r"table must have entries in \[-1, 1\)"),
        (lambda: GraphPatches(torch.ones(2, 2)), "table must be int64"),
        (
            lambda: GraphPatches(torch.zeros(2, 1).long(), torch.full((2, 1), -1)),
            "row 0 of pool must name a patch",
        ),
        (
            lambda: NystroemFeatures(2, 9, "rbf", 1.0).fit(torch.rand(4, 2), draw(0)),
            "num_features must be at most the number of patches, 4",
        ),
        (
            lambda: make_features(ConvexifiedLayerConfig(kernel="quadratic"), 400),
            "method='nystroem'",
        ),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
