"""Checks of what a network is, not of how well it does."""

from polygraph.analysis.degree import (
    DegreeReport,
    chebyshev_coefficients,
    check_degree,
    polynomial_degree,
)

__all__ = ["DegreeReport", "chebyshev_coefficients", "check_degree", "polynomial_degree"]
