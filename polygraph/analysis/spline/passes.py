"""Passes of a network: plain, recorded, and with choices that were made elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from polygraph.analysis.spline.tape import Entry, Recorder, Repeater

_BATCH_SENSITIVE = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)


class Passes:
    """A network, and how it is called; see `SplineLens` for the arguments."""

    def __init__(
        self,
        model: Callable[..., Tensor],
        args: Sequence[Any] = (),
        *,
        batched: bool = True,
        layer: str | None = None,
    ) -> None:
        if not callable(model):
            raise TypeError(f"SplineLens: model must be callable, got {type(model).__name__}")
        self.model, self.args, self.batched, self.layer = model, tuple(args), batched, layer
        self.names: dict[int, str] = {}
        self.channels_last = False  # whether images may be given so
        self._module: nn.Module | None = None
        if isinstance(model, nn.Module):
            self.names = {id(m): name for name, m in model.named_modules()}
            self.channels_last = batched and any(isinstance(m, nn.Conv2d) for m in model.modules())
            if layer is not None:
                self._module = dict(model.named_modules()).get(layer)
        if layer is not None and self._module is None:
            raise ValueError(f"SplineLens: model has no module named {layer!r}")

    def forward(self, x: Tensor) -> Tensor:
        """The model's output, or that of the layer; ``[B, ...]`` if ``batched``."""
        if self._module is None:
            out = self.model(x, *self.args)
        else:
            out = self._output_of_layer(x)
        if not isinstance(out, Tensor) or not out.is_floating_point():
            raise TypeError(
                f"SplineLens: the model must return one floating-point tensor, got {out!r:.60}"
            )
        if self.batched and out.shape[:1] != x.shape[:1]:
            raise ValueError(
                f"SplineLens: of {x.shape[0]} samples the model must make as many, got an output "
                f"of shape {list(out.shape)}: batched=False takes x as one sample"
            )
        return out

    def _output_of_layer(self, x: Tensor) -> Tensor:
        found: list[Any] = []
        assert self._module is not None
        handle = self._module.register_forward_hook(lambda _, __, out: found.append(out))
        try:
            self.model(x, *self.args)
        finally:
            handle.remove()
        if not found:
            raise ValueError(f"SplineLens: the model does not call {self.layer!r}")
        out: Tensor = found[-1]
        return out

    def samples(self, x: Tensor, size: int) -> Iterator[Tensor]:
        """Inputs of a pass: chunks of samples, or the one sample."""
        yield from torch.split(x, size) if self.batched else (x,)

    def rows(self, out: Tensor) -> Tensor:
        """Outputs as ``[B, K]``."""
        return out.flatten(1) if self.batched else out.flatten()[None]

    def check_input(self, x: Tensor) -> Tensor:
        """Refuse what is no input, and a model in training mode."""
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise TypeError(f"SplineLens: x must be a floating-point tensor, got {x!r:.60}")
        if self.batched and (x.dim() < 2 or not len(x)):
            raise ValueError(
                f"SplineLens: x must be [B, *in_shape] with B > 0, got {list(x.shape)}: "
                "batched=False takes one sample"
            )
        if not bool(x.isfinite().all()):
            raise ValueError("SplineLens: x has values that are not finite")
        if isinstance(self.model, nn.Module):
            for name, module in self.model.named_modules():
                if module.training and isinstance(module, _BATCH_SENSITIVE):
                    raise ValueError(
                        f"SplineLens: {name} ({type(module).__name__}) is in training mode: "
                        "call model.eval()"
                    )
        return x.detach()

    def record(self, x: Tensor) -> list[Entry]:
        """What the network chooses at ``x``, in the order of its calls."""
        recorder = Recorder(self.names)
        with torch.no_grad(), recorder:
            self.forward(x)
        return recorder.entries

    def repeat(self, entries: list[Entry], v: Tensor) -> Tensor:
        """The network at ``v`` with choices made elsewhere."""
        with Repeater(entries):
            return self.forward(v)
