"""A network with its choices fixed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from polygraph.analysis.spline.affine_map import probe, tolerance
from polygraph.analysis.spline.blame import culprit
from polygraph.analysis.spline.passes import Passes
from polygraph.analysis.spline.tape import Entry


class FrozenNetwork:
    """A network with its choices fixed: ``F(v) = A v + b``, computed by its own layers.

    Products with A and its transpose cost a pass each, whatever the number of inputs and outputs,
    on any device. The first of them takes four more passes, which see that the network is affine.

    Example:
        >>> import torch
        >>> from polygraph.analysis import SplineLens
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
        >>> x = torch.randn(5, 2)
        >>> frozen = SplineLens(net).frozen(x)
        >>> torch.allclose(frozen(x), net(x), atol=1e-6), frozen.jvp(x).shape
        (True, torch.Size([5, 1]))

    See Also:
        `SplineLens.frozen`, which makes it.
    """

    def __init__(self, lens: Passes, entries: list[Entry], at: Tensor) -> None:
        self.lens, self.entries, self.at = lens, entries, at
        self._start: Tensor | None = None

    def __repr__(self) -> str:
        """How much is fixed."""
        return f"FrozenNetwork({len(self.entries)} choices, input {list(self.at.shape)})"

    def __call__(self, v: Tensor) -> Tensor:
        """F(v), of the shape of the input at which the network was frozen."""
        if v.shape != self.at.shape:
            raise ValueError(
                f"FrozenNetwork: v must have shape {list(self.at.shape)}, that of the input at "
                f"which the network was frozen, got {list(v.shape)}"
            )
        return self.lens.repeat(self.entries, v)

    def offset(self) -> Tensor:
        """b: what is made of zeros.

        Raises:
            ValueError: the network is not affine even so; what keeps it from that is named.
        """
        if self._start is None:
            r = probe(self.at)
            s = r.flatten().flip(0).view(r.shape)
            with torch.no_grad():
                start, one, other, both = map(self, (torch.zeros_like(r), r, s, r + s))
            size = torch.stack([start, one, other, both]).abs().max()
            if not bool((one + other - both - start).abs().max() <= tolerance(r.dtype) * size):
                raise ValueError(
                    f"FrozenNetwork: not piecewise affine: {culprit(self.lens, self.at)}"
                )
            self._start = start
        return self._start

    def jvp(self, v: Tensor) -> Tensor:
        """``A v``, without automatic differentiation."""
        with torch.no_grad():
            return self(v) - self.offset()

    def vjp(self, w: Tensor) -> Tensor:
        """``Aᵀ w``: of a tensor like the output, one like the input."""
        self.offset()  # which refuses what is not affine
        model = self.lens.model
        still = constant_parameters(model) if isinstance(model, nn.Module) else nullcontext()
        with torch.enable_grad(), still:
            at = torch.zeros_like(self.at, requires_grad=True)
            (found,) = torch.autograd.grad(self(at), at, w)
        return found


@contextmanager
def constant_parameters(model: nn.Module) -> Iterator[None]:
    """Parameters without gradients: what only they would need is not kept in memory."""
    learned = [p for p in model.parameters() if p.requires_grad]
    for p in learned:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in learned:
            p.requires_grad_(True)
