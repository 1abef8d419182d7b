"""Classifiers whose templates are made orthogonal: penalties on what the classes look for.

Where a network is affine, its logits are ``A[x] x + b[x]``; row c of ``A[x]``, the gradient of the
logit c, is the template of class c. Source: Balestriero and Baraniuk, "A Spline Theory of Deep
Learning", ICML 2018, section 6, which penalises the last layer's rows (eq. 13); on the templates
themselves, and by random probes, it is ours.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from polygraph._checks import check_choice

KINDS = ("weights", "templates", "probes")


def check_orthogonality(owner: str, factor: float, on: str, unit: bool = False) -> None:
    """Refuse a factor that is negative or not finite, and unknown kinds.

    Raises:
        ValueError: names the setting.
    """
    if not 0 <= factor < math.inf:
        raise ValueError(f"{owner}: orthogonality must be finite and at least 0, got {factor}")
    check_choice(owner, "orthogonality_on", on, KINDS)
    if type(unit) is not bool:
        raise ValueError(f"{owner}: orthogonality_unit must be true or false, got {unit!r}")
    if unit and on == "probes":
        raise ValueError(
            f"{owner}: orthogonality_unit needs the rows, which probes do not see: penalise "
            "weights or templates"
        )


def orthogonality_settings(factor: float, on: str, unit: bool = False) -> dict[str, float | str]:
    """What decides about a run's weights: nothing without the penalty, as before there was one."""
    if factor == 0:
        return {}
    found: dict[str, float | str] = {"orthogonality": factor, "orthogonality_on": on}
    return {**found, "orthogonality_unit": True} if unit else found


def orthogonality_penalty(rows: Tensor, *, unit: bool = False) -> Tensor:
    """``Σ_{c≠c'} <w_c, w_c'>²`` over ordered pairs of rows (eq. 13); 0 where they are orthogonal.

    Args:
        rows: ``[..., C, D]``.
        unit: whether rows are divided by their lengths first: products are cosines then, and rows
            gain nothing by being short.

    Returns:
        ``[...]``.

    Raises:
        ValueError: there are fewer than two dimensions.

    Example:
        >>> import torch
        >>> from polygraph.train.orthogonality import orthogonality_penalty
        >>> orthogonality_penalty(torch.tensor([[1.0, 0.0], [2.0, 1.0]]))
        tensor(8.)

    See Also:
        `templates`, whose rows may be given.
    """
    if rows.dim() < 2:
        raise ValueError(
            f"orthogonality_penalty: rows must have shape [..., C, D], got {list(rows.shape)}"
        )
    rows = nn.functional.normalize(rows, dim=-1) if unit else rows
    products = rows @ rows.mT
    return products.triu(1).square().sum((-2, -1)) * 2


def mean_cosine(rows: Tensor) -> Tensor:
    """The mean magnitude of the cosine between different rows: what the penalties are to lower.

    Args:
        rows: ``[..., C, D]``, C >= 2; a row of zeros is orthogonal to all.

    Returns:
        ``[...]``, in [0, 1].

    Raises:
        ValueError: there are fewer than two rows.

    Example:
        >>> import torch
        >>> from polygraph.train.orthogonality import mean_cosine
        >>> mean_cosine(torch.tensor([[1.0, 0.0], [-3.0, 4.0]]))
        tensor(0.6000)

    See Also:
        `orthogonality_penalty`, which depends on the rows' lengths; `templates`.
    """
    if rows.dim() < 2 or rows.shape[-2] < 2:
        raise ValueError(
            f"mean_cosine: rows must have shape [..., C, D] with C >= 2, got {list(rows.shape)}"
        )
    C = rows.shape[-2]
    unit = nn.functional.normalize(rows, dim=-1)
    return (unit @ unit.mT).triu(1).abs().sum((-2, -1)) / (C * (C - 1) / 2)


def templates(logits: Tensor, inputs: Tensor, *, create_graph: bool = False) -> Tensor:
    """The gradient of every logit in the inputs: C backward passes.

    Args:
        logits: ``[B, C]``, made from ``inputs``.
        inputs: ``[B, ...]``, with ``requires_grad``.
        create_graph: whether the templates are to be differentiated.

    Returns:
        ``[B, C, ...]``. With a BatchNorm in training mode, where samples act on each other, the
        gradients of the batch's summed logits.

    Raises:
        ValueError: the logits are not ``[B, C]``.

    Example:
        >>> import torch
        >>> from polygraph.train.orthogonality import templates
        >>> layer, x = torch.nn.Linear(4, 3), torch.randn(2, 4, requires_grad=True)
        >>> torch.equal(templates(layer(x), x)[1], layer.weight)
        True

    See Also:
        `probe_penalty`, at the cost of two passes.
    """
    _check_logits("templates", logits)
    found = [
        torch.autograd.grad(
            column.sum(), inputs, create_graph=create_graph, retain_graph=True,
            materialize_grads=True,
        )[0]
        for column in logits.unbind(1)
    ]  # fmt: skip
    return torch.stack(found, 1)


def probe_penalty(logits: Tensor, inputs: Tensor) -> Tensor:
    """An unbiased estimate of ``Σ_{c,c'} <A_c, A_c'>²`` from two backward passes.

    For vectors u, v of independent random signs over classes ``E <Aᵀu, Aᵀv>² = ‖A Aᵀ‖²``. The
    products of templates with themselves are among them: they act as a decay of the templates.

    Args:
        logits: ``[B, C]``, made from ``inputs``.
        inputs: ``[B, ...]``, with ``requires_grad``.

    Returns:
        ``[B]``, which can be differentiated. The signs come from the global generator of the
        device.

    Raises:
        ValueError: the logits are not ``[B, C]``.

    Example:
        >>> import torch
        >>> from polygraph.train.orthogonality import probe_penalty
        >>> layer, x = torch.nn.Linear(4, 3), torch.randn(2, 4, requires_grad=True)
        >>> probe_penalty(layer(x), x).shape
        torch.Size([2])

    See Also:
        `templates`.
    """
    _check_logits("probe_penalty", logits)
    sides = []
    for _ in range(2):
        signs = torch.randint_like(logits, 2) * 2 - 1
        (side,) = torch.autograd.grad(
            logits, inputs, signs, create_graph=True, materialize_grads=True
        )
        sides.append(side.flatten(1))
    return (sides[0] * sides[1]).sum(1).square()


def _check_logits(owner: str, logits: Tensor) -> None:
    if logits.dim() != 2:
        raise ValueError(f"{owner}: logits must have shape [B, C], got {list(logits.shape)}")


def last_linear(model: nn.Module) -> nn.Linear:
    """The last linear layer of a network, in the order of its modules.

    Raises:
        ValueError: there is none.
    """
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise ValueError(
            f"orthogonality: {type(model).__name__} has no linear layer whose rows are the "
            "classes': penalise templates or probes"
        )
    return layers[-1]


def network_penalty(
    model: nn.Module, on: str, logits: Tensor, inputs: Tensor, *, unit: bool = False
) -> Tensor:
    """The penalty of a network at a batch, a scalar: the mean over its samples.

    Args:
        model: which made the logits.
        on: ``weights``, the rows of the last linear layer; ``templates``; ``probes``.
        logits: ``[B, C]``; of weights ``[..., C]``.
        inputs: ``[B, ...]``, with ``requires_grad`` unless it is about weights.
        unit: see `orthogonality_penalty`; not of ``probes``.

    Raises:
        ValueError: the last linear layer has other rows than there are logits.
    """
    if on == "weights":
        weight = last_linear(model).weight
        if len(weight) != logits.shape[-1]:
            raise ValueError(
                f"orthogonality: the last linear layer has {len(weight)} rows for "
                f"{logits.shape[-1]} logits: penalise templates or probes"
            )
        return orthogonality_penalty(weight, unit=unit)
    if on == "templates":
        rows = templates(logits, inputs, create_graph=True).flatten(2)
        return orthogonality_penalty(rows, unit=unit).mean()
    return probe_penalty(logits, inputs).mean()
