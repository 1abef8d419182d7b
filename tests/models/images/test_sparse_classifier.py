"""`SparseCodingClassifier`: the network of convolutions exactly, its formula, sizes, bad input."""

import math

import pytest
import torch
from torch import nn

from polygraph.analysis import SplineLens
from polygraph.models import SparseCodingClassifier, SparseCodingClassifierConfig, create_model
from polygraph.models.sparse_coding import linear_part
from polygraph.train.supervised import ClassificationLoss

SMALL = {
    **{"in_channels": 1, "size": 9, "num_classes": 3},
    **{"channels": (4, 6), "kernels": (3, 3), "strides": (2, 1)},
}
METHODS = ("layered", "ista", "fista", "lista", "basis-pursuit")


def made(method="ista", **settings):
    """A small network in float64, of weights that are not small."""
    settings = SMALL | ({"unfoldings": 0} if method == "layered" else {"unfoldings": 2}) | settings
    torch.manual_seed(0)
    model = create_model(f"sparse/{method}", **settings).double().eval()
    with torch.no_grad():
        for parameter in model.coder.parameters():
            if parameter.dim() > 1:
                parameter *= 5
    model.coder.refresh_steps()
    return model


def images(count=3, size=9):
    return torch.rand(count, 1, size, size, dtype=torch.float64) * 2 - 1


@pytest.mark.parametrize("method", ["layered", "ista", "fista", "basis-pursuit"])
def test_without_unfoldings_it_is_the_network(method):
    """Convolutions, ReLUs, a linear layer, bit for bit; with unfoldings the same parameters."""
    model = made(method, unfoldings=0)
    steps = ((layer, nn.ReLU()) for layer in model.coder.dictionaries)
    network = nn.Sequential(*(part for pair in steps for part in pair), nn.Flatten(), model.output)
    x = images()
    assert torch.equal(model(x), network((x + 1) / 2))
    shapes = {name: p.shape for name, p in network.named_parameters()}
    assert [*shapes.values()] == [p.shape for p in model.parameters()]
    if method != "layered":
        assert [*shapes.values()] == [p.shape for p in made(method).parameters()]


@torch.no_grad()
def test_it_is_its_formula():
    """One unfolding, the logits and the reconstruction, by matrices."""
    model = made(unfoldings=1, threshold=0.03)
    x = images()
    signals = ((x + 1) / 2).flatten(1)
    matrices, biases = [], []
    for layer, shape in zip(model.coder.dictionaries, model.coder.shapes, strict=False):
        basis = torch.eye(math.prod(shape), dtype=torch.float64).view(-1, *shape)
        matrices.append(linear_part(layer, basis).flatten(1))
        biases.append(layer(torch.zeros(1, *shape).double()).flatten(1))
    (D, E), (b, c), steps = matrices, biases, model.coder.step
    second = ((signals @ D + b).relu() @ E + c).relu()
    first = second @ E.T
    first = (first + steps[0] * ((signals - first @ D.T) @ D + b)).relu()
    second = (second + steps[1] * ((first - second @ E.T) @ E + c)).relu()
    logits, distance = model.with_reconstruction(x)
    torch.testing.assert_close(logits, second @ model.output.weight.T + model.output.bias)
    assert torch.equal(logits, model(x))
    rest = signals - second @ E.T @ D.T
    torch.testing.assert_close(distance, rest.square().sum(1) / 2)
    assert float(biases[0].max()) == pytest.approx(-0.03)


@pytest.mark.parametrize("method", METHODS)
def test_gradients_reach_every_weight(method):
    """Of the logits, and of the loss with a reconstruction."""
    model, labels = made(method).train(), torch.tensor([0, 1, 2])
    loss = ClassificationLoss(model, reconstruction=0.1)
    assert loss.names == ("loss", "accuracy", "reconstruction")
    plain, _ = ClassificationLoss(model.eval())(x := images(), labels)
    whole, _, distance = loss(x, labels)
    torch.testing.assert_close(whole, plain + 0.1 * distance)
    for value in (plain, whole):
        gradients = torch.autograd.grad(value, [*model.parameters()])
        assert all(g.abs().sum() > 0 for g in gradients)


def test_sizes_are_those_of_the_source():
    """MNIST: 32, 64 and 512 atoms, codes of 12, 4 and 1 pixels a side; nothing more with steps."""
    with torch.device("meta"):
        model = create_model("sparse/layered", in_channels=1, size=28)
        found = create_model("sparse/lista", in_channels=1, size=28)
    assert model.coder.shapes == [(1, 28, 28), (32, 12, 12), (64, 4, 4), (512, 1, 1)]
    convolutions = 32 * 36 + 32 * 64 * 36 + 64 * 512 * 16
    count = convolutions + 32 + 64 + 512 + 5130
    assert sum(p.numel() for p in model.parameters()) == count
    assert sum(p.numel() for p in found.parameters()) == count + convolutions
    padded = {"in_channels": 3, "channels": (8, 8), "kernels": (4, 4), "strides": (2, 2)}
    real = create_model("sparse/ista", **padded, padding=1)
    with torch.device("meta"):
        outline = create_model("sparse/ista", **padded, padding=1)
    assert outline.coder.shapes == real.coder.shapes == [(3, 32, 32), (8, 16, 16), (8, 8, 8)]
    weights, wanted = real.state_dict(), outline.state_dict()
    assert {n: v.shape for n, v in weights.items()} == {n: v.shape for n, v in wanted.items()}


@pytest.mark.parametrize("method", METHODS)
def test_convolutions_behind_the_codes(method):
    """CIFAR-10: codes of 16, 8 and 4 pixels a side, then 2 and 1 of plain convolutions."""
    with torch.device("meta"):
        model = create_model(f"sparse/cifar-{method}")
    assert model.coder.shapes == [(3, 32, 32), (32, 16, 16), (64, 8, 8), (128, 4, 4)]
    dictionaries = 16 * (3 * 32 + 32 * 64 + 64 * 128)
    tail = 9 * (128 * 256 + 256 * 512 + 512 * 512) + 256 + 512 + 512
    count = dictionaries * (1 + (method == "lista")) + 224 + tail + 5130
    assert sum(p.numel() for p in model.parameters()) == count
    small = {"channels": (4, 4, 6), "tail": (5, 7, 3), "unfoldings": 2 * (method != "layered")}
    model = create_model(f"sparse/cifar-{method}", **small).double().eval()
    x = torch.rand(2, 3, 32, 32, dtype=torch.float64) * 2 - 1
    code = model.encode(x)[-1]
    for n in range(3):
        code = model.tail[(0, 3, 6)[n]](code).relu()
        code = nn.functional.max_pool2d(code, 2) if n < 2 else code
    logits = model(x)
    torch.testing.assert_close(logits, model.output(code.flatten(1)), rtol=0, atol=0)
    again, _ = model.with_reconstruction(x)
    assert torch.equal(again, logits)
    gradients = torch.autograd.grad(logits.sum(), [*model.parameters()])
    assert all(g.isfinite().all() for g in gradients)


def test_the_lens_sees_through_unfoldings():
    """A piecewise affine network: its affine map around images gives its logits."""
    model = made(unfoldings=1)
    found = SplineLens(model).affine(x := images(2))
    with torch.no_grad():
        torch.testing.assert_close(found.inner + found.b, model(x))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "istta"}, "method must be one of .*did you mean 'ista'"),
        ({"step_sizes": "two"}, "step_sizes must be one of power, unit, learned"),
        ({"unfoldings": -1}, "unfoldings must be at least 0, got -1"),
        ({"method": "layered"}, "unfoldings must be 0 with the method layered, got 6"),
        ({"method": "lista", "unfoldings": 0}, "unfoldings must be at least 1 with .* lista"),
        ({"kernels": (3, 3)}, r"kernels must have a number for each layer.* 3, got \[3, 3\]"),
        ({"channels": ()}, "channels must have a number for each layer"),
        ({"padding": 4}, r"padding must be in \[0, 4\), below the kernels, got 4"),
        ({"threshold": float("nan")}, "threshold must be finite and at least 0, got nan"),
        ({"size": 21}, r"size must leave a pixel behind kernels \[6, 6, 4\] .*, got 21"),
        ({"tail": (8, 0)}, r"tail\[1\] must be a positive integer, got 0"),
        ({"num_classes": 1}, "num_classes must be at least 2, got 1"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        SparseCodingClassifierConfig(**settings)


def test_bad_images_and_losses():
    model = made()
    assert isinstance(model, SparseCodingClassifier)
    for call in (model, model.encode, model.with_reconstruction):
        with pytest.raises(ValueError, match=r"images must have shape \[B, 1, 9, 9\], got"):
            call(images(size=8))
    with pytest.raises(ValueError, match="reconstruction needs a model of sparse codes"):
        ClassificationLoss(nn.Linear(3, 2), reconstruction=0.1)
    with pytest.raises(ValueError, match="reconstruction must be finite and at least 0, got -1"):
        ClassificationLoss(model, reconstruction=-1)
