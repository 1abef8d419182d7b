"""Nodes less a point in their midst, for what reads only their differences.

Far from the origin, products of the nodes themselves lose the digits in which neighbours differ.
"""

from __future__ import annotations

import torch
from torch import Tensor

_PROBES = 9  # nodes whose middle is taken for that of all


def middle_of(x: Tensor) -> Tensor:
    """``[..., 1, C]``: a point in the midst of the nodes ``[..., N, C]``, without a gradient.

    What only reads differences of nodes first takes it away: far from the origin, products of the
    nodes themselves would lose the digits in which neighbours differ. The median of nine nodes, for
    it costs nothing and one that lies far out, or is not finite, does not move it.
    """
    nodes = x.detach()
    count = nodes.shape[-2]
    if count == 0:
        return nodes.new_zeros(*nodes.shape[:-2], 1, nodes.shape[-1])
    step = torch.sym_max(count // _PROBES, 1)
    half = torch.sym_min(count - 1, _PROBES - 1) // 2
    # Not torch.median, which CUDA refuses where only deterministic algorithms are allowed.
    ordered = nodes[..., : step * _PROBES : step, :].sort(-2).values
    middle = ordered[..., half : half + 1, :]
    # Not nan_to_num, of which inductor makes a loop over single numbers in the subtraction.
    return torch.where(middle.abs() <= torch.finfo(middle.dtype).max, middle, 0)


def centred(targets: Tensor, sources: Tensor) -> tuple[Tensor, Tensor]:
    """Both sides of a graph less one point in the midst of the sources; once if they are one."""
    middle = middle_of(sources)
    near = sources - middle
    return (near, near) if targets is sources else (targets - middle, near)


def near_first_points(
    targets: Tensor, sources: Tensor, batch_x: Tensor | None, batch_y: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Targets and sources less the first source of their sample; as `centred`.

    Args:
        targets: ``[M, C]``.
        sources: ``[N, C]``, finite; the very tensor ``targets`` where they are the same nodes.
        batch_x: the sample of each source, never falling; None: all in sample 0.
        batch_y: the same of the targets.
    """
    if (batch_x is None and batch_y is None) or sources.shape[0] == 0:
        return centred(targets, sources)
    batches = [
        torch.zeros(nodes.shape[0], dtype=torch.int64, device=nodes.device)
        if batch is None
        else batch.long()
        for batch, nodes in ((batch_x, sources), (batch_y, targets))
    ]
    middles = [
        sources.detach()[torch.searchsorted(batches[0], batch).clamp(max=sources.shape[0] - 1)]
        for batch in batches[: 1 if targets is sources else 2]
    ]
    near = sources - middles[0]
    return (near if targets is sources else targets - middles[1]), near
