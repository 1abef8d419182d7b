"""Edge-conditioned convolutions: NNConv against PyG's, the lightweight one against its formula.

NNConv is given nodes, ``edge_index`` and edge features; what ours makes of the graph is part of its
call. The lightweight convolution is given the table of a non-local image layer.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch_geometric
from graphs import (
    NEAR,
    by_pieces,
    cloud_table,
    edges_of,
    pyg_contenders,
    ratio_target,
    settle,
    shaky_ends,
    versions,
)
from harness import BOTH, FORWARD, MIB, Benchmark, Contender, Problem, Target, Workload, main
from inputs import normal, to_float64
from torch import Tensor
from torch.nn import functional

from polygraph import ops
from polygraph.nn import LightECConv, NNConv
from polygraph.ops.graph import graph_from_table


def workload(B: int, N: int, C: int, D: int, H: int, K: int) -> Workload:
    """NNConv on clouds with K neighbours a point."""
    name = f"{B} x {N}, C {C}, D {D}, H {H}, K {K}"
    return Workload(name, {"B": B, "N": N, "C": C, "D": D, "H": H, "K": K})


def light(B: int, side: int, C: int, H: int, K: int, R: int, replicas: int) -> dict[str, int]:
    """The lightweight convolution on image patches, each of which is a graph."""
    return {"B": B, "side": side, "C": C, "D": C, "H": H, "K": K, "R": R, "replicas": replicas}


LIGHT = light(6, 42, 132, 132, 16, 11, 3)
WORKLOADS = [
    workload(1, 1024, 66, 66, 66, 8),
    workload(2, 1024, 66, 66, 66, 32),
    workload(1, 256, 132, 132, 132, 8),
    workload(8, 64, 264, 264, 264, 8),
    Workload(
        "light, 6 x 42 x 42, C 132, D 132, H 132, K 16, R 11, 3 replicas",
        LIGHT,
        tiny=light(2, 8, 12, 12, 4, 3, 3),
    ),
]
TINY = workload(1, 64, 8, 8, 8, 4).sizes

MATRICES = 1 << 13  # edges whose matrices in float64 exist at a time, at C = D = 66
AT_ONCE = 1 << 14  # edges of the direct lightweight form whose factors exist at a time


def make(sizes: dict[str, Any], device: str) -> Problem:
    """Of either kind."""
    return make_light(sizes, device) if "R" in sizes else make_ecc(sizes, device)


# ---- NNConv ----


def make_ecc(sizes: dict[str, Any], device: str) -> Problem:
    """Ours, PyG's layer, the plain form with products per node, and its last product alone."""
    B, N, C, D, H, K = (sizes[n] for n in ("B", "N", "C", "D", "H", "K"))
    nodes, edges = B * N, B * N * K
    exact_edges = edges_of(cloud_table(B, N, K, "cpu"))
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(H, H), torch.nn.ReLU(), torch.nn.Linear(H, C * D))
    options = {"aggr": "mean", "root_weight": False, "bias": False}
    ours = NNConv(C, D, network, **options)
    theirs = torch_geometric.nn.NNConv(C, D, network, **options)
    exact_network = copy.deepcopy(network).double()

    def shaky(features: Tensor) -> Tensor:
        return (exact_network[0](features.double()).abs() < NEAR).any(1).nonzero()[:, 0]

    with torch.no_grad():
        exact_features = settle(normal(edges, H, seed=1, device="cpu"), shaky)
    features, edge_index = exact_features.to(device), exact_edges.to(device)
    x = normal(nodes, C, seed=0, device=device).requires_grad_()
    network.to(device)
    leaves = [x, *network.parameters()]

    def by_node() -> Tensor:
        phi = network[1](network[0](features))
        phi = torch.cat([phi, phi.new_ones(edges, 1)], 1).view(nodes, K, H + 1)
        near = x.index_select(0, edge_index[0]).view(nodes, K, C)
        z = torch.bmm(phi.transpose(1, 2), near)
        last = network[2]
        weight = torch.cat([last.weight.t().reshape(H, C * D), last.bias[None]])
        return z.flatten(1) @ weight.view((H + 1) * C, D) / K

    def definition() -> tuple[Tensor, list[Tensor]]:
        (exact,) = to_float64(x)
        source, target = exact_edges

        def message(part: slice) -> Tensor:
            theta = exact_network(exact_features[part].double()).view(-1, C, D)
            return torch.bmm(exact[source[part], None], theta)[:, 0] / K

        piece = max(1, MATRICES * 66 * 66 // (C * D))
        exact_leaves = [exact, *exact_network.parameters()]
        return by_pieces(message, exact_leaves, target, (nodes, D), device, piece)

    peers, absent = pyg_contenders(theirs, x, edge_index, [features], leaves)
    z = normal(nodes, (H + 1) * C, seed=2, device=device).requires_grad_()
    weight = normal((H + 1) * C, D, seed=3, device=device).requires_grad_()
    return Problem(
        {
            "ours": Contender("ours", lambda: ours(x, edge_index, features), leaves),
            **peers,
            "per node in plain PyTorch": Contender("peer", by_node, leaves),
            "product with W alone": Contender("floor", lambda: z @ weight, [z, weight], checked=()),
        },
        definition,
        (nodes, D),
        buffer_mib=edges * C * D * 4 / MIB,
        notes=lambda: {"absent": absent, "versions": versions()},
    )


# ---- the lightweight convolution ----


def light_messages(layer: LightECConv, x: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """``[e, D]``: the formula of each edge as it stands, with both factors of its matrix made."""
    left, right, kappa = layer.filter()
    lin, near = layer.nn.lin, x[source]
    phi = functional.leaky_relu(functional.linear(near - x[target], lin.weight, lin.bias), 0.2)
    phi = torch.cat([phi, phi.new_ones(len(phi), 1)], 1)
    edges, rank, width = len(phi), *kappa.shape
    theta_left = functional.linear(phi, left.view(-1, width)).view(edges, rank, -1)
    theta_right = functional.linear(phi, right.view(-1, width)).view(edges, rank, -1)
    found = torch.bmm(theta_right, near[:, :, None])[:, :, 0]
    factor = functional.linear(phi, kappa) * found
    return torch.bmm(factor[:, None], theta_left)[:, 0]


def make_light(sizes: dict[str, Any], device: str) -> Problem:
    """Ours, the direct form by pieces, ours with full matrices, and the products of nodes alone."""
    B, side, C, D, H, K, R, replicas = sizes.values()
    N = side * side
    nodes, edges = B * N, B * N * K
    pixels = normal(B, N, 3, seed=4, device="cpu")
    table = ops.knn(pixels, K, grid=(side, side), exclude_radius=1)[0]
    exact_edges = edges_of(table)
    torch.manual_seed(0)
    layer = LightECConv(C, D, hidden=H, rank=R, replicas=replicas, bias=False)
    exact_layer = copy.deepcopy(layer).double()
    lin = exact_layer.nn.lin

    def shaky(x: Tensor) -> Tensor:
        v = x.double() @ lin.weight.T
        return shaky_ends(lin.bias - v, v, exact_edges)

    with torch.no_grad():
        x = settle(normal(nodes, C, seed=0, device="cpu"), shaky)
    table, edge_index = table.to(device), exact_edges.to(device)
    x = x.to(device).requires_grad_()
    layer.to(device)
    leaves = [x, *layer.parameters()]
    full = LightECConv(C, D, hidden=H, rank=R, replicas=1, bias=False).to(device)

    def ours() -> Tensor:
        return layer(x, graph_from_table(table, N))

    def dense() -> Tensor:
        return full(x, graph_from_table(table, N))

    def direct() -> Tensor:
        found = [light_messages(layer, x, *part) for part in edge_index.split(AT_ONCE, 1)]
        return torch.cat(found).view(nodes, K, D).mean(1)

    def definition() -> tuple[Tensor, list[Tensor]]:
        (exact,) = to_float64(x)

        def message(part: slice) -> Tensor:
            return light_messages(exact_layer, exact, *exact_edges[:, part]) / K

        exact_leaves = [exact, *exact_layer.parameters()]
        return by_pieces(message, exact_leaves, exact_edges[1], (nodes, D), device, MATRICES)

    right = normal(C, R * H, seed=5, device=device)
    grad_projected = normal(nodes, R * H, seed=5, device=device)
    gathered = normal(nodes, R * H, seed=6, device=device)
    left = normal(R * H, D, seed=7, device=device)
    grad = torch.ones_like(x.detach()[:, :1]).expand(-1, D).contiguous()

    def products() -> Tensor:
        x.detach() @ right
        return gathered @ left

    def products_both() -> Tensor:
        x.detach() @ right, grad_projected @ right.T, x.detach().T @ grad_projected
        return gathered @ left, grad @ left.T, gathered.T @ grad

    alone = Contender("floor", products, [], checked=(), both=products_both)
    return Problem(
        {
            "ours": Contender("ours", ours, leaves),
            "direct form": Contender("peer", direct, leaves),
            "full matrices": Contender("peer", dense, [x, *full.parameters()], checked=()),
            "node products alone": alone,
        },
        definition,
        (nodes, D),
        buffer_mib=edges * R * (C + D) * 4 / MIB,
    )


# ---- the targets ----


def memory_ratio(row: dict[str, Any]) -> float | None:
    """Peak of PyG's NNConv in units of ours."""
    peaks = row.get("memory_mib", {})
    return peaks["PyG"] / peaks["ours"] if "PyG" in peaks else None


def over_products(row: dict[str, Any]) -> float | None:
    """Time in units of the node products."""
    return row["ratios"].get("ours / node products alone", {}).get("median")


def peak(row: dict[str, Any]) -> float | None:
    """Peak of ours in MiB."""
    return row.get("memory_mib", {}).get("ours")


def light_target(
    text: str, value: Callable[[dict[str, Any]], float | None], which: str, most: float
) -> Target:
    """A bound in the rows of the lightweight convolution of a pass, on the CPU."""

    def measured(row: dict[str, Any]) -> float | None:
        here = row["pass"] == which and "R" in row["sizes"] and row["device"] == "cpu"
        return value(row) if here else None

    return Target(f"{text}, {which}, at most {most:g}", measured, at_most=most)


TARGETS = [
    ratio_target("PyG", FORWARD, "cpu", 15),
    ratio_target("PyG", BOTH, "cpu", 10),
    ratio_target("PyG", FORWARD, "cuda", 10),
    ratio_target("PyG", BOTH, "cuda", 10),
    *(ratio_target("direct form", p, d, 10) for p in (FORWARD, BOTH) for d in ("cpu", "cuda")),
    light_target("ours / node products alone", over_products, FORWARD, 2.5),
    light_target("ours / node products alone", over_products, BOTH, 3.5),
    light_target("peak MiB", peak, FORWARD, 45),
    light_target("peak MiB", peak, BOTH, 300),
    Target("peak MiB of PyG / ours, at least 50", memory_ratio, at_least=50),
]


if __name__ == "__main__":
    quick = [WORKLOADS[0].name]
    main(Benchmark("ecc", WORKLOADS, make, quick, TINY, TARGETS))
