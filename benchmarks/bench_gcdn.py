"""The graph convolutions of one block of GCDN: ours, and the same from PyTorch and PyG.

Three layers on one graph, found at the first, with gradients of features and weights: what a
training step of the published network consists of, five times over. The peer's graph is
``torch.cdist`` with a mask and ``topk``, its layer a PyG `MessagePassing` that makes θ of every
edge, and PyTorch's convolution.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from harness import (
    BOTH,
    FORWARD,
    PASSES,
    Benchmark,
    Contender,
    Problem,
    Target,
    Workload,
    main,
    upstream,
)
from inputs import normal
from torch import Tensor
from torch.nn import functional
from torch_geometric.nn import MessagePassing

from polygraph.nn import NonLocalGraphConv2d

LAYERS = 3
WORKLOADS = [
    Workload("width 33, 2 patches of 32", {"B": 2, "P": 32, "C": 33, "k": 8}),
    Workload("width 132, a patch of 42", {"B": 1, "P": 42, "C": 132, "k": 16}),
]
TINY = {"B": 1, "P": 12, "C": 6, "k": 4}


class EdgeByEdge(MessagePassing):
    """Lightweight ECC as a PyG layer is written: the two matrices of every edge."""

    def __init__(self, layer: NonLocalGraphConv2d) -> None:
        super().__init__(aggr="mean")
        self.layer = layer

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.propagate(edge_index, x=x)

    def message(self, x_i: Tensor, x_j: Tensor) -> Tensor:
        layer, difference = self.layer, x_j - x_i
        phi = functional.leaky_relu(layer.hidden.lin(difference), 0.2)
        phi = functional.pad(phi, (0, 1), value=1.0)
        left, right, kappa = layer.filter()
        theta_right = torch.einsum("eh,rch->erc", phi, right)
        theta_left = torch.einsum("eh,rdh->erd", phi, left)
        inner = torch.einsum("erc,ec->er", theta_right, x_j) * (phi @ kappa.t())
        made = torch.einsum("er,erd->ed", inner, theta_left)
        return made * torch.exp(-difference.square().sum(1, keepdim=True) / layer.delta)


def dense_neighbors(x: Tensor, k: int) -> Tensor:
    """``[B, N, k]`` by all distances and a mask of the window."""
    height, width = x.shape[2:]
    pixels = x.flatten(2).mT
    rows, columns = (
        torch.arange(height).repeat_interleave(width),
        torch.arange(width).repeat(height),
    )
    near = ((rows[:, None] - rows).abs() <= 1) & ((columns[:, None] - columns).abs() <= 1)
    distance = torch.cdist(pixels, pixels).masked_fill(near.to(x.device), float("inf"))
    return distance.topk(k, largest=False).indices


def make(sizes: dict[str, int], device: str) -> Problem:
    """Ours and the peer on the same features, weights and, for the layers, neighbours."""
    B, P, C, k = sizes["B"], sizes["P"], sizes["C"], sizes["k"]
    torch.manual_seed(0)
    layers = [
        NonLocalGraphConv2d(
            C, C, k, "light", delta=10.0, coordinates=False, padding_mode="reflect"
        ).to(device)
        for _ in range(LAYERS)
    ]
    # Neighbours have weights that count, exp(-1) or so: of distant ones they would be tiny, and so
    # would all that depends on them.
    spread = (5 / C) ** 0.5
    x = (normal(B, C, P, P, seed=1, device=device) * spread).requires_grad_()
    table = layers[0].neighbors(x.detach())[0]  # the peer's own may differ where two are as near

    def ours() -> Tensor:
        found, near = x, layers[0].graph.find(x.detach())[0]
        for layer in layers:
            found = functional.leaky_relu(layer(found, near), 0.2)
        return found

    def by_edges(of: list[NonLocalGraphConv2d], features: Tensor, search: bool) -> Tensor:
        if search:
            dense_neighbors(features.detach(), k)
        first = torch.arange(B, device=device)[:, None, None] * P * P
        target = torch.arange(B * P * P, device=device).repeat_interleave(k)
        edges = torch.stack([(table + first).flatten(), target])
        for layer in of:
            nodes = features.permute(0, 2, 3, 1).flatten(0, 2)
            found = EdgeByEdge(layer)(nodes, edges).view(B, P, P, C).permute(0, 3, 1, 2)
            made = (found + layer.local(features)) / 2 + layer.bias[:, None, None]
            features = functional.leaky_relu(made, 0.2)
        return features

    def definition() -> tuple[Tensor, list[Tensor]]:
        exact = [copy.deepcopy(layer).double() for layer in layers]
        wide = x.detach().double().requires_grad_()
        out = by_edges(exact, wide, False)
        leaves = [wide, *(p for layer in exact for p in layer.parameters())]
        grads = torch.autograd.grad(out, leaves, upstream(out.shape, device).double())
        return out.detach(), [grad.cpu() for grad in grads]

    # Of eleven million hidden features one or two lie so near to 0 that float32 has them on the
    # other side of the bend than float64: their gradients differ by more than rounding (1e-3). Ours
    # in float64 and the definition differ by 2e-15 at width 132.
    checked = PASSES if B * P * P * k < 5_000 else (FORWARD,)
    weights = [p for layer in layers for p in layer.parameters()]
    contenders = {
        "ours": Contender("ours", ours, [x, *weights], checked),
        "PyTorch and PyG": Contender(
            "peer", lambda: by_edges(layers, x, True), [x, *weights], checked
        ),
    }
    return Problem(contenders, definition, (B, C, P, P))


def peer_ratio(row: dict[str, Any]) -> float | None:
    """How many times as long the peer takes, of a training step."""
    if row["pass"] != BOTH:
        return None
    return next((v["median"] for n, v in row.get("ratios", {}).items() if "/ ours" in n), None)


def memory_ratio(row: dict[str, Any]) -> float | None:
    """How many times as much memory the peer takes."""
    peaks = row.get("memory_mib")
    return (
        None if peaks is None or row["pass"] != BOTH else peaks["PyTorch and PyG"] / peaks["ours"]
    )


TARGETS = [
    Target("a training step, PyTorch and PyG / ours", peer_ratio, at_least=5),
    Target("memory of it, PyTorch and PyG / ours", memory_ratio, at_least=10),
]

if __name__ == "__main__":
    main(
        Benchmark(
            "gcdn",
            WORKLOADS,
            make,
            quick=["width 33, 2 patches of 32"],
            tiny=TINY,
            targets=TARGETS,
            passes=PASSES,
        )
    )
