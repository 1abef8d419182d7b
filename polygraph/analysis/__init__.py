"""Checks of what a network is, not of how well it does."""

from polygraph.analysis.degree import (
    DegreeReport,
    check_degree,
    chebyshev_coefficients,
    polynomial_degree,
)

__all__ = ["DegreeReport", "check_degree", "chebyshev_coefficients", "polynomial_degree"]
