"""What `gpu_smoke.py` gives to the operators: a call to check, numbers, tables and graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from polygraph.ops import Graph, graph_from_coo

WIDE = (torch.float32, torch.float64)
HALF = (torch.float16, torch.bfloat16)
ALL = (*WIDE, *HALF)
F32 = (torch.float32,)

# Numbers in a row: 3 and 5 are never read in packs; 4 is a pack of float32, but not of half types
# in the kernels that read 16 bytes; 16 is whole packs of every dtype.
NARROW, FOUR, PACKED = 5, 4, 16
HUB = 2000  # edges of a node that has most of them


@dataclass(frozen=True)
class Check:
    """One call, made on two devices and compared.

    Attributes:
        name: printed, and searched by ``--only``.
        call: takes the arguments, returns a tensor or a tuple of tensors (None among them is
            passed over).
        arguments: floating tensors are float64 here, and converted to each dtype.
        dtypes: of the floating arguments.
        backward: also compare the gradients of all floating arguments.
        exact: compare every bit, and not within rounding.
        large: more rows than a check under a sanitizer or an emulator has time for.
        terms: of its longest sum, where they are more than a hundred.
        cpu_half: whether the CPU has a kernel for half types.
    """

    name: str
    call: Callable[..., Any]
    arguments: tuple[Any, ...]
    dtypes: tuple[torch.dtype, ...] = ALL
    backward: bool = True
    exact: bool = False
    large: bool = False
    terms: int = 100
    cpu_half: bool = True


# ---- inputs ----


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers, the same everywhere."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def integers(low: int, high: int, *shape: int, seed: int = 0) -> Tensor:
    """Whole numbers in ``[low, high)``."""
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed))


def table(rows: int, slots: int, sources: int, *, hub: bool = False) -> Tensor:
    """A neighbour table with empty slots; with a hub, every row names source 0."""
    index = integers(-1, sources, rows, slots, seed=rows + slots)
    if hub:
        index[:, 0] = 0
    return index


def graph(targets: int, sources: int, edges: int, *, holes: bool = False, seed: int = 0) -> Graph:
    """A graph in the order of its targets; with holes, some slots are empty."""
    target = integers(0, targets, edges, seed=seed).sort().values
    source = integers(-1 if holes else 0, sources, edges, seed=seed + 1)
    return Graph(torch.searchsorted(target, torch.arange(targets + 1)), source)


def hub_graph(nodes: int) -> Graph:
    """Edges in no order, of which so many lead to one node, and as many others come from one."""
    edges = 3 * HUB
    source = integers(0, nodes, edges, seed=5)
    target = integers(0, nodes, edges, seed=6)
    target[:HUB] = 3
    source[HUB : 2 * HUB] = 7
    order = torch.randperm(edges, generator=torch.Generator().manual_seed(7))
    return graph_from_coo(source[order], target[order], nodes, nodes)


GRAPHS: dict[str, tuple[int, int, Graph]] = {  # name -> targets, sources, graph
    "": (60, 50, graph(60, 50, 400)),
    "holes": (60, 50, graph(60, 50, 400, holes=True)),
    "transposed": (60, 50, graph(60, 50, 400, holes=True).with_transposed(50)),
    "hub": (90, 90, hub_graph(90)),
    "no edges": (6, 5, Graph(torch.zeros(7, dtype=torch.int64), integers(0, 1, 0))),
    "no targets": (0, 5, Graph(torch.zeros(1, dtype=torch.int64), integers(0, 1, 0))),
}


def ends(name: str, width: int) -> tuple[Tensor, Tensor, Graph]:
    """u, v and the graph of that name."""
    targets, sources, found = GRAPHS[name]
    return normal(targets, width, seed=10), normal(sources, width, seed=11), found


def differentiated(call: Callable[..., Any], place: int = 0) -> Callable[..., Any]:
    """The gradient of a call's square by one argument: its own gradient is a second derivative."""

    def gradient(*arguments: Any) -> Tensor:
        out = call(*arguments)
        out = out if isinstance(out, Tensor) else out[0]
        leaf = arguments[place].requires_grad_()
        return torch.autograd.grad(out.square().sum(), leaf, create_graph=True)[0]

    return gradient


def flat(arguments: tuple[Any, ...]) -> Iterator[Any]:
    """Arguments, and what lies in tuples among them."""
    for part in arguments:
        if isinstance(part, tuple):
            yield from flat(part)
        else:
            yield part
