"""Convolutions on the edges of a mesh against the same layers of PyG, with the same weights.

Ours is given ``[B, V, C]`` and keeps the graph of so many copies of the mesh. PyG is given the
nodes of all copies and their ``edge_index``, made beforehand, and edge labels where it takes them.
The mesh is a sphere of 2,562 vertices. EdgeConv has a benchmark of its own, bench_edge_conv.py.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch_geometric.nn as pyg
import trimesh
from graphs import NEAR, ratio_target, settle, versions
from harness import BOTH, FORWARD, MIB, Benchmark, Contender, Problem, Workload, main, upstream
from inputs import normal, to_float64
from torch import Tensor

from polygraph.nn.mesh_conv import KERNELS, MESH_CONVS, MeshConv
from polygraph.nn.mesh_graph import MeshGraph

LABELLED = {"ecc": pyg.NNConv.forward, "monet": pyg.GMMConv.forward}


def workload(name: str, B: int, C: int, D: int, subdivisions: int = 4) -> Workload:
    """A layer on B meshes."""
    vertices = 10 * 4**subdivisions + 2
    sizes = {"name": name, "B": B, "C": C, "D": D, "subdivisions": subdivisions}
    return Workload(f"{name}, {B} x {vertices}, C {C}, D {D}", sizes)


NAMES = ("chebyshev", "gat", "feastnet", "monet", "ecc")
WORKLOADS = [workload(name, 16, 16, D) for name in NAMES for D in (16, 3)]
TINY = workload("gat", 2, 4, 4, 1).sizes


def theirs(name: str, layer: Any, x: Tensor, edge_index: Tensor, labels: Tensor) -> Tensor:
    """PyG's layer on nodes ``[B * V, C]``."""
    if name in LABELLED:
        out: Tensor = LABELLED[name](layer, x, edge_index, labels)
        return out
    return layer(x, edge_index)  # type: ignore[no-any-return]


def shaky_scores(made: MeshConv, x: Tensor, edge_index: Tensor) -> Tensor:
    """Targets with an attention score at the kink of its leaky ReLU."""
    layer = made.layer
    values = layer.lin(x).view(len(x), KERNELS, -1)
    near, far = ((values * a).sum(-1) for a in (layer.att_dst[0], layer.att_src[0]))
    return edge_index[1, ((near[edge_index[1]] + far[edge_index[0]]).abs() < NEAR).any(1)].unique()


def make(sizes: dict[str, Any], device: str) -> Problem:
    """Ours, PyG's, and the product with all matrices alone, given what it multiplies."""
    name, B, C, D, subdivisions = sizes.values()
    sphere = trimesh.creation.icosphere(subdivisions=subdivisions)
    mesh = MeshGraph(sphere.faces, sphere.vertices)
    V = mesh.num_sources
    torch.manual_seed(0)
    made = MESH_CONVS[name](C, D, mesh=mesh)
    exact_layer = copy.deepcopy(made.layer).double()
    offset = V * torch.arange(B)[:, None, None]
    edges = (mesh.edge_index + offset).transpose(0, 1).flatten(1)
    labels = mesh.labels.repeat(B, 1)
    x = normal(B * V, C, seed=0, device="cpu")
    if name == "gat":
        exact = copy.deepcopy(made).double()
        loops = torch.arange(B * V).expand(2, -1)
        every = torch.cat([edges, loops], 1)
        with torch.no_grad():
            x = settle(x, lambda x: shaky_scores(exact, x.double(), every))
    made = made.to(device)
    nodes = x.to(device).requires_grad_()
    edge_index, features = edges.to(device), labels.to(device)
    parameters = list(made.parameters())

    def definition() -> tuple[Tensor, list[Tensor]]:
        (leaf,) = to_float64(nodes)
        leaves = [leaf, *exact_layer.parameters()]
        out = theirs(name, exact_layer, leaf, edges, labels.double())
        grads = torch.autograd.grad(out, leaves, upstream(out.shape, device).cpu().double())
        return out.detach(), list(grads)

    def ours() -> Tensor:
        return made(nodes.view(B, V, C)).view(B * V, D)

    def peer() -> Tensor:
        return theirs(name, made.layer, nodes, edge_index, features)

    count = len(made.layer.lins) if name == "chebyshev" else KERNELS
    z = normal(B * V, count * C, seed=2, device=device).requires_grad_()
    weight = normal(count * C, D, seed=3, device=device).requires_grad_()
    leaves = [nodes, *parameters]
    return Problem(
        {
            "ours": Contender("ours", ours, leaves),
            "PyG": Contender("peer", peer, leaves),
            "product alone": Contender("floor", lambda: z @ weight, [z, weight], checked=()),
        },
        definition,
        (B * V, D),
        buffer_mib=edges.shape[1] * (C * D if name == "ecc" else count * D) * 4 / MIB,
        notes=lambda: {"versions": versions()},
    )


TARGETS = [
    ratio_target("PyG", passes, device, 3)
    for passes in (FORWARD, BOTH)
    for device in ("cpu", "cuda")
]


if __name__ == "__main__":
    main(Benchmark("mesh_conv", WORKLOADS, make, [WORKLOADS[2].name], TINY, TARGETS))
