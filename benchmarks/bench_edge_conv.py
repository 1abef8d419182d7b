"""EdgeConv against PyG's layer, and against the same split into node products in plain PyTorch.

Every contender is given nodes and ``edge_index``; what ours makes of the graph is part of its call.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch_geometric
from graphs import (
    NEAR,
    by_pieces,
    cloud_table,
    edges_of,
    power_law,
    pyg_contenders,
    ratio_target,
    settle,
    shaky_ends,
    versions,
)
from harness import BOTH, FORWARD, MIB, Benchmark, Contender, Problem, Workload, main
from inputs import normal, to_float64
from torch import Tensor
from torch.nn import functional

from polygraph.nn import EdgeConv


def workload(B: int, N: int, C: int, D: int, K: int, aggr: str, norm: bool = False) -> Workload:
    """Clouds with K neighbours a point; with ``norm`` a BatchNorm in training mode."""
    name = f"{B} x {N}, C {C}, D {D}, K {K}, {aggr}" + (", BatchNorm" if norm else "")
    sizes = {"B": B, "N": N, "C": C, "D": D, "K": K, "edges": B * N * K, "aggr": aggr}
    return Workload(name, sizes | {"norm": norm})


def irregular(N: int, edges: int, C: int, D: int, aggr: str) -> Workload:
    """One graph with power-law degrees."""
    name = f"power law, {N} nodes, {edges} edges, C {C}, D {D}, {aggr}"
    sizes = {"B": 1, "N": N, "C": C, "D": D, "K": -1, "edges": edges, "aggr": aggr, "norm": False}
    return Workload(name, sizes)


WORKLOADS = [
    workload(16, 1024, 64, 64, 20, "max"),
    workload(16, 1024, 64, 64, 20, "max", norm=True),
    workload(8, 1024, 66, 66, 8, "sum"),
    workload(8, 1024, 66, 66, 32, "sum"),
    workload(8, 256, 132, 132, 16, "sum"),
    irregular(100_000, 1_000_000, 64, 64, "sum"),
]
TINY = workload(2, 64, 8, 8, 4, "max").sizes


def halves(network: torch.nn.Sequential) -> tuple[Tensor, Tensor, Tensor | None]:
    """The first layer's weights of the target and of the source, and its bias."""
    linear: Any = network[0]
    C = linear.in_features // 2
    of_source = linear.weight[:, C:]
    return linear.weight[:, :C] - of_source, of_source, linear.bias


def shaky_nodes(x: Tensor, network: Any, edge_index: Tensor, sizes: dict[str, Any]) -> Tensor:
    """Nodes to move: a ReLU or a maximum of theirs is too close to call."""
    of_target, of_source, bias = halves(network)
    u, v = functional.linear(x.double(), of_target, bias), x.double() @ of_source.T
    if sizes["aggr"] != "max":
        return shaky_ends(u, v, edge_index)
    nodes, neighbours = len(x), edge_index[0].view(len(x), -1)
    near = v[neighbours]
    best, place = near.topk(2, dim=1)
    edge, channel = (best[:, 0] - best[:, 1] < NEAR).nonzero().T
    tied = neighbours[edge, place[edge, 0, channel]]
    # BatchNorm moves the ReLU's kink to the mean of all edges.
    kink = u.mean(0) + near.mean((0, 1)) if sizes["norm"] else 0
    switched = torch.arange(nodes)[((u + best[:, 0] - kink).abs() < NEAR).any(1)]
    return torch.cat([tied, switched]).unique()


def make(sizes: dict[str, Any], device: str) -> Problem:
    """Ours, PyG's layer, the split in PyTorch, and the node products alone."""
    B, N, C, D, K, edges = (sizes[n] for n in ("B", "N", "C", "D", "K", "edges"))
    aggr, norm, nodes = sizes["aggr"], sizes["norm"], B * N
    if K > 0:
        edge_index = edges_of(cloud_table(B, N, K, "cpu"))
    else:
        edge_index = power_law(N, edges, "cpu")
    torch.manual_seed(0)
    # A bias in front of a BatchNorm has no gradient that could be compared.
    layers = [torch.nn.Linear(2 * C, D, bias=not norm), torch.nn.ReLU()]
    if norm:
        layers.insert(1, torch.nn.BatchNorm1d(D))
    network = torch.nn.Sequential(*layers)
    ours, theirs = EdgeConv(network, aggr), torch_geometric.nn.EdgeConv(network, aggr)
    exact_network = copy.deepcopy(network).double()
    x = normal(nodes, C, seed=0, device="cpu")
    with torch.no_grad():
        x = settle(x, lambda x: shaky_nodes(x, exact_network, edge_index, sizes))
    exact_edges = edge_index
    edge_index, x = edge_index.to(device), x.to(device).requires_grad_()
    network.to(device)
    leaves = [x, *network.parameters()]

    def split() -> Tensor:
        of_target, of_source, bias = halves(network)
        u, v = functional.linear(x, of_target, bias), functional.linear(x, of_source)
        source, target = edge_index
        value = u.index_select(0, target) + v.index_select(0, source)
        for step in network[1:]:
            value = step(value)
        out = value.new_zeros(nodes, D)
        if aggr == "max":
            places = target[:, None].expand(-1, D)
            return out.scatter_reduce(0, places, value, "amax", include_self=False)
        return out.index_add(0, target, value)

    def definition() -> tuple[Tensor, list[Tensor]]:
        (exact,) = to_float64(x)
        source, target = exact_edges

        def message(part: slice) -> Tensor:
            x_i, x_j = exact[target[part]], exact[source[part]]
            return exact_network(torch.cat([x_i, x_j - x_i], 1))

        exact_leaves = [exact, *exact_network.parameters()]
        if aggr != "max":
            return by_pieces(message, exact_leaves, target, (nodes, D), device)

        # All edges at once, for the statistics. The largest of each target stand for its edges.
        def largest(_: slice) -> Tensor:
            return message(slice(None)).view(nodes, K, D).amax(1)

        targets = torch.arange(nodes)
        return by_pieces(largest, exact_leaves, targets, (nodes, D), device, piece=nodes)

    peers, absent = pyg_contenders(theirs, x, edge_index, [], leaves)
    stacked = torch.cat(halves(network)[:2]).detach().requires_grad_()
    alone = x.detach().clone().requires_grad_()

    def products() -> Tensor:
        return functional.linear(alone, stacked)

    return Problem(
        {
            "ours": Contender("ours", lambda: ours(x, edge_index), leaves),
            **peers,
            "split in plain PyTorch": Contender("peer", split, leaves),
            "node products alone": Contender("floor", products, [alone, stacked], checked=()),
        },
        definition,
        (nodes, D),
        buffer_mib=edges * 2 * C * 4 / MIB,
        notes=lambda: {"absent": absent, "versions": versions()},
    )


TARGETS = [
    ratio_target("PyG", FORWARD, "cpu", 15),
    ratio_target("PyG", BOTH, "cpu", 10),
    ratio_target("PyG", FORWARD, "cuda", 10),
    ratio_target("PyG", BOTH, "cuda", 10),
]


if __name__ == "__main__":
    quick = [WORKLOADS[0].name, WORKLOADS[2].name]
    main(Benchmark("edge_conv", WORKLOADS, make, quick, TINY, TARGETS))
