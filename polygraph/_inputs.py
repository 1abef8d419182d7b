"""Checks of the tensors that a user hands over: messages name what he gave, and what to write."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

_CASTS = {
    torch.float32: "float()",
    torch.float64: "double()",
    torch.float16: "half()",
    torch.bfloat16: "bfloat16()",
}


def check_tensors(owner: str, /, **arguments: Any) -> None:
    """Refuse what is no tensor; None passes.

    Raises:
        TypeError: names the first such argument; of a NumPy array or a list, how it becomes one.
    """
    for name, value in arguments.items():
        if not isinstance(value, Tensor) and value is not None:
            raise TypeError(f"{owner}: {name} must be a torch.Tensor, got {_hint(name, value)}")


def _hint(name: str, value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"a NumPy array: torch.from_numpy({name})"
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__}: torch.tensor({name})"
    return type(value).__name__


def check_dtype(
    owner: str, name: str, x: Any, parameter: Tensor, *, of: str = "layer", what: str = ""
) -> None:
    """Refuse an input of another dtype than the parameters have; under autocast any will do.

    Args:
        owner: begins the message.
        name: of the argument.
        x: the argument.
        parameter: one of the layer's.
        of: what has the parameters: a layer or a model.
        what: they are called.

    Raises:
        TypeError: ``x`` is no tensor.
        ValueError: the dtypes differ; says both, and what to write.
    """
    if not isinstance(x, Tensor):
        check_tensors(owner, **{name: x})
    if x.dtype == parameter.dtype or (
        x.dtype != torch.float64
        and x.is_floating_point()
        and x.device.type != "meta"
        and torch.is_autocast_enabled(x.device.type)
    ):
        return
    got, wanted = (str(t.dtype).removeprefix("torch.") for t in (x, parameter))
    what = what or "parameters"
    are = "are" if what.endswith("s") else "is"
    ways = [f"{name}.{_CASTS[parameter.dtype]}"] if parameter.dtype in _CASTS else []
    if x.dtype in _CASTS:
        ways.append(f"{of}.{_CASTS[x.dtype]}")
    raise ValueError(
        f"{owner}: {name} is {got}, but this {of}'s {what} {are} {wanted}: {' or '.join(ways)}"
    )


def check_vertices(owner: str, x: Any, vertices: int, channels: int | None = None) -> None:
    """Refuse anything but ``[V, C]`` and ``[B, V, C]`` of this many vertices and channels.

    Raises:
        TypeError: ``x`` is no tensor.
        ValueError: another number of dimensions, vertices or channels; says which.
    """
    if not isinstance(x, Tensor):
        check_tensors(owner, x=x)
    shape = x.shape
    if (
        len(shape) in (2, 3)
        and shape[-2] == vertices
        and (channels is None or shape[-1] == channels)
    ):
        return
    C = "C" if channels is None else channels
    wrong = ""
    if len(shape) in (2, 3):
        wrong = " (another mesh, or other vertices of it)" if shape[-2] != vertices else ""
        if channels is not None and shape[-1] != channels:
            wrong += f" ({channels} channels are wanted, got {shape[-1]})"
    raise ValueError(
        f"{owner}: x must have shape [B, {vertices}, {C}] or [{vertices}, {C}], got {list(shape)}"
        f"{wrong}"
    )
