"""Fixtures of the mesh tests."""

import os
from pathlib import Path

import numpy as np
import pytest
from support.mesh_shapes import SHAPES


@pytest.fixture(params=sorted(SHAPES))
def any_mesh(request):
    """Vertices and faces of one mesh of each kind."""
    return SHAPES[request.param]()


@pytest.fixture(scope="session")
def coma_template():
    """Vertices and faces of the CoMA template, from POLYGRAPH_DATA."""
    default = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    path = Path(os.environ.get("POLYGRAPH_DATA", default)) / "coma-template" / "template.npz"
    if not path.is_file():
        pytest.skip(f"no CoMA template at {path}; set POLYGRAPH_DATA")
    with np.load(path) as archive:
        return archive["v"].astype(float), archive["f"].astype(int)
