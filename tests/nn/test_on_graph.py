"""Graph convolutions as linear maps of polynomials, and in critics."""

from functools import partial
from typing import ClassVar

import pytest
import torch
from support.edge_features import C, D, F, N, edges
from support.layer_calls import Case
from support.layer_contract import LayerContract
from torch.nn import Linear, ReLU, Sequential

from polygraph import nn
from polygraph.analysis.degree import polynomial_degree

DYNAMIC = torch.export.Dim.DYNAMIC


@pytest.mark.parametrize("kind", ["edge-sum", "ecc", "light"])
def test_gradient_penalty_trains(kind):
    """A critic of each layer under WGAN's gradient penalty: second derivatives, no NaN."""
    torch.manual_seed(0)
    critic = Sequential(
        nn.NonLocalGraphConv2d(2, 6, 4, kind, rank=2, replicas=2),
        torch.nn.LeakyReLU(0.2),
        torch.nn.Flatten(),
        Linear(6 * 36, 1),
    )
    optimizer = torch.optim.Adam(critic.parameters(), 1e-3, betas=(0.0, 0.9))
    first = None
    for step in range(120):
        real = torch.randn(4, 2, 6, 6).cumsum(3) / 3
        fake = torch.randn(4, 2, 6, 6)
        mixed = torch.lerp(real, fake, torch.rand(4, 1, 1, 1)).requires_grad_()
        (grad,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
        penalty = (grad.flatten(1).norm(dim=1) - 1).square().mean()
        loss = critic(fake).mean() - critic(real).mean() + 10 * penalty
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        first = float(loss) if step == 0 else first
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p).all() for p in critic.parameters())
    assert float(loss) < first


def on_graph(kind):
    """A factory of linear maps on a fixed graph, for polynomials."""
    edge_index, edge_attr = edges()

    def make(i, o, bias):
        if kind == "edge":
            conv = nn.EdgeConv(Linear(2 * i, o, bias), "mean")
        else:
            conv = nn.NNConv(
                i, o, Sequential(Linear(F, 3), ReLU(), Linear(3, i * o)), "mean", bias=bias
            )
        return nn.OnGraph(conv, edge_index, None if kind == "edge" else edge_attr)

    return make


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("kind", ["edge", "ecc"])
def test_polynomials_over_graph_convolutions(kind, order):
    """NCP over EdgeConv and over ECC is exactly a polynomial of its degree; batches are copies."""
    torch.manual_seed(0)
    made = nn.NCP(on_graph(kind), C, D, order=order, norm="none").double()
    x = torch.randn(N, C).double()
    assert polynomial_degree(made, tuple(x.shape)) == order
    other = torch.randn(N, C).double()
    both = made(torch.stack([x, other]))
    torch.testing.assert_close(both, torch.stack([made(x), made(other)]))


def sets(samples=2):
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(samples, N, C, generator=generator).double(),)


class TestOnGraph(LayerContract):
    kinds = (nn.OnGraph,)
    cases: ClassVar = {
        kind: Case(partial(on_graph(kind), C, D, True), sets) for kind in ("edge", "ecc")
    }
    dynamic = ({0: DYNAMIC},)

    @staticmethod
    def sized(size):
        return sets(size)
