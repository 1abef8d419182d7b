"""What the benchmarks of graph convolutions share: graphs, inputs, definitions, PyG's forms."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
import torch_geometric
from harness import Contender, Target, upstream
from inputs import normal
from torch import Tensor
from torch_geometric import EdgeIndex

from polygraph import ops

NEAR = 1e-5  # values of about 1 that float32 may not tell apart, whatever the order of a sum
PIECE = 1 << 15  # edges of a definition at a time: their matrices in float64 fill memory


# ---- graphs ----


def cloud_table(samples: int, points: int, k: int, device: str) -> Tensor:
    """The k nearest of points in three dimensions, themselves among them: ``[B, N, k]``."""
    return ops.knn(normal(samples, points, 3, seed=11, device="cpu"), k)[0].to(device)


def edges_of(table: Tensor) -> Tensor:
    """PyG's ``edge_index [2, B N k]`` of a table, in the order of the targets."""
    samples, points, k = table.shape
    source = table + torch.arange(samples, device=table.device)[:, None, None] * points
    target = torch.arange(samples * points, device=table.device).repeat_interleave(k)
    return torch.stack([source.flatten(), target])


def power_law(nodes: int, edges: int, device: str, exponent: float = 2.5) -> Tensor:
    """``edge_index [2, E]`` in no order, degrees falling as ``d ** -exponent`` on both sides.

    Both ends of every edge are drawn with given odds (Chung and Lu), so there are self-loops,
    multi-edges and isolated nodes; numbers of nodes say nothing of their degrees.
    """
    generator = torch.Generator().manual_seed(12)
    odds = torch.arange(1, nodes + 1, dtype=torch.float64) ** (-1 / (exponent - 1))
    bounds = odds.cumsum(0)
    drawn = torch.rand(2, edges, generator=generator, dtype=torch.float64) * bounds[-1]
    rank = torch.searchsorted(bounds, drawn).clamp(max=nodes - 1)
    return torch.randperm(nodes, generator=generator)[rank].to(device)


# ---- inputs at which every contender has the same derivatives ----


def settle(x: Tensor, shaky: Callable[[Tensor], Tensor]) -> Tensor:
    """Move rows of ``x`` a little until ``shaky`` names none.

    Where rounding decides which side of a kink a value lies on, derivatives of right contenders
    differ by as much as one edge contributes, which is far more than rounding.
    """
    x = x.clone()
    generator = torch.Generator().manual_seed(13)
    for _ in range(100):
        rows = shaky(x)
        if not len(rows):
            return x
        x[rows] += 1e-3 * torch.randn(len(rows), x.shape[1], generator=generator)
    raise SystemExit("no inputs away from the kinks were found; nothing was timed")


def shaky_ends(u: Tensor, v: Tensor, edge_index: Tensor) -> Tensor:
    """One end of every edge whose ``u_i + v_j`` is almost 0: the one with fewer edges."""
    degree = torch.bincount(edge_index.flatten(), minlength=len(v))
    found = []
    for part in edge_index.split(PIECE, 1):
        close = ((u[part[1]] + v[part[0]]).abs() < NEAR).any(1)
        source, target = part[:, close]
        found.append(torch.where(degree[source] < degree[target], source, target))
    return torch.cat(found).unique()


# ---- definitions ----


def by_pieces(
    message: Callable[[slice], Tensor],
    leaves: list[Tensor],
    target: Tensor,
    shape: tuple[int, int],
    device: str,
    piece: int = PIECE,
) -> tuple[Tensor, list[Tensor]]:
    """Sum over each target of ``message``, ``[e, D]`` for a slice of edges, and its gradients."""
    out = torch.zeros(shape, dtype=torch.float64)
    grads = [torch.zeros_like(leaf) for leaf in leaves]
    above = upstream(shape, device).cpu().double()
    for first in range(0, len(target), piece):
        edges = slice(first, first + piece)
        value = message(edges)
        out.index_add_(0, target[edges], value.detach())
        parts = torch.autograd.grad(value, leaves, above[target[edges]])
        for total, part in zip(grads, parts, strict=True):
            total += part
    return out, grads


# ---- PyG, with and without torch-scatter ----


@contextlib.contextmanager
def torch_scatter_switched(on: bool) -> Any:
    """What PyG looks at wherever it has the choice."""
    before = torch_geometric.typing.WITH_TORCH_SCATTER
    torch_geometric.typing.WITH_TORCH_SCATTER = on
    try:
        yield
    finally:
        torch_geometric.typing.WITH_TORCH_SCATTER = before


def pyg_contenders(
    layer: torch.nn.Module, x: Tensor, edge_index: Tensor, rest: list[Tensor], leaves: list[Tensor]
) -> tuple[dict[str, Contender], dict[str, str]]:
    """PyG's layer as two peers, and why one of them is absent.

    Given a plain ``edge_index``, PyG adds up and takes maxima on a CPU by PyTorch's own scatters,
    torch-scatter or not. It calls torch-scatter in deterministic mode, on a sorted
    `EdgeIndex`: that is the second peer, and its graph is sorted beforehand.
    """

    def plain() -> Tensor:
        with torch_scatter_switched(False):
            return layer(x, edge_index, *rest)

    found = {"PyG": Contender("peer", plain, leaves)}
    try:
        importlib.import_module("torch_scatter")
    except ImportError as error:
        return found, {"PyG + torch-scatter": f"not installed: {error}"}
    order = edge_index[1].argsort(stable=True)
    graph = EdgeIndex(edge_index[:, order], sparse_size=(len(x), len(x)), sort_order="col")
    graph.fill_cache_()
    sorted_rest = [part[order] for part in rest]

    def segmented() -> Tensor:
        aggregation: Any = layer.aggr_module
        before, aggregation._deterministic = aggregation._deterministic, True
        try:
            with torch_scatter_switched(True):
                return layer(x, graph, *sorted_rest)
        finally:
            aggregation._deterministic = before

    found["PyG + torch-scatter"] = Contender("peer", segmented, leaves)
    return found, {}


def versions() -> dict[str, str]:
    """Of the peers that are installed."""
    found = {}
    for package in ("torch-geometric", "torch-scatter"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


# ---- the targets ----


def ratio_target(peer: str, which: str, device: str, at_least: float) -> Target:
    """A bound on ``peer / ours`` in the rows of a pass and a device."""

    def measured(row: dict[str, Any]) -> float | None:
        if (row["pass"], row["device"]) != (which, device):
            return None
        return row["ratios"].get(f"{peer} / ours", {}).get("median")

    where = "" if device == "cpu" else " on a GPU"
    text = f"{peer} / ours, {which}{where}, at least {at_least:g}"
    return Target(text, measured, at_least=at_least)
