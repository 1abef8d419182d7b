"""Calls in which a network chooses: which piece, which winner, which neighbours.

A piecewise affine network is affine once its choices are made. Every function of PyTorch, and
every operator of polygraph, that makes one has a `Site` here: it tells what a call chooses, repeats
the call with a choice that was made elsewhere, and says between what it chose, so that a walk finds
where the choice changes.

Whatever returns integers or truth values where it was given floating-point numbers (comparisons,
``argmax``, ``topk``'s indices) chooses, too: `Discrete`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

Choice = Any  #: a tensor, or a tuple of them


class Call(NamedTuple):
    """A call of a function, as it was made."""

    name: str  #: without a trailing underscore
    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def get(self, position: int, name: str, default: Any = None) -> Any:
        """An argument by its place or its name."""
        if len(self.args) > position:
            return self.args[position]
        return self.kwargs.get(name, default)

    def run(self) -> Any:
        """What the function returns."""
        return self.func(*self.args, **self.kwargs)


@dataclass
class Walls:
    """Between what a call chose, as numbers that are affine in the input inside of a region.

    Attributes:
        signed: tensors whose signs are chosen.
        rivals: tensors ``[..., R]`` of whose last dimension the largest is chosen; -inf: not there.
        clouds: sources ``[B, N, C]``, targets ``[B, M, C]``, how many of the nearest are chosen,
            and the pairs ``[M, N]`` that may not be.
    """

    signed: list[Tensor] = field(default_factory=list)
    rivals: list[Tensor] = field(default_factory=list)
    clouds: list[tuple[Tensor, Tensor, int, Tensor]] = field(default_factory=list)


class Site:
    """A kind of call that chooses.

    Attributes:
        jumps: whether its result may jump where the choice changes.
    """

    jumps = False

    def choose(self, call: Call) -> tuple[Any, Choice]:
        """The call's result, and what it chose."""
        raise NotImplementedError

    def repeat(self, call: Call, choice: Choice) -> Any:
        """The call's result with a choice that was made before."""
        raise NotImplementedError

    def code(self, choice: Choice) -> Tensor:
        """The choice as one tensor, for comparisons."""
        found: Tensor = choice
        return found

    def walls(self, call: Call) -> Walls:
        """Between what it chooses.

        Raises:
            NotImplementedError: that is not known of this function.
        """
        raise NotImplementedError(f"what {call.name} chooses between is not known")


def written(call: Call, out: Tensor, in_place: bool) -> Tensor:
    """The result where the call wants it: in its first argument, if it works in place."""
    if not in_place:
        return out
    given: Tensor = call.args[0]
    return given.copy_(out)


class Discrete(Site):
    """Integers and truth values made of floating-point numbers."""

    jumps = True

    def choose(self, call: Call) -> tuple[Any, Choice]:
        """The result itself."""
        out = call.run()
        return out, out.clone()

    def repeat(self, call: Call, choice: Choice) -> Any:
        """What was found before."""
        return choice

    def walls(self, call: Call) -> Walls:
        """Of a comparison, by how much its sides differ."""
        if call.name.strip("_") not in ("gt", "lt", "ge", "le"):
            return super().walls(call)
        return Walls(signed=[call.args[0] - call.get(1, "other")])
