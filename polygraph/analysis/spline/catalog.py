"""Which call chooses, and how."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from polygraph.analysis.spline.activations import ACTIVATIONS, Larger, Pieces
from polygraph.analysis.spline.sites import Call, Discrete, Site
from polygraph.analysis.spline.winners import Extreme, Pool, Scattered, Selected

SITES: dict[str, Site] = {
    **{name: Pieces(*of) for name, of in ACTIVATIONS.items()},
    **{n: Larger(1) for n in ("maximum", "fmax")},
    **{n: Larger(-1) for n in ("minimum", "fmin")},
    **{f"max_pool{d}d": Pool(d, False) for d in (1, 2, 3)},
    **{f"max_pool{d}d_with_indices": Pool(d, False) for d in (1, 2, 3)},
    **{f"adaptive_max_pool{d}d": Pool(d, True) for d in (1, 2, 3)},
    **{f"adaptive_max_pool{d}d_with_indices": Pool(d, True) for d in (1, 2, 3)},
    "amax": Extreme(1),
    "amin": Extreme(-1),
    "scatter_reduce": Scattered(),
}
_SELECTED = ("topk", "sort", "kthvalue", "median", "mode")
DISCRETE = Discrete()


def _is_float(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()


def site_of(call: Call) -> Site | None:
    """What a call chooses by, apart from `DISCRETE` ones, which are known by their results."""
    if not (call.args and _is_float(call.args[0])):
        return None
    if call.name in ("max", "min"):
        return _of_max(call)
    if call.name in _SELECTED and (call.name != "median" or call.get(1, "dim") is not None):
        return Selected()
    if call.name == "scatter_reduce" and call.get(4, "reduce") not in ("amax", "amin"):
        return None
    return SITES.get(call.name)


def _of_max(call: Call) -> Site:
    """``max`` is three functions."""
    sign = 1 if call.name == "max" else -1
    if isinstance(call.get(1, "other"), Tensor):
        return Larger(sign)
    return Extreme(sign) if call.get(1, "dim") is None else Selected()


def is_discrete(call: Call, out: Any) -> bool:
    """Whether a call made integers or truth values of floating-point numbers."""
    if not isinstance(out, Tensor) or out.is_floating_point() or out.is_complex():
        return False
    if call.args and isinstance(call.args[0], Tensor):
        return call.args[0].is_floating_point()
    return any(_is_float(x) for x in (*call.args, *call.kwargs.values()))
