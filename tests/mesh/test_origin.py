"""Coordinates far from 0 keep their digits in float32, or are refused."""

import numpy as np
import pytest

from polygraph.mesh import MeshError
from polygraph.mesh.origin import ZERO, checked_point, origin_of, to_float32

MAP = np.array([691234.123, 5334567.891, 512.345])  # metres, of a map
CUBE = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)]) * 0.013


def test_a_small_cube_on_a_map():
    origin = origin_of(CUBE + MAP)
    np.testing.assert_allclose(origin, MAP + 0.0065, atol=1e-8)
    single = to_float32((CUBE + MAP)[None], "cubes", 0, origin)
    assert single.dtype == np.float32
    back = single.astype(np.float64) + origin
    assert np.abs(back - (CUBE + MAP)).max() <= 1e-9


@pytest.mark.parametrize("offset", [0.0, 0.013, -0.5])
def test_near_zero_nothing_moves(offset):
    assert origin_of(CUBE + offset) == ZERO
    mesh = (CUBE + offset)[None]
    assert np.array_equal(to_float32(mesh, "cubes", 0), mesh.astype(np.float32))


@pytest.mark.parametrize(
    "points",
    [np.zeros((1, 3)) + 5, CUBE + np.inf, CUBE + np.nan, (CUBE - 0.0065) * 1e308 * 200],
    ids=["point", "inf", "nan", "huge"],
)
def test_no_origin_for_a_point_or_what_is_not_finite(points):
    assert origin_of(points) == ZERO


def test_what_is_too_coarse_even_so():
    origin = origin_of(CUBE + MAP)
    meshes = np.stack([CUBE + MAP, CUBE + MAP + 1.0, CUBE + MAP + [0, 0, 900]])
    to_float32(meshes[:2], "cubes", 5, origin)
    numbers = r"mesh 7 is 0\.013 large and up to 900\.00\d* away .* by up to 5\.36e-05"
    with pytest.raises(MeshError, match=f"^cubes: {numbers}"):
        to_float32(meshes, "cubes", 5, origin)
    with pytest.raises(MeshError, match=r"^clouds: cloud 0 is 0\.013 large and up to 53345"):
        to_float32((CUBE + MAP)[None], "clouds", 0, kind="cloud")


def test_a_point_that_is_not_finite_is_named():
    with pytest.raises(MeshError, match=r"^cubes: mesh 3: vertex 1 is not a finite float32"):
        to_float32(np.array([CUBE, CUBE * [1, 1, 1e41]]), "cubes", 2)


@pytest.mark.parametrize("bad", [None, [1, 2], [1, 2, "3"], [1, 2, True], [1, 2, float("nan")]])
def test_bad_points(bad):
    with pytest.raises(ValueError, match=r"^origin must be three finite numbers, got "):
        checked_point(bad)
    assert checked_point([1, 2.5, 3]) == (1.0, 2.5, 3.0)
