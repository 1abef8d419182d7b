"""Records what a network chooses, call by call, and runs it again with these choices."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from polygraph.analysis.spline.catalog import DISCRETE, is_discrete, site_of
from polygraph.analysis.spline.operators import operator_site
from polygraph.analysis.spline.sites import Call, Choice, Site, Walls


@dataclass
class Entry:
    """A choice of a network: where it is made, of which kind, and which it is."""

    name: str
    site: Site
    choice: Choice

    def code(self) -> Tensor:
        """The choice as one tensor."""
        return self.site.code(self.choice)


def _call(func: Any, args: tuple[Any, ...], kwargs: Any) -> tuple[Call, Site | None]:
    """A call, and what it chooses by."""
    name = getattr(func, "__name__", "")
    kwargs = kwargs or {}
    if type(func).__name__.startswith("Op"):  # of torch.ops: an overload, or all of a name
        packet = getattr(func, "overloadpacket", func)
        call = Call(packet.__name__, func, args, kwargs)
        if str(packet).startswith("polygraph."):
            return call, operator_site(call)
        name = packet.__name__
    call = Call(name.rstrip("_"), func, args, kwargs)
    return call, site_of(call)


class Recorder(TorchFunctionMode):
    """Collects the choices of everything that runs under it.

    Modules are looked for on the stack of calls, not hooked: a module or function that is used
    twice makes two entries, and layers that look at their hooks do not notice.

    Args:
        names: of modules, by their ``id``.
    """

    def __init__(self, names: Mapping[int, str]) -> None:
        super().__init__()
        self.names = names
        self.entries: list[Entry] = []
        self._seen: Counter[str] = Counter()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run a call, and keep what it chooses."""
        call, site = _call(func, args, kwargs)
        if site is not None:
            out, choice = site.choose(call)
            self._keep(call, site, choice)
            return out
        out = call.run()
        if is_discrete(call, out):
            self._keep(call, DISCRETE, out.clone())
        return out

    def _keep(self, call: Call, site: Site, choice: Choice) -> None:
        place = module_on_stack(self.names)
        name = f"{place}:{call.name}" if place else call.name
        self._seen[name] += 1
        if self._seen[name] > 1:
            name = f"{name}#{self._seen[name]}"
        self.entries.append(Entry(name, site, choice))


class Repeater(TorchFunctionMode):
    """Runs a network with choices that a `Recorder` has kept.

    Raises:
        RuntimeError: the network makes other calls than when they were kept.
    """

    def __init__(self, entries: list[Entry]) -> None:
        super().__init__()
        self.entries = entries
        self.done = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run a call with its choice of before."""
        call, site = _call(func, args, kwargs)
        if site is not None:
            return site.repeat(call, self._next(site).choice)
        out = call.run()
        return self._next(DISCRETE).choice if is_discrete(call, out) else out

    def _next(self, site: Site) -> Entry:
        if self.done == len(self.entries) or type(self.entries[self.done].site) is not type(site):
            raise RuntimeError(
                "the network makes other calls than at the point where it was frozen"
            )
        self.done += 1
        return self.entries[self.done - 1]

    def __exit__(self, kind: Any, value: Any, trace: Any) -> None:
        """Leave; a network that ended early made other calls, too."""
        super().__exit__(kind, value, trace)  # type: ignore[no-untyped-call]
        if kind is None and self.done != len(self.entries):
            raise RuntimeError(
                "the network makes other calls than at the point where it was frozen"
            )


class Reached(Exception):  # it ends a pass on purpose
    """The walls that were asked for are found: the rest of the pass is not needed."""

    def __init__(self, walls: Walls) -> None:
        super().__init__("walls")
        self.walls = walls


class Surveyor(TorchFunctionMode):
    """Runs a network up to one of its choices, and raises `Reached` with the walls there.

    Args:
        index: the place of the choice among those that a `Recorder` finds.
    """

    def __init__(self, index: int) -> None:
        super().__init__()
        self.left = index

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run a call, or stop before it."""
        call, site = _call(func, args, kwargs)
        if site is not None:
            self._arrive(call, site)
            return call.run()
        out = call.run()
        if is_discrete(call, out):
            self._arrive(call, DISCRETE)
        return out

    def _arrive(self, call: Call, site: Site) -> None:
        if self.left == 0:
            raise Reached(site.walls(call))
        self.left -= 1


def module_on_stack(names: Mapping[int, str]) -> str:
    """The name of the innermost module that is running; empty: none, or the outermost."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        found = names.get(id(frame.f_locals.get("self")))
        if found is not None:
            return found
        frame = frame.f_back
    return ""
