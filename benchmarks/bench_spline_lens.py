"""All affine maps of a batch of images, against passes written by hand, torch.func and captum.

captum, of the extra `peers`, has no offsets and no choices; its gradients and its products of
inputs with gradients must be A and A * x. The floor is one backward pass for each class with
nothing kept of it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from harness import FORWARD, Benchmark, Contender, Problem, Target, Workload, main
from inputs import normal
from torch import Tensor, nn

from polygraph.analysis import SplineLens

WORKLOADS = [
    Workload("256 images, small CNN", {"B": 256, "width": 32, "wanted": "maps"}),
    Workload("256 images, one product", {"B": 256, "width": 32, "wanted": "product"}),
    Workload("256 images, input x gradient", {"B": 256, "width": 32, "wanted": "terms"}),
]
TINY = {"B": 2, "width": 4, "wanted": "maps"}


def network(width: int) -> nn.Module:
    """SmallCNN of the spline papers' code, for CIFAR."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, width, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(2 * width, 4 * width, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4 * width, 10, bias=False),
    ).eval()  # fmt: skip


def make(sizes: dict[str, Any], device: str) -> Problem:
    """A for all classes; one product A v, against a forward pass; or A * x for all classes."""
    net = network(sizes["width"]).to(device)
    x = normal(sizes["B"], 3, 32, 32, seed=0, device=device)
    lens = SplineLens(net)

    def by_hand(net: nn.Module, x: Tensor) -> Tensor:
        with torch.enable_grad():
            at = x.clone().requires_grad_()
            out = net(at)
            rows = [
                torch.autograd.grad(out[:, c].sum(), at, retain_graph=c < 9)[0] for c in range(10)
            ]
        return torch.stack(rows, 1)

    def exact() -> tuple[Tensor, list[Tensor]]:
        return by_hand(network(sizes["width"]).double(), x.cpu().double()), []

    if sizes["wanted"] == "product":
        frozen, v = lens.frozen(x), normal(sizes["B"], 3, 32, 32, seed=1, device=device)
        frozen.offset()

        def product() -> tuple[Tensor, list[Tensor]]:
            A = exact()[0]
            return torch.einsum("bkchw,bchw->bk", A, v.cpu().double()), []

        return Problem(
            {
                "ours": Contender("ours", lambda: frozen.jvp(v), []),
                "forward pass": Contender("floor", lambda: net(x), [], checked=()),
            },
            product,
            (sizes["B"], 10),
        )
    jacobian = torch.func.vmap(torch.func.jacrev(lambda one: net(one[None])[0]))
    if sizes["wanted"] == "terms":
        contenders = {
            "ours": Contender("ours", lambda: lens.affine(x).A * x[:, None], []),
            "passes by hand": Contender("peer", lambda: by_hand(net, x) * x[:, None], []),
        }
        name, arguments = "InputXGradient", {}
    else:
        contenders = {
            "ours": Contender("ours", lambda: lens.affine(x).A, []),
            "passes by hand": Contender("peer", lambda: by_hand(net, x), []),
            "jacrev": Contender("peer", lambda: jacobian(x), []),
        }
        name, arguments = "Saliency", {"abs": False}
    absent = {}
    try:
        attribution = getattr(importlib.import_module("captum.attr"), name)(net)
        contenders[f"captum {name}"] = Contender(
            "peer",
            lambda: torch.stack(
                [attribution.attribute(x, target=c, **arguments) for c in range(10)], 1
            ),
            [],
        )
    except ImportError as error:
        absent[f"captum {name}"] = f"not installed: {error}"

    def definition() -> tuple[Tensor, list[Tensor]]:
        A, none = exact()
        return (A * x.cpu().double()[:, None] if sizes["wanted"] == "terms" else A), none

    return Problem(
        contenders, definition, (sizes["B"], 10, 3, 32, 32), notes=lambda: {"absent": absent}
    )


def ratio_of(label: str) -> Callable[[dict[str, Any]], float | None]:
    """Reads a ratio off the rows that have it."""

    def measured(row: dict[str, Any]) -> float | None:
        found = row["ratios"].get(label)
        return None if found is None else float(found["median"])

    return measured


def memory_ratio(row: dict[str, Any]) -> float | None:
    """The peak of jacrev over ours."""
    peaks = row.get("memory_mib", {})
    return peaks["jacrev"] / peaks["ours"] if "jacrev" in peaks else None


def by_hand_alone(row: dict[str, Any]) -> float | None:
    """Ours against passes by hand, where A is what is wanted."""
    wanted = row["sizes"]["wanted"] == "maps"
    return ratio_of("passes by hand / ours")(row) if wanted else None


def captum(row: dict[str, Any]) -> float | None:
    """Ours against captum's."""
    found = [r["median"] for label, r in row["ratios"].items() if label.startswith("captum")]
    return min(found, default=None)


TARGETS = [
    Target("passes by hand / ours, at least 1", by_hand_alone, at_least=1),
    Target("best of captum / ours, at least 1", captum, at_least=1),
    Target("memory of jacrev / ours, at least 5", memory_ratio, at_least=5),
    Target("ours / forward pass, at most 1.3", ratio_of("ours / forward pass"), at_most=1.3),
]


if __name__ == "__main__":
    names = [w.name for w in WORKLOADS]
    main(Benchmark("spline_lens", WORKLOADS, make, names, TINY, TARGETS, (FORWARD,)))
