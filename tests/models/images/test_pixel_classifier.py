"""The test bed's classifier: shapes, parameters of each layer in it, one batch learnt by heart."""

import itertools
import re
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from polygraph.models import PixelClassifier, PixelClassifierConfig, create_model
from polygraph.models.images.presets import CLASSIFIER_PRESETS

BED = [name for name in CLASSIFIER_PRESETS if re.fullmatch(r"bed/[a-z-]+(-k8)?", name)]
SMALL = {"size": 8, "width": 6, "k": 3}


def parameters(config):
    return sum(p.numel() for p in PixelClassifier(config).parameters())


def test_the_baseline_has_the_parameters_of_its_layers():
    c = [3, 66, 66, 132, 132, 264, 264]
    convolutions = sum(9 * a * b + b for a, b in itertools.pairwise(c))
    norms = sum(2 * b for b in c[1:])
    assert parameters(PixelClassifierConfig()) == convolutions + norms + 264 * 10 + 10


@pytest.mark.parametrize("width", [66, 18])
@pytest.mark.parametrize("coordinates", [True, False])
def test_a_graph_layer_adds_its_own_parameters(width, coordinates):
    """To the convolution that is its local part; ``D`` features, ``E`` with rows and columns."""
    plain = PixelClassifierConfig(width=width, coordinates=coordinates)
    for name, of in {
        "edge-sum": lambda d, e: 2 * e * d,
        "edge-max": lambda d, e: 2 * e * d,
        "ecc": lambda d, e: e * d + d + (d + 1) * e * d,
        # Hidden features; θL and θR from a third of their matrices; κ; biases of all three.
        "light": lambda d, e: (
            (e * d + d) + 2 * d * d // 3 * 11 + (e - d) * d * 11 + 11 * d + 11 * (d + e + 1)
        ),
        "attention": lambda d, e: 2 * d * (d // 8) + 2 * d * (d // 2) + 1,
    }.items():
        added = 0
        for d in (width, 2 * width):
            e = d + 2 * coordinates
            local = 0 if name == "attention" else 9 * (e - d) * d
            added += local + of(d, e)
        assert parameters(replace(plain, graph=name)) - parameters(plain) == added, name


@pytest.mark.parametrize("name", BED)
def test_one_batch_is_learnt_by_heart(name):
    torch.manual_seed(0)
    model = create_model(name, **SMALL)
    images, labels = torch.rand(8, 3, 8, 8) * 2 - 1, torch.arange(8)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(20):
        logits = model(images)
        assert logits.shape == (8, 10)
        loss = functional.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.2  # from about 2.4; it reaches 0.005 to 0.01


def test_parts_are_options_of_the_layer():
    found = create_model("bed/ecc-k8", **SMALL, merge="gate", pixel_graph="random")
    layer = found.layers[3]
    assert (layer.merge, layer.graph.graph, layer.delta) == ("gate", "random", 10.0)
    assert layer.coordinates
    bare = create_model("bed/ecc-k8-bare", **SMALL).layers[3]
    assert (bare.delta, bare.coordinates) == (None, False)
    between = create_model("bed/ecc-k8-coordinates", **SMALL).layers[3]
    assert (between.delta, between.coordinates) == (None, True)
    light = create_model("bed/light-k8", **SMALL).layers[3]
    assert light.filter.replicas == (3, 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 10}, "size must be a multiple of 4 and at least 8, got 10"),
        ({"num_classes": 1}, "num_classes must be at least 2, got 1"),
        ({"graph": "edge"}, "graph 'edge' was the mean without ReLU"),
        ({"graph": "edge-summ"}, "did you mean 'edge-sum'"),
        ({"delta": 10.0}, "delta is for graph ecc or light, got 'none'"),
        ({"size": 8, "k": 8, "graph": "ecc"}, "k must be at most 7"),
        ({"merge": "gate"}, "are for graph convolutions, not for graph 'none'"),
    ],
)
def test_what_cannot_be_built_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PixelClassifierConfig(**settings)


def test_images_of_another_shape_are_refused():
    model = create_model("bed/conv", **SMALL)
    with pytest.raises(ValueError, match=r"images must have shape \[B, 3, 8, 8\], got \[2, 1, 8"):
        model(torch.zeros(2, 1, 8, 8))
    with pytest.raises(
        ValueError, match="images is float64, but this model's parameters are float32"
    ):
        model(torch.zeros(2, 3, 8, 8, dtype=torch.float64))
