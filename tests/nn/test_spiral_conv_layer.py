"""SpiralConv as a layer: what it adds to the operator."""

from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.layer_calls import Case
from support.layer_contract import LayerContract

from polygraph.nn import SpiralConv


@pytest.fixture
def indices():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(-1, 12, (12, 5), generator=generator)


def gather_and_multiply(layer, x):
    padded = F.pad(x, (0, 0, 0, 1))  # row -1 is the zero row
    return F.linear(padded[..., layer.indices, :].flatten(-2), layer.weight, layer.bias)


@pytest.mark.parametrize("shape", [(12, 3), (2, 12, 3)])
@pytest.mark.parametrize("bias", [True, False])
def test_is_gather_concatenate_multiply(indices, shape, bias):
    layer = SpiralConv(3, 4, indices, bias=bias).double()
    x = torch.randn(shape, dtype=torch.float64)
    # float64: only the order of 15 additions may differ
    torch.testing.assert_close(layer(x), gather_and_multiply(layer, x), rtol=1e-12, atol=1e-13)


def test_some_rows_of_the_table_give_the_same_rows_of_the_output(indices):
    keep = torch.tensor([0, 3, 11])
    full = SpiralConv(3, 4, indices)
    some = SpiralConv(3, 4, indices[keep], num_sources=12)
    some.load_state_dict(full.state_dict())
    x = torch.randn(2, 12, 3)
    torch.testing.assert_close(some(x), full(x)[:, keep])
    assert some.num_targets == 3


def test_the_mesh_is_not_saved(indices, tmp_path):
    layer = SpiralConv(3, 4, indices)
    assert {name: list(v.shape) for name, v in layer.state_dict().items()} == {
        "weight": [4, 15],
        "bias": [4],
    }
    torch.save(layer.state_dict(), tmp_path / "layer.pt")
    other = SpiralConv(3, 4, indices.numpy())
    x = torch.randn(12, 3)
    assert not torch.equal(other(x), layer(x))
    other.load_state_dict(torch.load(tmp_path / "layer.pt", weights_only=True))
    assert torch.equal(other(x), layer(x))


def test_initialised_like_linear(indices):
    layer = SpiralConv(40, 50, indices)
    bound = 200**-0.5
    for values in (layer.weight, layer.bias):
        assert values.abs().max() <= bound
        assert values.abs().max() > 0.9 * bound
    # uniform on ±bound; 10,000 draws: the deviation of the deviation is below 1 %
    assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
    before = layer.weight.detach().clone()
    layer.reset_parameters()
    assert not torch.equal(before, layer.weight)


def test_repr_is_one_line(indices):
    assert repr(SpiralConv(3, 4, indices)) == "SpiralConv(3, 4, indices=[12, 5])"
    assert repr(SpiralConv(3, 4, indices, False)) == (
        "SpiralConv(3, 4, indices=[12, 5], bias=False)"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"indices": torch.zeros(4, 2, dtype=torch.int32)},
            "indices must be int64, got torch.int3",
        ),
        ({"indices": np.zeros((4, 2))}, "indices must be int64, got torch.float64"),
        ({"indices": torch.zeros(4, dtype=torch.int64)}, r"shape \[M, S\].*got \[4\]"),
        ({"indices": torch.zeros(4, 0, dtype=torch.int64)}, r"at least one slot, got \[4, 0\]"),
        ({"indices": torch.tensor([[0, 2]])}, r"must lie in \[-1, 1\), got values in \[0, 2\]"),
        ({"indices": torch.tensor([[0, -2]])}, r"must lie in \[-1, 1\), got values in \[-2, 0\]"),
        ({"indices": torch.tensor([[0, 2]]), "num_sources": 2}, r"must lie in \[-1, 2\)"),
        ({"indices": torch.zeros(0, 3, dtype=torch.int64)}, "num_sources must be a positive"),
        ({"in_channels": 0}, "in_channels must be a positive integer, got 0"),
        ({"out_channels": 1.5}, "out_channels must be a positive integer, got 1.5"),
    ],
)
def test_bad_arguments(change, message):
    arguments = {"in_channels": 3, "out_channels": 4, "indices": torch.tensor([[0, -1]])}
    SpiralConv(**arguments)
    with pytest.raises(ValueError, match="SpiralConv: .*" + message):
        SpiralConv(**arguments | change)


def test_second_derivatives(indices):
    layer = SpiralConv(2, 3, indices).double()
    x = torch.randn(2, 12, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x, w: _with_weight(layer, x, w), (x, layer.weight))


def _with_weight(layer, x, weight):
    return torch.func.functional_call(layer, {"weight": weight}, (x,)).sin()


SPIRALS = torch.randint(-1, 12, (12, 5), generator=torch.Generator().manual_seed(0))


def meshes(batch=3):
    return (torch.randn(batch, 12, 3, generator=torch.Generator().manual_seed(1)).double(),)


class TestSpiralConv(LayerContract):
    kinds = (SpiralConv,)
    cases: ClassVar = {
        "batch": Case(lambda: SpiralConv(3, 4, SPIRALS), meshes),
        "one mesh, some rows": Case(
            lambda: SpiralConv(3, 4, SPIRALS[::3].numpy(), bias=False, num_sources=12),
            lambda: (meshes()[0][0],),
        ),
    }
    dynamic = ({0: torch.export.Dim.DYNAMIC},)

    @staticmethod
    def sized(size):
        return meshes(size)
