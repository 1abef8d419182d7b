"""Numbers that bounds on log p(x) are reported in: bits per dimension, active units."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

ACTIVE = 0.01  #: least variance of an active unit


def bits_per_dimension(bound: float, numbers: int, log_width: float = 0.0) -> float:
    """Bits that a number of a sample takes, by a bound on its log density.

    A density becomes the probability of a step of a scale (a grey level, a millimetre) as density
    times width, which is right where the density hardly changes within a step.

    Args:
        bound: on log p(x) of a sample, in nats.
        numbers: D of a sample.
        log_width: log of the width of a step in the units of the density, a mean over the D
            numbers; 0 for bits, which have probabilities and not densities.

    Raises:
        ValueError: no numbers, or a width that is not finite.

    Example:
        >>> import math
        >>> from polygraph.metrics import bits_per_dimension
        >>> bits_per_dimension(-8 * math.log(2), 4)
        2.0

    See Also:
        `polygraph.models.vae.VariationalMixin.elbo`, which gives bounds.
    """
    if numbers < 1 or not math.isfinite(log_width):
        raise ValueError(
            "bits_per_dimension: numbers must be positive and log_width finite, got "
            f"{numbers} and {log_width}"
        )
    return -(bound / numbers + log_width) / math.log(2)


def active_units(means: ArrayLike, threshold: float = ACTIVE) -> int:
    """How many numbers of the codes depend on the data: the variance of their means is above 0.01.

    Source: Burda, Grosse and Salakhutdinov, "Importance Weighted Autoencoders", ICLR 2016, section
    5.2.

    Args:
        means: of the posteriors of many samples, ``[N, L]``.
        threshold: of the variance over the samples.

    Raises:
        ValueError: fewer than two samples, or means that are not finite.

    Example:
        >>> import numpy as np
        >>> from polygraph.metrics import active_units
        >>> active_units(np.random.default_rng(0).normal(0, [1.0, 0.5, 0.01], (100, 3)))
        2

    See Also:
        `bits_per_dimension`.
    """
    values: Any = np.asarray(means, dtype=np.float64)
    if values.ndim != 2 or len(values) < 2 or not np.isfinite(values).all():
        raise ValueError(
            "active_units: means must be finite, [N, L] of two samples or more, got shape "
            f"{list(values.shape)}"
        )
    return int((values.var(0) > threshold).sum())
