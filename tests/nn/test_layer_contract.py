"""The contract of layers: that every layer has one, and that it finds what it should."""

import importlib
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from support.layer_calls import Case
from support.layer_contract import LayerContract

from polygraph import nn
from polygraph.nn import mesh_conv


def contracts(kind=LayerContract):
    """All descendants."""
    return [c for child in kind.__subclasses__() for c in (child, *contracts(child))]


def test_every_layer_has_a_contract():
    """A new layer of `polygraph.nn` gets one in its test file."""
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        importlib.import_module(f"nn.{path.stem}")
    covered = {kind for contract in contracts() for kind in contract.kinds}
    layers = [getattr(nn, name) for name in nn.__all__]
    layers += mesh_conv.MESH_CONVS.values()
    modules = {k for k in layers if isinstance(k, type) and issubclass(k, torch.nn.Module)}
    # Not used on its own, and what is no layer but the edges of some.
    assert modules - covered == {nn.PolynomialBlock, nn.MeshGraph}


class Deaf(torch.nn.Linear):
    """Computes with another layer's weight, and does not call it."""

    def __init__(self):
        super().__init__(3, 3)
        self.inner = torch.nn.Linear(3, 3)

    def forward(self, x):
        return torch.nn.functional.linear(x.sort(0).values, self.inner.weight, self.bias)


class ContractOfDeaf(LayerContract):
    kinds = ()
    cases: ClassVar = {"deaf": Case(Deaf, lambda: (torch.randn(4, 3).double(),))}


@pytest.mark.parametrize("test", ["test_hooks", "test_replaced_forward"])
def test_contract_hears_who_is_deaf(test):
    """A layer that leaves out a call fails."""
    options = {"hook": "forward"} if test == "test_hooks" else {}
    with pytest.raises(AssertionError, match="inner"):
        getattr(ContractOfDeaf(), test)(case="deaf", **options)
