"""What models and operators say of inputs that are not theirs: in words of the user's argument."""

import inspect

import numpy as np
import pytest
import torch
from support.mesh_shapes import sphere

from polygraph import metrics, nn, ops
from polygraph.models import create_model

TINY = {"encoder_channels": (4, 6), "decoder_channels": (6, 4, 3), "latent_channels": 3}
Z, IMAGES, POINTS = (2, 128), (2, 3, 32, 32), (2, 24, 3)
#: name -> settings, and the shape of the input
MODELS = {
    "full-2": ({"template": sphere(), "factors": (3, 2), **TINY}, (2, 162, 3)),
    "dgcnn-classifier": ({"num_classes": 3, "k": 4}, POINTS),
    "dgcnn-segmenter": ({"k": 4}, POINTS),
    "lenet": ({}, (2, 1, 32, 32)),
    "spline/small-cnn": ({}, IMAGES),
    "sparse/ista": ({"channels": (2, 3, 4), "unfoldings": 1}, IMAGES),
    "inception-v3": ({}, IMAGES),
    "gcdn-33": ({"width": 6, "k": 4}, (2, 1, 12, 12)),
    "dncnn-10": ({}, (2, 1, 12, 12)),
    "pinet18": ({"width": 4, "depths": (1, 1)}, IMAGES),
    **{
        f"{pair}/{side}": ({}, shape)
        for pair in ("small/edge-k8", "pi/ncp", "pi/sngan", "pi/dcgan", "pi/progan")
        for side, shape in (("generator", Z), ("critic", IMAGES))
    },
}


def of(name):
    settings, shape = MODELS[name]
    model = create_model(name, **settings).eval()
    if shape == Z:
        shape = (2, model.config.latent_channels)
    return model, shape, next(iter(inspect.signature(model.forward).parameters))


@pytest.mark.parametrize("name", MODELS)
def test_models_name_the_argument(name):
    """Its dtype, an array in its place, and every dimension but the batch wrong in turn."""
    model, shape, argument = of(name)
    ways = rf"{argument}\.float\(\) or model\.double\(\)"
    wanted = rf"{argument} is float64, but this model's parameters are float32: {ways}"
    with pytest.raises(ValueError, match=wanted):
        model(torch.zeros(shape, dtype=torch.float64))
    wanted = rf"{argument} must be a torch\.Tensor, got a NumPy array: torch\.from_numpy"
    with pytest.raises(TypeError, match=wanted):
        model(np.zeros(shape, np.float32))
    any_size = ("inception-v3", "pinet18", "gcdn-33", "dncnn-10")
    free = {1} if "dgcnn" in name else {2, 3} if name in any_size else set()
    for dim in set(range(1, len(shape))) - free:
        wrong = [size + 1 if n == dim else size for n, size in enumerate(shape)]
        with pytest.raises(ValueError, match=rf"{argument} must have shape .*, got \["):
            model(torch.zeros(wrong))


def test_codes_are_named_too():
    model, _, _ = of("full-2")
    with pytest.raises(ValueError, match=r"z is float64, .* z\.float\(\) or model\.double"):
        model.decode(torch.zeros(2, 3).double())
    with pytest.raises(ValueError, match=r"z must have shape \[B, 3\], got \[2, 4\]"):
        model.decode(torch.zeros(2, 4))


def operators():
    found = [getattr(ops, name) for name in ops.__all__ if name != "Graph"]
    found += [nn.knn, nn.knn_graph, nn.pixel_knn]
    return [*found, metrics.vertex_distance]


@pytest.mark.parametrize("operator", operators(), ids=lambda f: f"{f.__module__}.{f.__name__}")
def test_operators_say_how_an_array_becomes_a_tensor(operator):
    """Whatever the others are, the first array is named."""
    parameters = inspect.signature(operator).parameters.values()
    needed = [p.name for p in parameters if p.default is inspect.Parameter.empty]
    with pytest.raises(TypeError, match=r"must be a torch\.Tensor, got a NumPy array") as caught:
        operator(*(np.zeros((4, 3)) if n == 0 else torch.ones(4, 3) for n in range(len(needed))))
    name = needed[0]
    assert f"{name} must be" in str(caught.value)
    assert str(caught.value).endswith(f"torch.from_numpy({name})")


def test_lists_are_named_too():
    with pytest.raises(TypeError, match=r"knn: x must be .*, got a list: torch\.tensor\(x\)"):
        ops.knn([[0.0], [1.0]], 1)
    with pytest.raises(TypeError, match=r"knn_graph: batch must be .* torch\.from_numpy\(batch\)"):
        nn.knn_graph(torch.zeros(4, 3), 1, batch=np.zeros(4, np.int64))


def test_autocast_takes_any_float():
    """What it casts is not refused; float64 it leaves alone."""
    index = torch.zeros(4, 2, dtype=torch.int64)
    layer = nn.SpiralConv(3, 2, index)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.zeros(4, 3, dtype=torch.bfloat16)).dtype == torch.bfloat16
        with pytest.raises(ValueError, match="x is float64"):
            layer(torch.zeros(4, 3, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"x is bfloat16, .*: x.float\(\) or layer.bfloat16\(\)"):
        layer(torch.zeros(4, 3, dtype=torch.bfloat16))
    with pytest.raises(ValueError, match=r"x is int64, but .* are float32: x.float\(\)$"):
        layer(torch.zeros(4, 3, dtype=torch.int64))
