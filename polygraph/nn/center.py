"""Nodes less a point in their midst, for what reads only their differences.

Far from the origin, products of the nodes themselves lose the digits in which neighbors differ.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from polygraph.nn.ordinary import has_values

_PROBES = 9  # nodes whose middle is taken for that of all
_NEAR = 2.0  # spreads of the probes from the origin: two bits are lost there


def middle_of(x: Tensor) -> Tensor | None:
    """``[1, C]``: a point in the midst of the nodes ``[N, C]``, without a gradient.

    The median of nine nodes, for it costs next to nothing, and one that lies far out, or is not
    finite, does not move it. None: nothing would be gained, for the nodes lie about the origin, as
    far as the host can tell without waiting.
    """
    nodes = x.detach()
    count = nodes.shape[0]
    if count == 0:
        return None
    if has_values(nodes) and nodes.is_cpu and nodes.dtype in (torch.float32, torch.float64):
        # A pass over all nodes takes longer than to see that it is not needed.
        step = max(count // _PROBES, 1)
        ordered = np.sort(nodes.numpy()[: step * _PROBES : step], axis=0)
        last = len(ordered) - 1
        middle, low, high = ordered[last // 2], ordered[last // 8], ordered[last - last // 8]
        with np.errstate(invalid="ignore", over="ignore"):
            far = np.count_nonzero(np.abs(middle) > _NEAR * (high - low))
        return torch.from_numpy(middle[None]).nan_to_num(0.0, 0.0, 0.0) if far else None
    # Not a slice, whose length would be a branch on the number of nodes; not torch.median, which
    # CUDA refuses where only deterministic algorithms are allowed.
    probes = torch.arange(_PROBES, device=x.device) * count // _PROBES
    middle = nodes[probes].sort(0).values[_PROBES // 2, None]
    # Not nan_to_num, which inductor compiles to a loop over single elements in the subtraction.
    return torch.where(middle.abs() <= torch.finfo(middle.dtype).max, middle, 0)


def centered(targets: Tensor, sources: Tensor) -> tuple[Tensor, Tensor]:
    """Both sides of a graph less one point in the midst of the sources; once if they are one."""
    middle = middle_of(sources)
    if middle is None:
        return targets, sources
    near = sources - middle
    return (near, near) if targets is sources else (targets - middle, near)


def near_first_points(
    targets: Tensor, sources: Tensor, batch_x: Tensor | None, batch_y: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Targets and sources less the first source of their sample; see `centered`.

    Args:
        targets: ``[M, C]``.
        sources: ``[N, C]``, finite; the very tensor ``targets`` where they are the same nodes.
        batch_x: the sample of each source, never falling; None: all in sample 0.
        batch_y: the sample of each target.
    """
    if (batch_x is None and batch_y is None) or sources.shape[0] == 0:
        return centered(targets, sources)
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
