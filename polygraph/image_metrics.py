"""The earlier name of :mod:`polygraph.metrics.image_scores`."""

from polygraph.metrics.image_scores import *  # noqa: F403
