"""Deep learning on graphs, meshes and images-as-graphs: fast operators and polynomial networks.

``import polygraph`` is enough: what is below is imported when it is asked for.

=============================  =====================================================================
:mod:`polygraph.ops`           operators, compiled and differentiable any number of times
:mod:`polygraph.nn`            layers over them, and polynomial blocks over any linear operator
:mod:`polygraph.models`        models of meshes, points and images, also by name
:mod:`polygraph.mesh`          meshes: reading, decimation, spirals, hierarchies
:mod:`polygraph.data`          data sets
:mod:`polygraph.transforms`    transforms for PyG (imports it, which takes seconds)
:mod:`polygraph.metrics`       vertex errors, scores of images
:mod:`polygraph.analysis`      the degree of a network, arithmetic on latent codes
:mod:`polygraph.tasks`         what is trained, evaluated and used
:mod:`polygraph.train`         the engine of training
:mod:`polygraph.report`        pictures and tables
:mod:`polygraph.reference`     the operators in a few lines of PyTorch each
=============================  =====================================================================
"""

from typing import TYPE_CHECKING

from polygraph._lazy import lazy

__version__ = "0.1.0"

__all__ = [
    "analysis",
    "data",
    "mesh",
    "metrics",
    "models",
    "nn",
    "ops",
    "reference",
    "report",
    "tasks",
    "train",
    "transforms",
]

if TYPE_CHECKING:
    from polygraph import (
        analysis,
        data,
        mesh,
        metrics,
        models,
        nn,
        ops,
        reference,
        report,
        tasks,
        train,
        transforms,
    )
else:
    __getattr__, __dir__ = lazy(__name__, __all__)
