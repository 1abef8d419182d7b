"""Fixtures of the data tests: where real data lies, and small meshes to write in every format."""

import os
from pathlib import Path

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def data_root_or_none():
    """Folder of real data: ``$POLYGRAPH_DATA``, default ``../shared/data``; None if absent."""
    root = Path(os.environ.get("POLYGRAPH_DATA", REPOSITORY / "../shared/data"))
    return root if root.is_dir() else None


@pytest.fixture
def data_root(data_root_or_none):
    """Folder of real data; the test is skipped where it is absent."""
    if data_root_or_none is None:
        pytest.skip("no real data here: set POLYGRAPH_DATA")
    return data_root_or_none


@pytest.fixture
def octahedron():
    """Vertices ``[6, 3]`` and faces ``[8, 3]`` of a closed surface."""
    vertices = np.array([[1, 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1.0]])
    top = [[i, (i + 1) % 4, 4] for i in range(4)]
    bottom = [[(i + 1) % 4, i, 5] for i in range(4)]
    return vertices, np.array(top + bottom)


@pytest.fixture
def moving(octahedron):
    """Twelve different float32 meshes ``[12, 6, 3]`` of one topology, and their faces."""
    noise = np.random.default_rng(0).normal(size=(12, 6, 3))
    return (octahedron[0] + 0.1 * noise).astype(np.float32), octahedron[1]


@pytest.fixture
def array_folder(tmp_path, moving):
    """A folder in form (a): vertices.npy and faces.npy."""
    folder = tmp_path / "arrays"
    folder.mkdir()
    np.save(folder / "vertices.npy", moving[0])
    np.save(folder / "faces.npy", moving[1].astype(np.int32))
    return folder


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"
