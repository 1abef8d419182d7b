"""A network with its choices fixed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from polygraph.analysis.spline.passes import Passes
from polygraph.analysis.spline.tape import Entry


class FrozenNetwork:
    """A network with its choices fixed: ``F(v) = A v + b``, computed by its own layers.

    Products with A and its transpose cost a pass each, whatever the number of inputs and outputs,
    on any device.

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

    def __init__(
        self,
        lens: Passes,
        entries: list[Entry],
        shape: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.lens, self.entries = lens, entries
        self.shape, self.dtype, self.device = shape, dtype, device
        self._start: Tensor | None = None

    def __repr__(self) -> str:
        """How much is fixed."""
        return f"FrozenNetwork({len(self.entries)} choices, input {list(self.shape)})"

    def __call__(self, v: Tensor) -> Tensor:
        """F(v), of the shape of the input at which the network was frozen."""
        if tuple(v.shape) != self.shape:
            raise ValueError(
                f"FrozenNetwork: v must have shape {list(self.shape)}, that of the input at which "
                f"the network was frozen, got {list(v.shape)}"
            )
        return self.lens.repeat(self.entries, v)

    def offset(self) -> Tensor:
        """b: what is made of zeros."""
        if self._start is None:
            zeros = torch.zeros(self.shape, dtype=self.dtype, device=self.device)
            with torch.no_grad():
                self._start = self(zeros)
        return self._start

    def jvp(self, v: Tensor) -> Tensor:
        """``A v``, without automatic differentiation."""
        with torch.no_grad():
            return self(v) - self.offset()

    def vjp(self, w: Tensor) -> Tensor:
        """``Aᵀ w``: of a tensor like the output, one like the input."""
        model = self.lens.model
        still = constant_parameters(model) if isinstance(model, nn.Module) else nullcontext()
        with torch.enable_grad(), still:
            at = torch.zeros(self.shape, dtype=self.dtype, device=self.device, requires_grad=True)
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
