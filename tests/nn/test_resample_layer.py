"""Resample and SelectVertices as layers."""

from typing import ClassVar

import numpy as np
import pytest
import torch
from support.layer_calls import Case
from support.layer_contract import LayerContract

from polygraph.nn import Resample, SelectVertices

INDEX = torch.tensor([[0, 1, 2], [3, 3, -1], [2, 0, 1]])
WEIGHT = torch.tensor([[0.5, 0.25, 0.25], [0.5, 0.5, 7.0], [1.0, 0.0, 0.0]])


@pytest.mark.parametrize("shape", [(4, 5), (2, 4, 5)])
def test_is_a_matrix_product(shape):
    layer = Resample(INDEX, WEIGHT, 4)
    matrix = torch.tensor([[0.5, 0.25, 0.25, 0], [0, 0, 0, 1], [0, 0, 1, 0]])
    x = torch.randn(shape)
    torch.testing.assert_close(layer(x), matrix @ x)
    torch.testing.assert_close(layer.double()(x.double()), matrix.double() @ x.double())


def test_takes_numpy_and_saves_nothing():
    layer = Resample(INDEX.numpy(), WEIGHT.numpy().astype(np.float64), 4)
    assert layer.weight.dtype == torch.float32
    assert not layer.state_dict()
    assert not list(layer.parameters())
    assert repr(layer) == "Resample(4 -> 3)"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"index": INDEX.int()}, "index must be int64"),
        ({"num_sources": 3}, r"index must lie in \[-1, 3\), got values in \[-1, 3\]"),
        ({"weight": WEIGHT[:, :2]}, r"weight must be finite with the shape.*3, 3\], got \[3, 2\]"),
        ({"weight": WEIGHT / 0}, "weight must be finite.*values that are not finite"),
    ],
)
def test_bad_tables(change, message):
    with pytest.raises(ValueError, match="Resample: " + message):
        Resample(**{"index": INDEX, "weight": WEIGHT, "num_sources": 4} | change)


def test_second_derivatives():
    layer = Resample(INDEX, WEIGHT, 4).double()
    x = torch.randn(2, 4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: layer(x).sin(), x)


def test_selects_vertices():
    layer = SelectVertices(np.array([3, 0]), 4)
    x = torch.randn(2, 4, 5)
    assert torch.equal(layer(x), x[:, [3, 0]])
    assert torch.equal(layer(x[0]), x[0, [3, 0]])
    assert not layer.state_dict()
    assert repr(layer) == "SelectVertices(4 -> 2)"


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (torch.tensor([0, 4]), r"keep must lie in \[-1, 4\)"),
        (torch.tensor([-1, 0]), "keep must not be negative, got -1"),
        (torch.tensor([0.0]), "keep must be int64"),
    ],
)
def test_bad_selection(keep, message):
    with pytest.raises(ValueError, match="SelectVertices: " + message):
        SelectVertices(keep, 4)


def meshes(batch=3):
    return (torch.randn(batch, 4, 5, generator=torch.Generator().manual_seed(1)).double(),)


class TestResampling(LayerContract):
    kinds = (Resample, SelectVertices)
    takes_any_width = True
    cases: ClassVar = {
        "resample": Case(lambda: Resample(INDEX, WEIGHT, 4), meshes),
        "resample one": Case(lambda: Resample(INDEX.numpy(), WEIGHT, 4), lambda: (meshes()[0][0],)),
        "select": Case(lambda: SelectVertices(np.array([3, 0]), 4), meshes),
    }
    dynamic = ({0: torch.export.Dim.DYNAMIC},)

    @staticmethod
    def sized(size):
        return meshes(size)
