"""Weights from a file into a model: names, shapes, dtypes and values are compared first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

_Module = TypeVar("_Module", bound=nn.Module)


class StateError(ValueError):
    """Weights that are not those of a model; the message names the tensor."""


def check_state(state: Any, wanted: Mapping[str, Tensor]) -> torch.dtype:
    """Compare weights with those of a model.

    Args:
        state: names and tensors, as they came from a file.
        wanted: the model's ``state_dict``; its tensors may be on the meta device. Of its floating
            dtypes none is wanted: those of ``state`` must be all the same.

    Returns:
        The floating dtype of ``state``.

    Raises:
        StateError: a tensor is missing, superfluous, of another shape or dtype, or holds NaN or
            infinity.
    """
    if not isinstance(state, Mapping):
        raise StateError(f"weights must be tensors by their names, got {type(state).__name__}")
    missing, superfluous = sorted(set(wanted) - set(state)), sorted(set(state) - set(wanted))
    if missing or superfluous:
        what = [
            f"{word} {', '.join(map(str, names[:3]))}{' ...' if len(names) > 3 else ''}"
            for word, names in (("lacks", missing), ("has no place for", superfluous))
            if names
        ]
        raise StateError(f"does not fit the model: {'; '.join(what)}")
    dtype = None
    for name, value in wanted.items():
        got = state[name]
        if not isinstance(got, Tensor):
            raise StateError(f"{name} must be a tensor, got {type(got).__name__}")
        if got.shape != value.shape:
            raise StateError(f"{name} must have shape {list(value.shape)}, got {list(got.shape)}")
        if not value.is_floating_point():
            if got.dtype != value.dtype:
                raise StateError(f"{name} must have dtype {value.dtype}, got {got.dtype}")
            continue
        if not got.is_floating_point() or got.dtype != (dtype or got.dtype):
            raise StateError(
                f"{name} must have dtype {dtype or 'float32, or another floating one'}, got "
                f"{got.dtype}"
            )
        dtype = got.dtype
        if not bool(torch.isfinite(got).all()):
            raise StateError(f"{name} holds NaN or infinity")
    return dtype or torch.float32


def load_state(model: nn.Module, state: Any) -> None:
    """Put weights into a model, as they are or not at all.

    Raises:
        StateError: as `check_state`.
    """
    check_state(state, model.state_dict())
    model.load_state_dict(state)


def build_with(build: Callable[[], _Module], config: Any, state: Any) -> _Module:
    """A model with the weights of a file, in their dtype, on the CPU, in eval mode.

    The configuration may be anybody's: what it describes is compared with the weights before
    memory is taken for it.

    Args:
        build: makes the model, on whatever device is the default one.
        config: the dataclass that it is made by.
        state: weights by name.

    Raises:
        StateError: as `check_state`; or there are fewer tensors than an order has terms.
        ValueError: the model cannot be built.
    """
    for name, value in asdict(config).items():
        if not name.endswith(("order", "orders")) or not isinstance(state, Mapping):
            continue
        terms = sum(value) if isinstance(value, list | tuple) else value  # some in succession
        if terms > len(state):
            raise StateError(f"{name} is {value}, more than there are weights, {len(state)}")
    with torch.device("meta"):
        outline = build()
    dtype = check_state(state, outline.state_dict())
    model = build().to(dtype)
    model.load_state_dict(state)
    return model.eval()
