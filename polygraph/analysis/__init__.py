"""Checks of what a network is, not of how well it does; and what its latent codes hold."""

from polygraph.analysis.degree import (
    DegreeReport,
    chebyshev_coefficients,
    check_degree,
    polynomial_degree,
)
from polygraph.analysis.latent import (
    CodeGaussian,
    analogy,
    decode_codes,
    encode_meshes,
    line,
)

__all__ = [
    "CodeGaussian",
    "DegreeReport",
    "analogy",
    "chebyshev_coefficients",
    "check_degree",
    "decode_codes",
    "encode_meshes",
    "line",
    "polynomial_degree",
]
