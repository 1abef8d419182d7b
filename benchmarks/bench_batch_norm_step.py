"""The fused end of a residual block with BatchNorm against its composition in PyTorch."""

from __future__ import annotations

import torch
from harness import Benchmark, Contender, Problem, Workload, copy_floor, main, upstream
from inputs import normal, to_float64
from torch import Tensor
from torch.nn import functional as F

from polygraph import ops, reference

PASSES = {"product": (5, 10), "sum": (5, 9), "factor": (4, 8)}  # over a tensor, either way
WORKLOADS = [
    Workload(f"{form}, {size} x {size}, C {C}", {"B": 64, "size": size, "C": C, "form": form})
    for form, size, C in (
        ("product", 32, 16),
        ("product", 8, 64),
        ("sum", 32, 16),
        ("factor", 32, 16),
    )
]
TINY = {"B": 4, "size": 4, "C": 16, "form": "product"}


def by_pytorch(
    a: Tensor, s: Tensor | None, term: Tensor | None, weight: Tensor, bias: Tensor
) -> Tensor:
    """As one writes it, of images ``[B, C, H, W]``."""
    term = a * s if term is None else term
    term = F.batch_norm(term, None, None, weight, bias, training=True)
    return a * term if s is None else F.relu(a + s + term, inplace=True)


def make(sizes: dict[str, int], device: str) -> Problem:
    """Ours on rows, and PyTorch's operators on images in both layouts."""
    B, size, C, form = (sizes[n] for n in ("B", "size", "C", "form"))
    rows = [normal(B, size * size, C, seed=seed, device=device) for seed in range(3)]
    given = {"product": (0, 1), "sum": (0, 1, 2), "factor": (0, 2)}[form]
    weight, bias = (normal(C, seed=seed, device=device).requires_grad_() for seed in (3, 4))

    def leaves(layout: torch.memory_format | None) -> list[Tensor]:
        parts = [rows[n] for n in given]
        if layout is not None:
            images = (x.view(B, size, size, C).movedim(-1, 1) for x in parts)
            parts = [x.contiguous(memory_format=layout) for x in images]
        return [x.detach().clone().requires_grad_() for x in parts]

    def spread(parts: list[Tensor]) -> list[Tensor | None]:
        found = dict(zip(given, parts, strict=True))
        return [found.get(n) for n in range(3)]

    def ours(parts: list[Tensor], function=ops.batch_norm_step, *more: Tensor) -> Tensor:
        w, b = more or (weight, bias)
        activation = "none" if form == "factor" else "relu"
        return function(*spread(parts), weight=w, bias=b, activation=activation)

    def definition() -> tuple[Tensor, list[Tensor]]:
        *parts, w, b = exact = to_float64(*leaves(None), weight, bias)
        out = ours(parts, reference.batch_norm_step, w, b)
        wanted = upstream(out.shape, device).cpu().double()
        return out, list(torch.autograd.grad(out, exact, wanted))

    own = leaves(None)
    contenders = {"ours": Contender("ours", lambda: ours(own), [*own, weight, bias])}
    for name, layout in (
        ("plain PyTorch", torch.contiguous_format),
        ("plain, channels last", torch.channels_last),
    ):
        parts = leaves(layout)
        contenders[name] = Contender(
            "peer",
            lambda parts=parts: by_pytorch(*spread(parts), weight, bias),
            [*parts, weight, bias],
            checked=(),  # of another shape; tests/nn/test_batch_step.py compares them
        )
    forward, backward = PASSES[form]
    numbers = B * size * size * C
    contenders["copy"] = copy_floor(forward * numbers, (forward + backward) * numbers, device)
    return Problem(contenders, definition, (B, size * size, C))


if __name__ == "__main__":
    main(Benchmark("batch_norm_step", WORKLOADS, make, quick=[WORKLOADS[0].name], tiny=TINY))
