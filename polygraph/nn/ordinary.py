"""Whether a module may be looked into instead of being called, and a tensor for its values.

A layer that computes with the weights of another module, and so does not call it, asks here first.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.modules import module as _modules

# As they were at import: whoever replaces one of them later wants to be called.
_CALL = nn.Module.__call__
_FORWARDS: dict[type, Any] = {
    kind: kind.forward
    for kind in (
        nn.BatchNorm1d,
        nn.BatchNorm2d,
        nn.Conv2d,
        nn.Identity,
        nn.LeakyReLU,
        nn.Linear,
        nn.ReLU,
        nn.Sequential,
    )
}
_ITERATE = nn.Sequential.__iter__


def has_hooks(module: nn.Module) -> bool:
    """Whether a hook of any kind, its own or one of all modules, runs when it is called."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or _modules._global_forward_hooks
        or _modules._global_forward_pre_hooks
        or _modules._global_backward_hooks
        or _modules._global_backward_pre_hooks
    )


def is_ordinary(module: Any, *kinds: type) -> bool:
    """Whether calling ``module`` does what its class says, and nothing else.

    It does not where there are hooks (those of `torch.nn.utils.weight_norm` and of pruning among
    them), where the instance has a ``forward`` of its own (as `accelerate` gives it one), where the
    class has got another one, and, ``kinds`` given, where it is a descendant of theirs.

    Args:
        module: anything.
        kinds: classes one of which must be that of ``module``; none: any will do.
    """
    kind = type(module)
    return (not kinds or kind in kinds) and _does_as_its_class(module, kind)


def _does_as_its_class(module: Any, kind: Any) -> bool:
    return (
        isinstance(module, nn.Module)
        and not has_hooks(module)
        and "forward" not in module.__dict__
        and kind.forward is _FORWARDS.get(kind, kind.forward)
        and nn.Module.__call__ is _CALL
    )


def is_lazy(module: Any) -> bool:
    """Whether parameters of ``module`` wait for the first input to know their shapes."""
    lazy = nn.parameter.UninitializedParameter
    return isinstance(module, nn.Module) and any(isinstance(p, lazy) for p in module.parameters())


def is_sequence(module: Any) -> bool:
    """Whether ``module`` calls its children one after the other, and nothing else."""
    kind = type(module)
    return (
        isinstance(module, nn.Sequential)
        and kind.forward is _FORWARDS[nn.Sequential]
        and kind.__call__ is _CALL
        and kind.__iter__ is _ITERATE
        and is_ordinary(module)
    )


def is_linear(module: Any) -> bool:
    """Whether it is torch's or PyG's linear layer, ordinary and initialised.

    Its weight may be computed (`torch.nn.utils.parametrize`): whoever looks into it reads
    ``weight`` and ``bias`` once in a call, for spectral normalisation takes a step at every look.
    """
    kind = type(module)
    if isinstance(module, nn.Module) and "parametrizations" in module._modules:
        kind = kind.__bases__[0]  # where torch keeps the module's own class
    known = kind is nn.Linear or (
        kind.__name__ == "Linear" and kind.__module__ == "torch_geometric.nn.dense.linear"
    )
    return (
        known
        and _does_as_its_class(module, kind)
        and not isinstance(module._parameters.get("weight"), nn.parameter.UninitializedParameter)
    )


def first_weight(network: Any) -> Tensor | None:
    """The weight of the linear layer that a network begins with, if it is one that is not computed.

    For its dtype alone, not for its values: hooks and the like do not matter here.
    """
    while isinstance(network, nn.Sequential) and len(network):
        network = network[0]
    kind = type(network)
    if kind.__name__ == "MLP" and kind.__module__ == "torch_geometric.nn.models.mlp":
        network = network.lins[0]
        kind = type(network)
    if kind is nn.Linear or (
        kind.__name__ == "Linear" and kind.__module__ == "torch_geometric.nn.dense.linear"
    ):
        return network._parameters.get("weight")  # type: ignore[no-any-return]
    return None


def input_width(module: Any) -> int | None:
    """The features that a linear layer takes; None for everything else."""
    if not is_linear(module):
        return None
    width: int = module.in_features if isinstance(module, nn.Linear) else module.in_channels
    return width


def output_width(linear: Any) -> int:
    """The features that a linear layer makes."""
    width: int = linear.out_features if isinstance(linear, nn.Linear) else linear.out_channels
    return width


def slope_of(module: Any) -> float | None:
    """Of what is max(x, slope x) and ordinary; None for everything else."""
    if module is torch.relu or module is nn.functional.relu:
        return 0.0
    if is_ordinary(module, nn.ReLU):
        return 0.0
    if is_ordinary(module, nn.LeakyReLU):
        return float(module.negative_slope)
    return 1.0 if is_ordinary(module, nn.Identity) else None


def is_pyg(module: Any, place: str, name: str) -> bool:
    """Whether it is PyG's class ``name`` of ``torch_geometric.nn.{place}``, and ordinary.

    PyG takes seconds to import; who has one of its modules has imported it.
    """
    kind = type(module)
    return (
        kind.__name__ == name
        and kind.__module__ == f"torch_geometric.nn.{place}"
        and is_ordinary(module)
    )


def has_values(tensor: Tensor) -> bool:
    """Whether Python may look at entries: not where they are traced, transformed or not there."""
    return (
        type(tensor) is Tensor
        and not tensor.is_meta
        and not torch.compiler.is_compiling()
        and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    )


def is_shape_alone(tensor: Tensor) -> bool:
    """Whether it has no values at all, and never will: on the meta device, or a fake tensor."""
    return tensor.is_meta or isinstance(tensor, FakeTensor)
