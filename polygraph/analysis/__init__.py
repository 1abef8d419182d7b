"""Checks of what a network is and of what it uses, not of how well it does; what its codes hold.

The names of :mod:`~polygraph.analysis.nonlocal_use`, which need models, are imported when they are
asked for.
"""

from typing import TYPE_CHECKING

from polygraph._lazy import lazy
from polygraph.analysis.affine import GlobalAffineMap, affine_map
from polygraph.analysis.codes import (
    PackedCodes,
    RegionCounts,
    code_neighbors,
    pack_codes,
    partition_distance,
    region_counts,
)
from polygraph.analysis.convexity import ConvexityReport, Counterexample, check_convex
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
from polygraph.analysis.latent_metric import Geodesic, LatentMetric, decoder_degree
from polygraph.analysis.multilinear import khatri_rao, mode_product
from polygraph.analysis.network_degree import BlockDegree, NetworkDegree, network_degree
from polygraph.analysis.pixel_places import (
    Places,
    chance_places,
    offset_counts,
    places_of_counts,
    places_of_table,
    weighted_offset_counts,
)
from polygraph.analysis.spline import AffineMap, FrozenNetwork, Slice, SplineLens, Walk
from polygraph.analysis.template_products import Memorisation, memorisation
from polygraph.analysis.templates import DegreeTemplates, degree_templates
from polygraph.analysis.tensors import (
    PolynomialTensors,
    coefficient_tensors,
    derivative_tensors,
)

if TYPE_CHECKING:
    from polygraph.analysis.nonlocal_use import (
        ABLATIONS,
        LayerUse,
        ablated,
        ablations_of,
        gradient_norms,
        measure_use,
        neighbor_tables,
        nonlocal_layers,
    )
else:
    __getattr__, __dir__ = lazy(
        __name__,
        names=dict.fromkeys(
            (
                "ABLATIONS",
                "LayerUse",
                "ablated",
                "ablations_of",
                "gradient_norms",
                "measure_use",
                "neighbor_tables",
                "nonlocal_layers",
            ),
            "nonlocal_use",
        ),
    )

__all__ = [
    "ABLATIONS",
    "AffineMap",
    "BlockDegree",
    "CodeGaussian",
    "ConvexityReport",
    "Counterexample",
    "DegreeReport",
    "DegreeTemplates",
    "FrozenNetwork",
    "Geodesic",
    "GlobalAffineMap",
    "LatentMetric",
    "LayerUse",
    "Memorisation",
    "NetworkDegree",
    "PackedCodes",
    "Places",
    "PolynomialTensors",
    "RegionCounts",
    "Slice",
    "SplineLens",
    "Walk",
    "ablated",
    "ablations_of",
    "affine_map",
    "analogy",
    "chance_places",
    "chebyshev_coefficients",
    "check_convex",
    "check_degree",
    "code_neighbors",
    "coefficient_tensors",
    "decode_codes",
    "decoder_degree",
    "degree_templates",
    "derivative_tensors",
    "encode_meshes",
    "gradient_norms",
    "khatri_rao",
    "line",
    "measure_use",
    "memorisation",
    "mode_product",
    "neighbor_tables",
    "network_degree",
    "nonlocal_layers",
    "offset_counts",
    "pack_codes",
    "partition_distance",
    "places_of_counts",
    "places_of_table",
    "polynomial_degree",
    "region_counts",
    "weighted_offset_counts",
]
