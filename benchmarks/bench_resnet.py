"""Residual networks, first-order and polynomial, against the same in plain PyTorch.

Inference (evaluation mode) and the gradients of a training step of networks of [2, 2, 2, 2] basic
blocks on 32 x 32 images. What a polynomial network costs over its first-order twin is "ours / first
order".
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from harness import BOTH, FORWARD, Benchmark, Contender, Problem, Target, Workload, main
from inputs import normal
from torch import Tensor, nn
from torch.nn import functional as F

from polygraph.models import ResNet, create_model

SIZES = {"B": 64, "size": 32, "width": 16, "depths": (2, 2, 2, 2)}
WORKLOADS = [
    Workload(preset, {**SIZES, "preset": preset})
    for preset in ("resnet18", "pinet18", "pinet18-noact", "prodpoly-2211")
]
TINY = {"B": 4, "size": 8, "width": 4, "preset": "pinet18", "depths": (1, 1)}


class PlainBlock(nn.Module):
    """A block of any of the variants that are timed, as one writes it."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.branch, self.shortcut = block.branch, block.shortcut
        self.active = isinstance(block.activation, nn.ReLU)
        self.second = block.order == 2
        if not self.second:
            return
        self.maps = isinstance(block.maps[0], nn.Conv2d)
        self.norm = block.norms[0].batch_norm
        if self.maps:
            self.after = block.maps[0]
            self.before, self.before_norm = block.before[0], block.before[1].batch_norm

    def forward(self, x: Tensor) -> Tensor:
        """The formula."""
        out, skip = self.branch(x), self.shortcut(x)
        y = out + skip
        if self.second:
            if self.maps:
                y = y + self.norm(self.after(self.before_norm(self.before(skip)) * out))
            else:
                y = y + self.norm(out * skip)
        return F.relu(y, inplace=True) if self.active else y


class Plain(nn.Module):
    """The same network, which shares its weights."""

    def __init__(self, model: ResNet, layout: torch.memory_format) -> None:
        super().__init__()
        self.stem, self.head, self.output = model.stem, model.head, model.output
        self.blocks = nn.Sequential(*map(PlainBlock, model.blocks))
        self.layout = layout

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = x.contiguous(memory_format=self.layout)
        return self.output(self.head(self.blocks(self.stem(x))))


def settle(model: nn.Module) -> None:
    """Give every BatchNorm the statistics of a batch: without them a polynomial overflows."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        device = model.output.weight.device
        model.train()(normal(64, 3, 32, 32, seed=1, device=device))
    for norm in norms:
        norm.momentum = 0.1


def make(sizes: dict[str, Any], device: str) -> Problem:
    """Ours, plain PyTorch in both layouts, the first-order network."""
    torch.manual_seed(0)
    settings = {"width": sizes["width"], "depths": sizes["depths"]}
    model = create_model(sizes["preset"], **settings).to(device)
    config = model.config
    settle(model)
    first = "linear-resnet18" if config.activation == "none" else "resnet18"
    images = normal(sizes["B"], 3, sizes["size"], sizes["size"], seed=0, device=device)
    labels = torch.arange(sizes["B"], device=device) % 10

    def contender(
        role: str, model: nn.Module, plain: torch.memory_format | None = None, checked: bool = True
    ) -> Contender:
        trained, evaluated = copy.deepcopy(model).train(), copy.deepcopy(model).eval()
        leaves = list(trained.parameters())  # in the order of ours
        if plain is not None:
            trained, evaluated = Plain(trained, plain), Plain(evaluated, plain)

        def both() -> tuple[Tensor, ...]:
            loss = F.cross_entropy(trained(images), labels)
            return torch.autograd.grad(loss, leaves)

        # Gradients are compared in the tests of the block: through eight of them, in float32, one
        # ReLU at its corner changes them by a percent.
        passes = (FORWARD,) if checked else ()
        return Contender(role, lambda: evaluated(images), leaves, checked=passes, both=both)

    def definition() -> tuple[Tensor, list[Tensor]]:
        exact = copy.deepcopy(model).cpu().double()
        network, inputs = Plain(exact, torch.contiguous_format), images.cpu().double()
        with torch.no_grad():
            out = network.eval()(inputs)
        loss = F.cross_entropy(network.train()(inputs), labels.cpu())
        return out, list(torch.autograd.grad(loss, list(exact.parameters())))

    contenders = {
        "ours": contender("ours", model),
        "plain PyTorch": contender("peer", model, torch.contiguous_format),
        "plain, channels last": contender("peer", model, torch.channels_last),
        "first order": contender("floor", create_model(first, **settings).to(device), None, False),
    }
    return Problem(contenders, definition, (sizes["B"], 10))


def over_first_order(which: str, presets: tuple[str, ...]) -> Any:
    """Reads "ours / first order" off a row of one pass and some presets."""

    def measured(row: dict[str, Any]) -> float | None:
        if row["pass"] != which or row["sizes"]["preset"] not in presets:
            return None
        return float(row["ratios"]["ours / first order"]["median"])

    return measured


def over_plain(row: dict[str, Any]) -> float:
    """The faster of both layouts over ours."""
    found = [r["median"] for name, r in row["ratios"].items() if name.startswith("plain")]
    return float(min(found))


PINETS, PRODPOLY = ("pinet18", "pinet18-noact"), ("prodpoly-2211",)
TARGETS = [
    Target("plain PyTorch / ours", over_plain, at_least=0.97),
    Target("pinet, inference", over_first_order(FORWARD, PINETS), at_most=1.13),
    Target("pinet, training", over_first_order(BOTH, PINETS), at_most=1.10),
    Target("prodpoly, inference", over_first_order(FORWARD, PRODPOLY), at_most=1.20),
    Target("prodpoly, training", over_first_order(BOTH, PRODPOLY), at_most=1.20),
]

if __name__ == "__main__":
    main(Benchmark("resnet", WORKLOADS, make, quick=["pinet18"], tiny=TINY, targets=TARGETS))
