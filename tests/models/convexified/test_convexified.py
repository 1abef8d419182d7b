"""Convexified networks: the problem is convex, the certificate holds, the estimator fits."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from support.mesh_shapes import grid

from polygraph.data import ImageDataset
from polygraph.mesh import spiral_table
from polygraph.models import ConvexifiedCNN, ConvexifiedLayerConfig, ConvexifiedNetwork
from polygraph.models.convexified import (
    GraphPatches,
    Inputs,
    LogisticProblem,
    Pooled,
    Tracker,
    as_matrix,
    fit_normalisation,
    nuclear_norm,
    project_nuclear,
    solve,
)
from polygraph.ops import knn

SMALL = ConvexifiedLayerConfig(
    patch_size=3, num_features=12, radius=3.0, solver="accelerated", iterations=400,
    tolerance=1e-3, filters=4,
)  # fmt: skip


def draw(seed):
    return torch.Generator().manual_seed(seed)


def data(count=60, classes=3, size=8, dtype=torch.float64, seed=0):
    """Noise with a bright square whose corner is the class's."""
    images = 0.4 * torch.rand(count, 1, size, size, generator=draw(seed), dtype=dtype)
    labels = torch.arange(count) % classes
    for image, label in zip(images, labels.tolist(), strict=True):
        image[0, label : label + 3, 2 * label : 2 * label + 3] += 0.5
    return images, labels


def problem(config, count=60, memory=1 << 30):
    images, labels = data(count)
    network = ConvexifiedNetwork([config], images.shape[1:], 3).double()
    layer, inputs = network.layer(0), Inputs(images, torch.float64)
    with torch.no_grad():
        fit_normalisation(layer, inputs, draw(0))
        pooled = Pooled(layer, inputs, memory)
    return LogisticProblem(pooled, labels, 3, config.radius, layer.patches.crops())


@torch.no_grad()
def test_features_are_normalised_on_the_training_set():
    """Mean 0 and mean squared norm 1; patches white to the whitening's constant."""
    found = problem(SMALL).pooled
    features = found.take(slice(0, 60)).flatten(0, 1)
    torch.testing.assert_close(features.mean(0), torch.zeros(12).double(), atol=1e-12, rtol=0)
    assert float(features.square().sum(1).mean()) == pytest.approx(1, abs=1e-12)
    layer = found.layer
    patches = layer.normalized(found.inputs.x).flatten(0, 1)
    covariance = torch.cov(patches.T, correction=0) + 0.1 * torch.eye(9).double()
    white = layer.whitening @ covariance @ layer.whitening
    torch.testing.assert_close(white, torch.eye(9).double(), atol=1e-10, rtol=0)


@pytest.mark.parametrize("crop", [1.0, 0.7])
@torch.no_grad()
def test_loss_and_gradient(crop):
    """Against a few lines for all crops; the gradient against differences."""
    found = problem(replace(SMALL, crop=crop))
    weight = torch.randn(found.shape, generator=draw(3), dtype=torch.float64) * 0.3
    features = found.pooled.take(slice(0, 60))
    losses = []
    for crop_rows in found.crops:
        scores = torch.einsum("bqm,qmk->bk", features[:, crop_rows], weight)
        logits = torch.cat([scores, torch.zeros(60, 1)], 1)
        losses.append(torch.nn.functional.cross_entropy(logits, found.labels))
    loss, gradient = found.evaluate(weight)
    assert loss == pytest.approx(float(torch.stack(losses).mean()), abs=1e-12)
    step = torch.randn(found.shape, generator=draw(4), dtype=torch.float64) * 1e-4
    slope = (found.evaluate(weight + step)[0] - found.evaluate(weight - step)[0]) / 2
    assert float((gradient * step).sum()) == pytest.approx(slope, rel=1e-5)
    assert found.loss_of(found.scores(weight), found.targets()) == pytest.approx(loss, abs=1e-12)


@torch.no_grad()
def test_the_bound_is_below_every_point_of_the_ball():
    found = problem(SMALL)
    points = [
        project_nuclear(torch.randn(12, 18, generator=draw(n), dtype=torch.float64) * n, 3.0)
        for n in range(12)
    ]
    weights = [p.view(12, 9, 2).permute(1, 0, 2).contiguous() for p in points]
    values = [found.evaluate(w) for w in weights]
    least = min(loss for loss, _ in values)
    for weight, (loss, gradient) in zip(weights, values, strict=True):
        assert found.bound(weight, loss, gradient) <= least
        # Outside of the ball tangent planes bound as well.
        outside = found.evaluate(3 * weight)
        assert found.bound(3 * weight, *outside) <= least


@pytest.mark.parametrize("solver", ["accelerated", "frank-wolfe"])
@torch.no_grad()
def test_two_starts_reach_the_same_loss(solver):
    """Convexity: to 1e-3 of each other, and to the certified gap."""
    config = replace(SMALL, solver=solver, tolerance=2e-3, iterations=600)
    found = problem(config)
    start = torch.randn(found.shape, generator=draw(5), dtype=torch.float64)
    ends = [solve(found, config, draw(0), start=first) for first in (None, start)]
    (_, a), (_, b) = ends
    assert abs(a.loss - b.loss) < 1e-3
    assert max(a.lower_bound, b.lower_bound) <= min(a.loss, b.loss)
    for weight, certificate in ends:
        assert certificate.gap <= 0.01 * certificate.loss
        assert nuclear_norm(as_matrix(weight)) <= 3 + 1e-6
        assert certificate.loss == pytest.approx(found.evaluate(weight)[0], abs=1e-9)


@torch.no_grad()
def test_projected_sgd_is_near_the_optimum():
    """Its certificate is true: the accelerated solver's loss lies within."""
    found = problem(SMALL)
    best = solve(found, SMALL, draw(0))[1]
    config = replace(SMALL, solver="sgd", iterations=120, batches=4, window=40, learning_rate=1.0)
    tracker = Tracker()
    weight, certificate = solve(found, config, draw(0), tracker)
    assert [step.iteration for step in tracker.history] == [40, 80, 120]
    assert certificate.lower_bound <= best.loss <= certificate.loss
    assert certificate.gap < 0.05 * certificate.loss
    again = solve(found, config, draw(0))[0]
    assert torch.equal(weight, again)


@torch.no_grad()
def test_a_large_ball_is_logistic_regression_on_patches():
    """Linear activation and a constraint that does not bind: scikit-learn's loss."""
    config = replace(
        SMALL, kernel="linear", method=None, patch_size=4, pool_size=5, pool_stride=5,
        radius=2000.0, iterations=300, tolerance=1e-6,
    )  # fmt: skip
    images, _ = data(200)
    labels = torch.randint(3, (200,), generator=draw(7))
    network = ConvexifiedNetwork([config], images.shape[1:], 3).double()
    layer, inputs = network.layer(0), Inputs(images, torch.float64)
    fit_normalisation(layer, inputs, draw(0))
    pooled = Pooled(layer, inputs, 1 << 30)
    found = LogisticProblem(pooled, labels, 3, config.radius, layer.patches.crops())
    certificate = solve(found, config, draw(0))[1]
    features = pooled.take(slice(0, 200)).flatten(1).numpy()
    peer = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10, max_iter=20_000)
    wanted = peer.fit(features, labels).predict_proba(features)
    loss = -np.log(wanted[np.arange(200), labels]).mean()
    assert certificate.nuclear_norm < 1000  # the ball does not bind
    assert certificate.loss == pytest.approx(loss, abs=1e-3)


def test_features_that_are_not_kept_are_the_same():
    """Made for each chunk and batch or kept: the same weights."""
    images, labels = data(40, dtype=torch.float32)
    layers = [replace(SMALL, solver="sgd", iterations=20, window=10), replace(SMALL, pool_size=1)]
    models = [ConvexifiedCNN(layers, memory=m, seed=1).fit(images, labels) for m in (0, 1 << 30)]
    first, second = (m.decision_function(images) for m in models)
    np.testing.assert_allclose(first, second, atol=2e-3)  # float32 through two fits
    assert repr(models[0]) == "ConvexifiedCNN(rbf 12 R=3, rbf 12 R=3, seed=1, fitted)"


@pytest.mark.parametrize(
    "kernel",
    [
        {"kernel": "rbf", "gamma": 1.0},
        {"kernel": "quadratic"},
        {"kernel": "linear"},
        {"kernel": "inverse"},
    ],
)
def test_estimator(kernel):
    """Two layers learn, both classifiers answer, the module is an ordinary one."""
    images, labels = data(90, dtype=torch.float32)
    held, truth = data(30, dtype=torch.float32, seed=1)
    names = np.array(["one", "two", "three"])
    first = replace(SMALL, method=None, radius=20.0, iterations=60, **kernel)
    layers = [first, replace(first, patch_size=2, padding=1, pool_size=1, pool_stride=1)]
    model = ConvexifiedCNN(layers)
    model.fit(images, names[labels], validation=(held, names[truth]))
    assert model.classes_.tolist() == sorted(names)
    for depth in (1, 2):
        assert model.score(held, names[truth], depth=depth) > 0.9
    assert model.history_[1][-1].error == pytest.approx(1 - model.score(held, names[truth]))
    probabilities = model.predict_proba(held)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
    network = ConvexifiedNetwork(layers, (1, 8, 8), 3)
    network.load_state_dict(model.network_.state_dict())
    with torch.no_grad():
        np.testing.assert_allclose(network(held), model.decision_function(held), atol=1e-5)
    filters = model.network_.layer(0).filters
    gram = filters.T @ filters  # a column of the singular value 0 is 0
    torch.testing.assert_close(gram, gram.diag().round().diag(), atol=1e-4, rtol=0)
    assert gram[0, 0] > 0.99


def test_network_is_a_plain_module():
    """It trains on from where it is."""
    images, labels = data(30, dtype=torch.float32)
    model = ConvexifiedCNN([replace(SMALL, iterations=20)]).fit(images, labels)
    network = model.network_
    loss = torch.nn.functional.cross_entropy(network(images), labels)
    (gradient,) = torch.autograd.grad(loss, network.layer(0).weight)
    with torch.no_grad():
        network.layer(0).weight -= 0.1 * gradient
        assert torch.nn.functional.cross_entropy(network(images), labels) < loss


def test_image_datasets_and_bytes():
    images, labels = data(60, dtype=torch.float32)
    pixels = (images * 255).byte()
    dataset = ImageDataset.from_arrays(pixels, labels.numpy(), size=8)
    layer = replace(SMALL, iterations=60)
    model = ConvexifiedCNN([layer]).fit(dataset)
    assert model.score(dataset) > 0.8
    same = ConvexifiedCNN([layer]).fit(pixels[dataset.train].float() / 255, labels[dataset.train])
    np.testing.assert_allclose(
        same.decision_function(images), model.decision_function(images), atol=1e-4
    )


def test_spirals_of_a_mesh():
    """Patches are spirals; which corner of a mesh is raised is learned, on noise of its heights."""
    vertices, faces = grid(6, 6)
    table = spiral_table(vertices, faces)
    heights = 0.2 * torch.randn(60, 36, 1, generator=draw(0))
    labels = torch.arange(60) % 2
    heights[labels == 1, :8] += 1.0
    graph = GraphPatches(table, pool=torch.arange(36).view(12, 3))
    graphs = [graph, GraphPatches(torch.arange(12).view(12, 1))]
    layer = replace(SMALL, contrast=None, iterations=50)
    model = ConvexifiedCNN([layer, layer], graphs=graphs).fit(heights[:40], labels[:40])
    for depth in (1, 2):
        assert model.score(heights[40:], labels[40:], depth=depth) > 0.9
    assert model.network_.layer(0)(heights[:2]).shape == (2, 12, 4)


def test_pixels_as_a_graph_are_an_image():
    """Windows of a 6 x 6 grid as a table give the features that images give."""
    images, labels = data(20, classes=2, size=6)
    place = torch.arange(36).view(6, 6)
    table = place.unfold(0, 3, 1).unfold(1, 3, 1).reshape(16, 9)
    pool = torch.arange(16).view(4, 4).unfold(0, 2, 2).unfold(1, 2, 2).reshape(4, 4)
    graph = GraphPatches(table, pool, num_sources=36)
    layer = replace(SMALL, iterations=5)
    on_image = ConvexifiedCNN([layer]).fit(images, labels)
    on_graph = ConvexifiedCNN([layer], graphs=[graph]).fit(images.flatten(2).mT, labels)
    np.testing.assert_allclose(
        on_graph.decision_function(images.flatten(2).mT),
        on_image.decision_function(images),
        atol=1e-9,
    )


def test_neighbors_of_a_graph():
    points = torch.rand(40, 3, generator=draw(0))
    neighbors, _ = knn(points, 4)
    layer = replace(SMALL, contrast=None, iterations=20)
    x = torch.randn(20, 40, 2, generator=draw(1))
    x[10:, :, 0] += 1
    model = ConvexifiedCNN([layer], graphs=[GraphPatches(neighbors)]).fit(x, torch.arange(20) // 10)
    assert model.score(x, torch.arange(20) // 10) > 0.9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"X": torch.full((4, 1, 8, 8), torch.nan)}, "inputs must be finite"),
        ({"X": torch.zeros(4, 1, 8, 8)}, "differ from patch to patch"),
        ({"X": torch.ones(4, 1, 8, 8).long()}, "floating point or uint8, got int64"),
        ({"X": torch.rand(4, 8, 8)}, r"shape must be \[C, H, W\]"),
        ({"X": torch.rand(4, 1, 2, 2)}, "patch_size must be at most the image"),
        ({"y": torch.zeros(4).long()}, "at least two classes, got 0 alone"),
        ({"y": torch.arange(3)}, r"labels of shape \[4\]"),
        ({"y": torch.rand(4)}, "no floating-point numbers"),
        ({"y": None}, "y must have the labels"),
        ({"validation": (torch.rand(2, 1, 8, 8), [7, 8])}, "a class that y has not: 7"),
        ({"validation": (torch.rand(2, 1, 9, 8), [0, 1])}, r"must have shape \[N, 1, 8, 8\]"),
    ],
)
def test_bad_data_is_named(change, message):
    given = {"X": torch.rand(4, 1, 8, 8, generator=draw(0)), "y": torch.arange(4) % 2, **change}
    with pytest.raises(ValueError, match=message):
        ConvexifiedCNN([SMALL]).fit(given.pop("X"), given.pop("y"), **given)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConvexifiedCNN("ccnn-1-mnits"), "did you mean 'ccnn-1-mnist'"),
        (lambda: ConvexifiedCNN([]), "at least one configuration"),
        (lambda: ConvexifiedCNN([SMALL], graphs=[]), "graphs must have one for each of 1"),
        (lambda: ConvexifiedNetwork([SMALL], (1, 8, 8), 1), "num_classes must be at least 2"),
        (
            lambda: ConvexifiedNetwork(
                [SMALL], (5, 1), 2, [GraphPatches(torch.zeros(4, 2).long())]
            ),
            "must have the 5 nodes that come in, got 4",
        ),
    ],
)
def test_bad_networks_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_fit_comes_first():
    with pytest.raises(RuntimeError, match="fit must be called first"):
        ConvexifiedCNN([SMALL]).predict(torch.rand(2, 1, 8, 8))


def test_divergence_is_said():
    images, labels = data(30)
    layer = replace(SMALL, solver="sgd", learning_rate=1.7e308, batch_size=1, iterations=3)
    with pytest.raises(ValueError, match="learning_rate may be too large"):
        ConvexifiedCNN([layer]).fit(images, labels)
