"""Angular margins of pytorch-metric-learning, with gradients that are finite at every angle.

The package comes with the extra ``verify``; `polygraph.tasks.verify.heads` imports this module when
a margin is asked for.
"""

from __future__ import annotations

import math

import torch
from pytorch_metric_learning.losses import ArcFaceLoss
from torch import Tensor


class ArcFace(ArcFaceLoss):  # type: ignore[misc] # the package has no types
    """ArcFace without arc cosine, whose slope is infinite at 0 and π.

    cos(θ + m) is cos θ cos m - sin θ sin m; beyond π - m the logit goes on falling, as in the
    package: cos θ - m sin m. The sine is held above the rounding of 1, so that its slope is finite.
    """

    def modify_cosine_of_target_classes(self, cosine_of_target_classes: Tensor) -> Tensor:
        """Unscaled logits ``[B]`` of the labels' classes from their cosines ``[B]``."""
        cosine, margin = cosine_of_target_classes, float(self.margin)  # the package's: radians
        limit = 1 - torch.finfo(cosine.dtype).eps
        inside = cosine.clamp(-limit, limit)
        sine = ((1 - inside) * (1 + inside)).sqrt()
        shifted = cosine * math.cos(margin) - sine * math.sin(margin)
        beyond = cosine - margin * math.sin(margin)
        return torch.where(cosine >= -math.cos(margin), shifted, beyond)
