"""What the public operators share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, overload

import torch
from torch import Tensor


def takes_cuda_kernels(tensor: Tensor) -> bool:
    """Whether operators on ``tensor`` are computed the way that suits CUDA.

    Python that chooses between two ways of computing asks this function alone, as
    ``common.takes_cuda_kernels(x)``: where CUDA kernels run on the host, it is replaced.
    """
    return tensor.is_cuda


def takes_cpu_kernels(tensor: Tensor) -> bool:
    """Whether operators on ``tensor`` are computed the way that suits a CPU (False on ``meta``)."""
    return tensor.is_cpu and not takes_cuda_kernels(tensor)


def decide(comparison: bool, default: bool) -> bool:
    """A comparison of sizes; ``default`` where a compiler cannot know: they depend on values."""
    if not torch.compiler.is_compiling():
        return comparison
    from torch.fx.experimental import symbolic_shapes  # slow to import

    guard = symbolic_shapes.guard_or_true if default else symbolic_shapes.guard_or_false
    return guard(comparison)


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """The dtype that autocast asks for on the device of ``x``, or None where it is off.

    float64 is left as it is, as PyTorch's own matrix products leave it.
    """
    device_type = x.device.type
    if (
        device_type == "meta"
        or not torch.is_autocast_enabled(device_type)
        or x.dtype == torch.float64
    ):
        return None
    return torch.get_autocast_dtype(device_type)


def autocast_disabled(x: Tensor) -> AbstractContextManager[Any]:
    """A context in which nothing is cast on the device of ``x``."""
    device_type = x.device.type
    return nullcontext() if device_type == "meta" else torch.autocast(device_type, enabled=False)


def outside_autocast(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """A kernel in Python whose first argument is a tensor, with autocast switched off.

    Its arguments have the dtype that autocast asked for already; it would round products within.
    """

    @functools.wraps(kernel)
    def call(x: Tensor, *rest: Any) -> Any:
        with autocast_disabled(x):
            return kernel(x, *rest)

    return call


@overload
def cast(tensor: Tensor, dtype: torch.dtype | None) -> Tensor: ...
@overload
def cast(tensor: None, dtype: torch.dtype | None) -> None: ...
def cast(tensor: Tensor | None, dtype: torch.dtype | None) -> Tensor | None:
    """``tensor`` in ``dtype``; as it is when either is None."""
    return tensor if tensor is None or dtype is None else tensor.to(dtype)


def unrecorded(*tensors: Tensor | None) -> bool:
    """Whether nothing records or traces operations on these: no gradient, tangent or compiler."""
    return not torch.compiler.is_compiling() and all(
        t is None
        or (
            type(t) is Tensor
            and not (t.requires_grad and torch.is_grad_enabled())
            and not torch._C._functorch.is_functorch_wrapped_tensor(t)
            and torch.autograd.forward_ad.unpack_dual(t).tangent is None
        )
        for t in tensors
    )


HALF_TYPES = (torch.float16, torch.bfloat16)


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """What values of ``dtype`` are computed in: float32 for half types."""
    return torch.float32 if dtype in HALF_TYPES else dtype


@overload
def wide(tensor: Tensor) -> Tensor: ...
@overload
def wide(tensor: None) -> None: ...
def wide(tensor: Tensor | None) -> Tensor | None:
    """A half type in float32, for what is to be rounded once, at the end; others as they are."""
    return tensor.float() if tensor is not None and tensor.dtype in HALF_TYPES else tensor


def check_devices(op: str, like: str, x: Tensor, **others: Tensor | None) -> None:
    """Refuse arguments that lie elsewhere than ``x`` (called ``like``).

    For fake kernels, to which one tensor on ``meta`` sends a call; the others check it themselves.

    Raises:
        RuntimeError: names the first such argument.
    """
    device = x.device
    for name, tensor in others.items():
        if tensor is not None and tensor.device != device:
            raise RuntimeError(
                f"{op}: {name} must be on the device of {like} ({device}), got {tensor.device}"
            )
