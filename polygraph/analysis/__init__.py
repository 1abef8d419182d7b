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
from polygraph.analysis.templates import DegreeTemplates, degree_templates
from polygraph.analysis.tensors import (
    PolynomialTensors,
    coefficient_tensors,
    derivative_tensors,
    khatri_rao,
    mode_product,
)

__all__ = [
    "CodeGaussian",
    "DegreeReport",
    "DegreeTemplates",
    "PolynomialTensors",
    "analogy",
    "chebyshev_coefficients",
    "check_degree",
    "coefficient_tensors",
    "decode_codes",
    "degree_templates",
    "derivative_tensors",
    "encode_meshes",
    "khatri_rao",
    "line",
    "mode_product",
    "polynomial_degree",
]
