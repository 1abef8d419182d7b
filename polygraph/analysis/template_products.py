"""How much of each input its own classes' templates hold.

Where a network is affine, ``f(x) = A[x] x + b[x]``. A network with nothing to do but to memorise
makes the template of the true class a multiple of the input, and those of the other classes
negative multiples of it (Balestriero and Baraniuk, ICML 2018, proposition 5): with C classes, as
C - 1 to -1. The inner products of the templates with the input tell how near it comes to that.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Memorisation:
    """Inner products of inputs with the templates of their classes.

    Attributes:
        true: ``[N]``, ``<A[x_n]_c, x_n>`` of the class c = y_n.
        false: ``[N, C-1]``, of the other classes, ascending.
        auc: how often a product of a true class is above one of a false class, over all pairs;
            equal ones count half.
        sign_split: share of the true classes' products that are above 0, and of the false ones'
            that are below, averaged.
        ratio: mean size of the true classes' products over that of the false ones': C - 1 in the
            ideal case.

    Example:
        >>> import torch
        >>> from polygraph.analysis import memorisation
        >>> x, labels = torch.eye(3), torch.arange(3)
        >>> ideal = torch.nn.Linear(3, 3, bias=False)
        >>> with torch.no_grad():
        ...     _ = ideal.weight.copy_(3 * torch.eye(3) - 1)
        >>> memorisation(ideal, x, labels)
        Memorisation(3 samples, 3 classes, auc=1.0000, sign_split=1.0000, ratio=2.00)

    See Also:
        `memorisation`, which measures it.
    """

    true: Tensor
    false: Tensor
    auc: float
    sign_split: float
    ratio: float

    def histograms(self, bins: int = 50) -> tuple[Tensor, Tensor, Tensor]:
        """Edges ``[bins + 1]`` that both share, and counts ``[bins]`` of true and false classes.

        Raises:
            ValueError: ``bins`` is not positive.
        """
        if bins < 1:
            raise ValueError(f"histograms: bins must be a positive integer, got {bins}")
        low = min(self.true.min().item(), self.false.min().item())
        high = max(self.true.max().item(), self.false.max().item())
        edges = torch.linspace(low, high, bins + 1, dtype=torch.float64)
        true, false = (
            torch.bucketize(values.flatten(), edges[1:-1], right=True).bincount(minlength=bins)
            for values in (self.true, self.false)
        )
        return edges, true, false

    def __repr__(self) -> str:
        """One line."""
        return (
            f"Memorisation({len(self.true)} samples, {self.false.shape[1] + 1} classes, "
            f"auc={self.auc:.4f}, sign_split={self.sign_split:.4f}, ratio={self.ratio:.2f})"
        )


def memorisation(
    model: nn.Module, images: Tensor, labels: Tensor, *, batch_size: int = 100
) -> Memorisation:
    """Inner products ``<A[x]_c, x>`` of inputs with all their templates.

    All classes at once: ``A x`` is the derivative of ``wᵀ A x`` in w, so that two backward passes
    do for C. The model is put into eval mode, and back.

    Args:
        model: maps inputs to logits ``[B, C]``; piecewise affine, else ``A[x]`` is its derivative.
        images: ``[N, ...]``, of the model's dtype and on its device, as it sees them; the usual
            normalisation is mean 0 and largest magnitude 1 of each.
        labels: integers ``[N]`` in [0, C).
        batch_size: samples at a time.

    Returns:
        The products, in float64 on the CPU, and what they say together.

    Raises:
        ValueError: there are no images, other labels than images or classes, or ``batch_size`` is
            not positive; logits are not ``[B, C]`` with two classes or more.

    Example:
        >>> import torch
        >>> from polygraph.analysis import memorisation
        >>> found = memorisation(torch.nn.Linear(4, 3), torch.randn(8, 4), torch.arange(8) % 3)
        >>> found.true.shape, found.false.shape
        (torch.Size([8]), torch.Size([8, 2]))

    See Also:
        `polygraph.train.orthogonality.templates`.
    """
    if not len(images) or labels.shape != images.shape[:1] or labels.is_floating_point():
        raise ValueError(
            f"memorisation: labels must be integers [N] of N >= 1 images, got {labels.dtype} "
            f"{list(labels.shape)} for {len(images)}"
        )
    if batch_size < 1:
        raise ValueError(f"memorisation: batch_size must be a positive integer, got {batch_size}")
    training = model.training
    model.eval()
    try:
        products = torch.cat([_products(model, x) for x in torch.split(images, batch_size)])
    finally:
        model.train(training)
    labels, classes = labels.cpu().long(), products.shape[1]
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise ValueError(f"memorisation: labels must be in [0, {classes})")
    own = torch.nn.functional.one_hot(labels, classes).bool()
    true, false = products[own], products[~own].view(len(products), -1)
    split = ((true > 0).double().mean() + (false < 0).double().mean()) / 2
    ratio = (true.abs().mean() / false.abs().mean()).item()
    return Memorisation(true, false, _auc(true, false.flatten()), split.item(), ratio)


def _products(model: nn.Module, x: Tensor) -> Tensor:
    """``[B, C]``, float64 on the CPU."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        logits = model(x)
        if logits.dim() != 2 or logits.shape[1] < 2:
            raise ValueError(
                f"memorisation: logits must have shape [B, C] with C >= 2, got {list(logits.shape)}"
            )
        weights = torch.zeros_like(logits, requires_grad=True)
        (pulled,) = torch.autograd.grad(logits, x, weights, create_graph=True)
        (found,) = torch.autograd.grad((pulled * x.detach()).sum(), weights)
    return found.double().cpu()


def _auc(above: Tensor, below: Tensor) -> float:
    """Mann and Whitney's: the share of pairs in order."""
    ordered = below.sort().values
    less = torch.searchsorted(ordered, above, side="left")
    most = torch.searchsorted(ordered, above, side="right")
    return ((less + most).double().mean() / (2 * len(below))).item()
