"""Heads that teach embeddings: softmax, and margins between the directions of identities.

A head has a weight for each identity of the training set, and is thrown away after training: what
verifies are the embeddings. Margins come from pytorch-metric-learning, extra ``verify``.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from polygraph._checks import check_choice, check_positive

LOSSES = ("softmax", "norm-softmax", "arcface", "cosface")
MARGINS = {"arcface": 0.5, "cosface": 0.35}  #: usual ones: radians; of the cosine


def adacos_scale(num_classes: int) -> float:
    """The scale that suits a number of classes: sqrt(2) ln(C - 1).

    Source: Zhang et al., "AdaCos", CVPR 2019, equation 12. With the usual 64 of faces, which is for
    some 100,000 identities, a few classes are never far enough apart to give a gradient.

    Args:
        num_classes: C, at least 3.

    Raises:
        ValueError: there are fewer classes, for which it is 0 or nothing.

    Example:
        >>> from polygraph.tasks.verify.heads import adacos_scale
        >>> round(adacos_scale(10), 1), round(adacos_scale(93431), 1)
        (3.1, 16.2)
    """
    if num_classes < 3:
        raise ValueError(
            f"adacos_scale: num_classes must be at least 3, got {num_classes}: give a logit_scale"
        )
    return math.sqrt(2) * math.log(num_classes - 1)


def check_head(owner: str, loss: str, margin: float | None, logit_scale: float | None) -> None:
    """Refuse a margin or a scale that means nothing.

    Raises:
        ValueError: an unknown loss; a margin of a loss without one, or out of range; a scale that
            is not positive; ``owner`` begins the message.
    """
    check_choice(owner, "loss", loss, LOSSES)
    if margin is not None:
        if loss not in MARGINS:
            raise ValueError(f"{owner}: margin is for {' and '.join(MARGINS)}, not for {loss}")
        most = math.pi if loss == "arcface" else 2.0
        if not 0 <= margin < most:
            raise ValueError(f"{owner}: margin must be in [0, {most:.3g}), got {margin}")
    if logit_scale is not None:
        if loss == "softmax":
            raise ValueError(f"{owner}: logit_scale is for losses of cosines, not for softmax")
        if not (logit_scale > 0 and math.isfinite(logit_scale)):
            raise ValueError(f"{owner}: logit_scale must be positive and finite, got {logit_scale}")


class SoftmaxHead(nn.Module):
    """Cross-entropy of a linear layer with biases.

    Args:
        embedding_dim: D.
        num_classes: C.

    Call it with embeddings ``[B, D]`` and labels int64 ``[B]``; it returns the loss, a scalar, and
    logits ``[B, C]``.
    """

    def __init__(self, embedding_dim: int, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(embedding_dim, num_classes)

    def forward(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The loss and the logits."""
        logits = self.logits(embeddings)
        return functional.cross_entropy(logits, labels), logits

    def logits(self, embeddings: Tensor) -> Tensor:
        """``[B, C]``."""
        found: Tensor = self.linear(embeddings)
        return found

    def rows(self) -> Tensor:
        """What the identities are, ``[C, D]``."""
        return self.linear.weight


class MarginHead(nn.Module):
    """Cross-entropy of scaled cosines, with a margin for the label's.

    Computed in float32 at least, also where the network is in a half type.

    Args:
        loss: a loss of pytorch-metric-learning with weights ``W``.

    Call it with embeddings ``[B, D]`` and labels int64 ``[B]``; it returns the loss, a scalar, and
    logits ``[B, C]`` without the margin.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The loss and the logits."""
        with torch.autocast(embeddings.device.type, enabled=False):
            rows = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))
            loss: Tensor = self.loss(rows, labels)
        with torch.no_grad():
            return loss, self.logits(rows.detach())

    def logits(self, embeddings: Tensor) -> Tensor:
        """``[B, C]``, without the margin; they can be differentiated."""
        with torch.autocast(embeddings.device.type, enabled=False):
            rows = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))
            found: Tensor = self.loss.get_logits(rows)  # type: ignore[operator]
        return found

    def rows(self) -> Tensor:
        """What the identities are, ``[C, D]``; their lengths do not matter."""
        weight: Tensor = self.loss.W  # type: ignore[assignment]
        return weight.mT


def make_head(
    loss: str,
    embedding_dim: int,
    num_classes: int,
    *,
    margin: float | None = None,
    logit_scale: float | None = None,
) -> SoftmaxHead | MarginHead:
    """A head by name.

    With cosines cos θ_j between an embedding and the classes' weights, y the label:

    - ``softmax``: logits w_jᵀ x + b_j;
    - ``norm-softmax``: s cos θ_j (Wang et al., "NormFace", ACM MM 2017);
    - ``arcface``: s cos(θ_y + m), for θ_y > π - m s (cos θ_y - m sin m), and s cos θ_j (Deng et
      al., CVPR 2019, equation 3);
    - ``cosface``: s (cos θ_y - m), and s cos θ_j (Wang et al., CVPR 2018, equation 4).

    Args:
        loss: one of `LOSSES`.
        embedding_dim: D.
        num_classes: C.
        margin: m, in radians for ``arcface``; None: 0.5, for ``cosface`` 0.35.
        logit_scale: s; None: `adacos_scale` of C.

    Raises:
        ImportError: pytorch-metric-learning is missing; the message names the extra.
        ValueError: a setting is bad, see `check_head`.

    Example:
        >>> import torch
        >>> from polygraph.tasks.verify.heads import make_head
        >>> head = make_head("arcface", 16, 10, margin=0.3)
        >>> loss, logits = head(torch.randn(4, 16), torch.arange(4))
        >>> loss.shape, logits.shape
        (torch.Size([]), torch.Size([4, 10]))
    """
    check_head("make_head", loss, margin, logit_scale)
    check_positive("make_head", embedding_dim=embedding_dim, num_classes=num_classes)
    if loss == "softmax":
        return SoftmaxHead(embedding_dim, num_classes)
    scale = adacos_scale(num_classes) if logit_scale is None else logit_scale
    margin = MARGINS.get(loss, 0.0) if margin is None else margin
    return MarginHead(_metric_loss(loss, embedding_dim, num_classes, margin, scale))


def _metric_loss(loss: str, width: int, classes: int, margin: float, scale: float) -> Any:
    try:
        from pytorch_metric_learning.losses import CosFaceLoss, NormalizedSoftmaxLoss

        from polygraph.tasks.verify.margin_losses import ArcFace
    except ImportError as error:
        raise ImportError(
            f"loss {loss!r} needs pytorch-metric-learning: pip install 'polygraph-nn[verify]'"
        ) from error
    if loss == "norm-softmax":
        return NormalizedSoftmaxLoss(classes, width, temperature=1 / scale)
    if loss == "cosface":
        return CosFaceLoss(classes, width, margin=margin, scale=scale)
    return ArcFace(classes, width, margin=math.degrees(margin), scale=scale)
