"""Optimizers by name: which parameters decay, a step down the gradient, its clipping."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from polygraph._checks import check_choice
from polygraph.nn.norm import SecondOrderNorm

OPTIMIZERS = ("adam", "adamw", "sgd")
# setting -> the optimizers that it is for
_BELONGS: dict[str, tuple[str, ...]] = {
    "momentum": ("sgd",),
    "nesterov": ("sgd",),
    "beta1": ("adam", "adamw"),
    "beta2": ("adam", "adamw"),
}
_NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
    SecondOrderNorm,
)


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """How weights follow from gradients; a part of `polygraph.train.config.TrainConfig`.

    Attributes:
        optimizer: ``adam`` (Kingma and Ba, ICLR 2015; weight decay is an L2 penalty, added to the
            gradient), ``adamw`` (Loshchilov and Hutter, ICLR 2019; weights shrink by learning rate
            times weight decay) or ``sgd`` (with momentum; the L2 penalty is added to the gradient).
        learning_rate: the rate that the schedule starts from, or with one-cycle rises to.
        weight_decay: 0 or more.
        decay_all: whether weight decay is also for biases, for the scales and shifts of
            normalisations and for other parameters with fewer than two dimensions.
        momentum: of SGD, in [0, 1).
        nesterov: of SGD, Nesterov's momentum.
        beta1: of Adam and AdamW, decay of the mean of the gradient, in [0, 1).
        beta2: of Adam and AdamW, decay of the mean of its square, in [0, 1).
        grad_clip: largest norm of the gradient of all parameters together; null for no limit.
        clip_value: largest absolute value of a component of the gradient; null for no limit.
    """

    optimizer: str = "adam"
    learning_rate: float = 1e-3
    weight_decay: float = 5e-5
    decay_all: bool = True
    momentum: float = 0.9
    nesterov: bool = False
    beta1: float = 0.9
    beta2: float = 0.999
    grad_clip: float | None = None
    clip_value: float | None = None

    def __post_init__(self) -> None:
        """Refuse settings that cannot train, or that the optimizer would not look at."""
        check_choice("train", "optimizer", self.optimizer, OPTIMIZERS)
        check_ranges(self, ("learning_rate", "grad_clip", "clip_value"), low=0, low_open=True)
        check_ranges(self, ("weight_decay",), low=0)
        check_ranges(self, ("momentum", "beta1", "beta2"), low=0, high=1)
        check_flags(self, ("decay_all", "nesterov"))
        check_belongs(self, "optimizer", _BELONGS)
        if self.grad_clip is not None and self.clip_value is not None:
            raise ValueError(
                "train: grad_clip and clip_value exclude each other, got "
                f"{self.grad_clip} and {self.clip_value}"
            )
        if self.nesterov and self.momentum == 0:
            raise ValueError("train: nesterov needs a momentum above 0, got 0")


def is_number(value: Any) -> bool:
    """Whether a setting is an int or a float, and no bool."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_counts(config: Any, names: tuple[str, ...], *, low: int = 1) -> None:
    """Refuse settings that are no integers from ``low``; None passes where it is the default.

    Raises:
        ValueError: names the setting, with the least value.
    """
    for name in names:
        value = getattr(config, name)
        if value is None and default_of(config, name) is None:
            continue
        if type(value) is not int or value < low:
            raise ValueError(f"train: {name} must be at least {low}, got {value!r}")


def check_ranges(
    config: Any,
    names: tuple[str, ...],
    *,
    low: float,
    high: float = math.inf,
    low_open: bool = False,
) -> None:
    """Refuse settings that are no numbers in [low, high), or (low, high) with ``low_open``.

    None passes where it is the default.

    Raises:
        ValueError: names the setting, with the range and the value.
    """
    for name in names:
        value = getattr(config, name)
        if value is None and default_of(config, name) is None:
            continue
        if is_number(value) and (low < value if low_open else low <= value) and value < high:
            continue
        if high < math.inf:
            wanted = f"in {'(' if low_open else '['}{low}, {high})"
        else:
            wanted = "positive and finite" if low_open else f"{low} or more and finite"
        raise ValueError(f"train: {name} must be {wanted}, got {value!r}")


def check_flags(config: Any, names: tuple[str, ...]) -> None:
    """Refuse settings that are neither True nor False.

    Raises:
        ValueError: names the setting.
    """
    for name in names:
        if type(getattr(config, name)) is not bool:
            raise ValueError(f"train: {name} must be true or false, got {getattr(config, name)!r}")


def check_belongs(config: Any, choice: str, belongs: dict[str, tuple[str, ...]]) -> None:
    """Refuse settings of another optimizer or schedule, which would be passed over in silence.

    Raises:
        ValueError: names the setting, its value and whose it is.
    """
    chosen = getattr(config, choice)
    for name, owners in belongs.items():
        value = getattr(config, name)
        if chosen not in owners and value != default_of(config, name):
            raise ValueError(
                f"train: {name} is for {choice} {' or '.join(owners)}, got {value!r} with "
                f"{choice} {chosen}"
            )


def default_of(config: Any, name: str) -> Any:
    """The default of a field of a dataclass."""
    return next(field.default for field in fields(config) if field.name == name)


def parameter_groups(
    module: nn.Module, weight_decay: float, *, decay_all: bool = True
) -> list[dict[str, Any]]:
    """The parameters of a module as an optimizer takes them, by their weight decay.

    Args:
        module: on any device.
        weight_decay: of the first group.
        decay_all: one group. Otherwise there are two, with the order of `Module.parameters` in
            each: the second, without decay, has the biases, all parameters of normalisations
            (those of `SecondOrderNorm` may have a scale at every vertex) and those with fewer than
            two dimensions. Groups without parameters are left out.
    """
    if decay_all:
        return [{"params": list(module.parameters()), "weight_decay": weight_decay}]
    owners = dict(module.named_modules())
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        owner, _, own = name.rpartition(".")
        free = parameter.ndim < 2 or isinstance(owners[owner], _NORMS)
        (spared if free or own.endswith(("bias", "offsets")) else decayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def make_optimizer(
    config: OptimizerConfig, module: nn.Module, *, fused: bool | None = None
) -> Optimizer:
    """The optimizer of a configuration, one of PyTorch's, for all parameters of a module.

    Args:
        config: of a run; the schedule sets the learning rate before every step.
        module: its parameters on the device where they train, or before Fabric moves them there.
        fused: one kernel for all parameters, which on the CPU saves milliseconds per step; its
            results differ from the plain loop's in rounding. None: fused, but where a loss scaler
            (precision ``16-mixed``) has to see the gradients before they are clipped.
    """
    if fused is None:
        fused = getattr(config, "precision", None) != "16-mixed"
    groups = parameter_groups(module, config.weight_decay, decay_all=config.decay_all)
    rate = config.learning_rate
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            groups, lr=rate, momentum=config.momentum, nesterov=config.nesterov, fused=fused
        )
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=rate, betas=(config.beta1, config.beta2), fused=fused)


def descend(
    fabric: Any,
    module: Any,
    optimizer: Any,
    loss: Tensor,
    grad_clip: float | None = None,
    clip_value: float | None = None,
) -> None:
    """One step down the gradient of a loss: what `Task.training_step` does with one optimizer.

    Args:
        fabric: launched Fabric.
        module: as Fabric wrapped it.
        optimizer: as Fabric wrapped it.
        loss: scalar.
        grad_clip: largest norm of the gradient, or None.
        clip_value: largest absolute value of a component of the gradient, or None.
    """
    optimizer.zero_grad(set_to_none=True)
    fabric.backward(loss)
    if grad_clip is not None:
        fabric.clip_gradients(
            module,
            optimizer,
            max_norm=grad_clip,
            error_if_nonfinite=False,  # the loop stops with its own message
        )
    if clip_value is not None:
        fabric.clip_gradients(module, optimizer, clip_val=clip_value)
    optimizer.step()
