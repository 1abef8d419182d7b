"""Layers written as max-affine spline operators have the layers' values."""

from typing import ClassVar

import pytest
import torch
from support.layer_calls import Case
from support.layer_contract import LayerContract
from torch import nn

from polygraph.nn import MASO, to_maso

MODELS = {
    "mlp": (lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), (3,)),
    "abs": (lambda: nn.LeakyReLU(-1), (3,)),
    "leaky": (lambda: nn.LeakyReLU(0.2), (2, 3)),
    "linear of rows": (lambda: nn.Linear(3, 2), (2, 3)),
    "cnn": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, 3, stride=2, padding=1),
            nn.Sequential(nn.BatchNorm2d(3), nn.LeakyReLU(0.1)),
            nn.MaxPool2d(3, stride=2, padding=1),
            nn.Conv2d(3, 4, 2, groups=1, bias=False),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(4, 3),
        ),
        (2, 9, 7),
    ),
    "pools": (
        lambda: nn.Sequential(nn.AvgPool2d(2, padding=1), nn.MaxPool2d(2, 1, dilation=2)),
        (2, 7, 9),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_values_are_those_of_the_module(name):
    torch.manual_seed(0)
    make, shape = MODELS[name]
    model = make().double()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_()
            norm.weight.data.normal_()
    model.eval()
    made = to_maso(model, shape, dtype=torch.float64)
    x = torch.randn(16, *shape, dtype=torch.float64)
    assert all(isinstance(layer, MASO) for layer in made[1:-1])
    torch.testing.assert_close(made(x), model(x), rtol=1e-12, atol=1e-12)


def test_an_affine_layer_is_merged():
    torch.manual_seed(0)
    conv, relu = to_maso(nn.Sequential(nn.Conv2d(1, 2, 2), nn.ReLU()).double(), (1, 3, 3))[1:-1]
    both, x = relu.after(conv), torch.randn(9, 9, dtype=torch.float64)
    assert both.A.shape == (8, 2, 9)
    torch.testing.assert_close(both(x), relu(conv(x)), rtol=1e-12, atol=1e-12)
    assert torch.equal(both.regions(x), (conv(x) < 0).long())
    with pytest.raises(ValueError, match=r"affine must have one region and 8 outputs"):
        relu.after(relu)


REFUSED = {
    "tanh": (lambda: nn.Sequential(nn.Linear(3, 3), nn.Tanh()), r"1 \(Tanh\) is not known"),
    "norm": (lambda: nn.BatchNorm1d(3), r"the module \(BatchNorm1d\) is affine in eval mode alone"),
    "dropout": (lambda: nn.Dropout(0.5), "affine in eval mode alone"),
    "concave": (lambda: nn.LeakyReLU(2.0), "above 1: it is concave"),
    "ceil": (lambda: nn.MaxPool2d(2, ceil_mode=True), "neither ceil_mode nor return_indices"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_maximum_of_affine_functions_is_refused(name):
    make, reason = REFUSED[name]
    with pytest.raises(ValueError, match=reason):
        to_maso(make(), (3,))
    hooked = nn.ReLU()
    hooked.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="has hooks"):
        to_maso(hooked, (3,))


def test_bad_shapes_are_named():
    with pytest.raises(ValueError, match=r"A must have shape \[K, R, D\] and B \[K, R\]"):
        MASO(torch.zeros(2, 3, 4), torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"x must have shape \[B, 4\], got \[2, 3\]"):
        MASO(torch.zeros(2, 3, 4), torch.zeros(2, 3))(torch.zeros(2, 3))


def operator():
    generator = torch.Generator().manual_seed(0)
    slopes, offsets = (torch.randn(3, 2, *d, generator=generator) for d in ((4,), ()))
    return MASO(slopes, offsets)


def vectors(size=5):
    return (torch.randn(size, 4, generator=torch.Generator().manual_seed(1)).double(),)


class TestMASO(LayerContract):
    kinds = (MASO,)
    cases: ClassVar = {"of two": Case(operator, vectors)}
    dynamic = ({0: torch.export.Dim.DYNAMIC},)

    @staticmethod
    def sized(size):
        return vectors(size)
