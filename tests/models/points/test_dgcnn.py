"""DGCNN against PyG's EdgeConv with the same weights, and what both networks promise."""

import json
import os
import subprocess
import sys
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from polygraph.models import (
    DGCNNClassifier,
    DGCNNClassifierConfig,
    DGCNNSegmenter,
    DGCNNSegmenterConfig,
)
from polygraph.nn import knn

REPOSITORY = Path(__file__).resolve().parents[3]
CLASSIFIER = DGCNNClassifierConfig(
    num_classes=5, k=6, edge_channels=(8, 8, 12), embedding_channels=32, head_channels=(16, 12)
)
SEGMENTER = DGCNNSegmenterConfig(
    num_parts=4,
    num_categories=3,
    k=6,
    edge_channels=((8, 8), (8, 10), (8,)),
    embedding_channels=32,
    category_channels=7,
    head_channels=(16, 16, 12),
)
# Sums over edges in another order, through a dozen layers in float64.
TOLERANCE = 1e-10


def clouds(B=3, N=40, seed=0, dtype=torch.float64):
    return torch.randn(B, N, 3, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def trained(model):
    """The model in float64, with statistics and scales that are not the initial ones."""
    model.double()
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            for tensor, low, high in (
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 2.0),
                (module.weight.data, -1.5, 1.5),  # negative scales turn the maximum round
                (module.bias.data, -0.5, 0.5),
            ):
                tensor.uniform_(low, high, generator=generator)
    return model


def pyg_features(model, points):
    """The edge convolutions by PyG, on the edges that torch-cluster's interface gives."""
    pyg = pytest.importorskip("torch_geometric.nn")
    B, N, _ = points.shape
    batch = torch.arange(B).repeat_interleave(N)
    found, x = [], points.flatten(0, 1)
    for network in model.edge:
        centre, near = knn(x.detach(), x.detach(), model.k, batch, batch)
        layer = pyg.EdgeConv(nn.Identity(), aggr="max")  # it would initialise the network anew
        layer.nn = network
        x = layer(x, torch.stack([near, centre]))
        found.append(x)
    return torch.cat(found, -1), batch


def pyg_classifier(model, points):
    pyg = pytest.importorskip("torch_geometric.nn")
    x, batch = pyg_features(model, points)
    x = model.embedding(x)
    return model.head(
        torch.cat([pyg.global_max_pool(x, batch), pyg.global_mean_pool(x, batch)], -1)
    )


def pyg_segmenter(model, points, category):
    pyg = pytest.importorskip("torch_geometric.nn")
    x, batch = pyg_features(model, points)
    cloud = pyg.global_max_pool(model.embedding(x), batch)
    kinds = torch.eye(model.config.num_categories, dtype=x.dtype)[category]
    cloud = torch.cat([cloud, model.category(kinds)], -1)
    out = model.head(torch.cat([cloud[batch], x], -1))
    return out.view(*points.shape[:2], -1)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", ["classifier", "segmenter"])
def test_equals_pyg(kind, training):
    """Logits, gradients of points and weights, running statistics."""
    torch.manual_seed(0)
    if kind == "classifier":
        ours, peer, more = DGCNNClassifier(CLASSIFIER), pyg_classifier, ()
    else:
        ours, peer, more = DGCNNSegmenter(SEGMENTER), pyg_segmenter, (torch.tensor([2, 0, 1]),)
    trained(ours).train(training)
    theirs = deepcopy(ours)
    found = []
    for model, call in ((ours, lambda *a: ours(*a)), (theirs, lambda *a: peer(theirs, *a))):
        points = clouds().requires_grad_()
        torch.manual_seed(3)  # dropout
        logits = call(points, *more)
        weight = torch.randn(
            logits.shape, generator=torch.Generator().manual_seed(4), dtype=logits.dtype
        )
        grads = torch.autograd.grad((logits * weight).sum(), [points, *model.parameters()])
        found.append([logits, *grads, *(b for b in model.buffers() if b.is_floating_point())])
    for a, b in zip(*([t.detach() for t in part] for part in found), strict=True):
        assert a.shape == b.shape
        assert float((a - b).abs().max()) <= TOLERANCE * max(1.0, float(b.abs().max()))
    assert float(found[0][0].detach().abs().max()) > 1e-3


def test_sizes_are_the_published_ones():
    model = DGCNNClassifier(DGCNNClassifierConfig(num_classes=40))
    # Counted in the authors' code, whose paper says 1.81 M.
    assert sum(p.numel() for p in model.parameters()) == 1_809_576
    model = DGCNNSegmenter(DGCNNSegmenterConfig(num_categories=16))
    edge = 6 * 64 + 64 * 64 + 128 * 64 + 64 * 64 + 128 * 64 + 5 * 128
    rest = 192 * 1024 + 2048 + 16 * 64 + 128 + 1280 * 256 + 512 + 256 * 256 + 512
    rest += 256 * 128 + 256 + 128 * 50
    assert sum(p.numel() for p in model.parameters()) == edge + rest


def test_shapes_and_dtypes():
    x = clouds(2, 17, dtype=torch.float32)
    model = DGCNNClassifier(CLASSIFIER)
    assert model(x).shape == (2, 5)
    assert model.eval()(x[:1]).shape == (1, 5)
    assert model.eval()(x[:0]).shape == (0, 5)
    segmenter = DGCNNSegmenter(replace(SEGMENTER, num_categories=0))
    assert segmenter(x).shape == (2, 17, 4)
    assert segmenter.eval()(x[:1]).dtype == torch.float32


def test_the_order_of_the_points_does_not_matter():
    x, order = clouds(2, 30), torch.randperm(30, generator=torch.Generator().manual_seed(2))
    model = trained(DGCNNClassifier(CLASSIFIER)).eval()
    assert float((model(x[:, order]) - model(x)).detach().abs().max()) <= TOLERANCE
    model = trained(DGCNNSegmenter(SEGMENTER)).eval()
    kinds = torch.tensor([0, 2])
    difference = model(x[:, order], kinds) - model(x, kinds)[:, order]
    assert float(difference.detach().abs().max()) <= TOLERANCE
    assert float((model(x, kinds) - model(x, kinds.flip(0))).detach().abs().max()) > 1e-6


def test_a_layer_that_is_listened_to_computes_the_same():
    model = trained(DGCNNClassifier(CLASSIFIER)).eval()
    expected = model(clouds())
    seen = []
    model.edge[1][0].register_forward_hook(lambda *args: seen.append(args[2].shape))
    assert float((model(clouds()) - expected).detach().abs().max()) <= TOLERANCE
    assert seen == [(3 * 40 * 6, 8)]


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (torch.zeros(2, 40), r"points must have shape \[B, N, 3\], got \[2, 40\]"),
        (torch.zeros(2, 40, 4), r"points must have shape \[B, N, 3\], got \[2, 40, 4\]"),
        (
            torch.zeros(2, 40, 3, dtype=torch.int64),
            "points must be floating point, got torch.int64",
        ),
        (torch.zeros(2, 5, 3), "points must have at least k = 6 points per cloud, got 5"),
        (torch.zeros(1, 40, 3), "points must hold at least 2 clouds in training.*got 1"),
    ],
)
def test_bad_points(points, message):
    with pytest.raises(ValueError, match="DGCNNClassifier: " + message):
        DGCNNClassifier(CLASSIFIER)(points)
    with pytest.raises(ValueError, match="DGCNNSegmenter: " + message):
        DGCNNSegmenter(replace(SEGMENTER, num_categories=0))(points)


def test_points_that_are_not_finite():
    x = clouds()
    x[1, 2, 0] = float("nan")
    with pytest.raises(RuntimeError, match=r"NaN|inf|finite"):
        trained(DGCNNClassifier(CLASSIFIER))(x)


@pytest.mark.parametrize(
    ("category", "message"),
    [
        (None, "category must be given"),
        (torch.zeros(2, dtype=torch.int64), r"int64 of shape \[3\], got torch.int64 \[2\]"),
        (torch.zeros(3), r"int64 of shape \[3\], got torch.float32 \[3\]"),
        (torch.tensor([0, 3, 1]), r"lie in \[0, 3\), got 3"),
        (torch.tensor([0, -1, 1]), r"lie in \[0, 3\), got -1"),
    ],
)
def test_bad_categories(category, message):
    model = trained(DGCNNSegmenter(SEGMENTER))
    with pytest.raises(ValueError, match=message):
        model(clouds(), category)
    without = trained(DGCNNSegmenter(replace(SEGMENTER, num_categories=0)))
    with pytest.raises(ValueError, match="category must not be given"):
        without(clouds(), torch.zeros(3, dtype=torch.int64))


@pytest.mark.parametrize(
    ("cls", "settings", "message"),
    [
        (DGCNNClassifierConfig, {"k": 0}, "k must be a positive integer, got 0"),
        (DGCNNClassifierConfig, {"num_classes": 0}, "num_classes must be a positive integer"),
        (DGCNNClassifierConfig, {"edge_channels": ()}, "edge_channels must have at least one"),
        (DGCNNClassifierConfig, {"edge_channels": (8, 0)}, r"edge_channels\[1\] must be a pos"),
        (DGCNNClassifierConfig, {"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        (DGCNNClassifierConfig, {"dropout": float("nan")}, r"dropout must be in \[0, 1\)"),
        (DGCNNSegmenterConfig, {"num_parts": 0}, "num_parts must be a positive integer"),
        (DGCNNSegmenterConfig, {"num_categories": -1}, "num_categories must be an integer from 0"),
        (DGCNNSegmenterConfig, {"edge_channels": ()}, "edge_channels must have at least one"),
        (DGCNNSegmenterConfig, {"edge_channels": ((8,), ())}, r"edge_channels\[1\] must have"),
        (DGCNNSegmenterConfig, {"edge_channels": ((8, 0),)}, r"edge_channels\[0\]\[1\] must be"),
        (DGCNNSegmenterConfig, {"head_channels": ()}, "head_channels must have at least one"),
    ],
)
def test_bad_configurations(cls, settings, message):
    with pytest.raises(ValueError, match=f"{cls.__name__}: {message}"):
        cls(**settings)


def test_a_classifier_needs_its_number_of_classes():
    with pytest.raises(ValueError, match="num_classes must be set, got None"):
        DGCNNClassifier(DGCNNClassifierConfig())


@pytest.mark.parametrize("config", [CLASSIFIER, SEGMENTER])
def test_a_configuration_survives_json(config):
    assert type(config)(**json.loads(json.dumps(asdict(config)))) == config


def test_importing_models_does_not_import_pyg():
    code = "import sys, polygraph.models; print('torch_geometric' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    "training",
    [True, pytest.param(False, marks=pytest.mark.slow)],
    ids=["training", "evaluation"],
)
def test_compiles_once(training):
    """One graph for all sizes, forward and backward, with the plain network's logits."""
    model = DGCNNClassifier(replace(CLASSIFIER, edge_channels=(8, 8))).train(training)
    plain = deepcopy(model)
    torch.compiler.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=counter)
    counts = []
    for B, N in ((9, 20), (4, 31), (5, 33), (6, 40), (7, 13), (10, 22), (13, 29), (2, 50), (8, 64)):
        points = clouds(B, N, dtype=torch.float32)
        torch.manual_seed(0)  # dropout's
        logits = compiled(points)
        logits.sum().backward()
        torch.manual_seed(0)
        torch.testing.assert_close(logits, plain(points), rtol=1e-3, atol=1e-4)
        counts.append(counter.frame_count)  # the first may begin twice
    assert len(set(counts)) == 1


def test_exports():
    """torch.export with any number of clouds and points."""
    model = DGCNNClassifier(CLASSIFIER).eval()
    sizes = ({0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO},)
    points = clouds(9, 20, dtype=torch.float32)
    program = torch.export.export(model, (points,), dynamic_shapes=sizes)
    points = clouds(4, 31, dtype=torch.float32)
    torch.testing.assert_close(program.module()(points), model(points))
