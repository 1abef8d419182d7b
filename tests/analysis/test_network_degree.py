"""What a network is: polynomials and their degrees, piecewise affine ones, affine maps exported."""

import numpy as np
import pytest
import torch
from torch import nn

from polygraph.analysis import affine_map, network_degree
from polygraph.models import create_model
from polygraph.nn import NCP, PolyResidual

SMALL = {"width": 4, "depths": (1, 1), "size": 8}
SHAPE = (3, 8, 8)


def test_a_polynomial_network():
    found = network_degree(create_model("pinet18-1x1-noact", **SMALL), SHAPE)
    assert (found.kind, found.degree, found.seen) == ("polynomial", 4, True)
    assert [(b.name, b.kind, b.degree) for b in found.blocks] == [
        ("blocks.0", "PolyResidual", 2),
        ("blocks.1", "PolyResidual", 2),
    ]
    assert str(found).startswith("a polynomial of degree 4 (finite differences")


def test_a_high_degree_follows_from_the_blocks():
    model = create_model("pinet18-noact", width=4, depths=(3, 2), size=8)
    found = network_degree(model, SHAPE)
    assert (found.degree, found.seen) == (32, None)
    assert "too high for finite differences" in str(found)


def test_who_says_a_degree_that_is_not_seen():
    class Boaster(nn.Linear):
        degree = 3

    found = network_degree(Boaster(3, 2), (3,))
    assert (found.degree, found.seen) == (3, False)
    assert "do NOT agree" in str(found)


@pytest.mark.parametrize(
    ("name", "settings", "kind", "reason"),
    [
        ("resnet18", SMALL, "piecewise affine", "stem.2 (ReLU)"),
        (
            "linear-resnet18",
            {**SMALL, "stem": "imagenet"},
            "piecewise affine",
            "stem.3 (MaxPool2d)",
        ),
        ("prodpoly-2211", SMALL, "neither", "stem.2 (ReLU)"),
        ("pinet18-noact", {**SMALL, "norm": "rms"}, "neither", "SecondOrderNorm rms"),
        ("r-polynet18", {**SMALL, "instance_share": 0.5}, "neither", "(InstanceNorm2d)"),
        ("bed/conv", {"width": 3, "size": 12}, "piecewise affine", "layers.2 (LeakyReLU)"),
        ("dgcnn-classifier", {"num_classes": 3, "k": 4}, "piecewise affine", "ReLU"),
    ],
)
def test_what_is_no_polynomial(name, settings, kind, reason):
    torch.manual_seed(0)
    shape = (24, 3) if "dgcnn" in name else (3, *2 * (settings["size"],))
    found = network_degree(create_model(name, **settings), shape)
    assert (found.kind, found.degree) == (kind, None)
    assert any(reason in r for r in found.reasons), found.reasons
    assert "not a polynomial because of" in str(found)


def test_a_tanh_within_a_block_is_named():
    block = PolyResidual(nn.Conv2d(3, 3, 1), 2, "face")
    found = network_degree(nn.Sequential(block), (3, 4, 4))
    assert (found.kind, found.reasons) == ("neither", ("0 (PolyResidual, its tanh)",))


@pytest.mark.parametrize(
    ("function", "kind", "degree"),
    [
        (lambda x: x**3 - x, "polynomial", 3),
        (lambda x: x.clamp_min(0).sum(1), "piecewise affine", None),
        (lambda x: x.exp(), "neither", None),
    ],
)
def test_what_no_part_says(function, kind, degree):
    class Silent(nn.Module):
        def forward(self, x):
            return function(x)

    found = network_degree(Silent(), (4,))
    assert (found.kind, found.degree, found.reasons) == (kind, degree, ())
    assert degree is not None or "no part says why" in str(found)


def test_parts_that_are_not_called_say_nothing():
    class Idle(nn.Linear):
        def __init__(self):
            super().__init__(3, 3)
            self.unused = nn.ReLU()

    assert network_degree(Idle(), (3,)).degree == 1


def test_blocks_of_vectors():
    chain = nn.Sequential(
        NCP(nn.Linear, 3, 3, 2, norm="none"), NCP(nn.Linear, 3, 3, 3, norm="none")
    )
    found = network_degree(chain, (3,))
    assert (found.degree, [b.degree for b in found.blocks]) == (6, [2, 3])
    bent = network_degree(NCP(nn.Linear, 3, 3, 2, norm="none", activation="relu"), (3,))
    assert (bent.kind, bent.reasons) == ("neither", ("the network (NCP, its relu)",))


def test_the_matrix_of_few_inputs_and_of_few_outputs(tmp_path):
    torch.manual_seed(0)
    for shapes in ((3, 7), (7, 3)):
        layer = nn.Linear(*shapes).double()
        found = affine_map(layer, shapes[:1])
        torch.testing.assert_close(found.matrix, layer.weight.detach(), rtol=1e-14, atol=1e-14)
        torch.testing.assert_close(found.bias, layer.bias.detach())
    path = found.save(tmp_path / "map.npz", classes=np.array(["a", "b", "c"]))
    with np.load(path, allow_pickle=False) as saved:
        assert sorted(saved) == ["bias", "classes", "in_shape", "matrix", "out_shape"]
        assert saved["matrix"].dtype == np.float64
        assert np.array_equal(saved["matrix"], layer.weight.detach().numpy())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet18", r"no affine map, it is piecewise affine: .* stem.2 \(ReLU\)"),
        ("pinet18-noact", "no affine map, it is a polynomial of degree 4"),
    ],
)
def test_what_is_not_affine_has_no_matrix(name, message):
    with pytest.raises(ValueError, match=message):
        affine_map(create_model(name, **SMALL), SHAPE)


def test_a_false_degree_of_one_is_found_out():
    class Liar(nn.Linear):
        degree = 1

        def forward(self, x):
            return super().forward(x).abs()

    with pytest.raises(ValueError, match=r"A x \+ b differs from the network by"):
        affine_map(Liar(3, 2), (3,))
