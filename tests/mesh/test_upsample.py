"""Up-sampling: the closest face, exactly, and weights that interpolate."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.mesh_shapes import fan, isolated, sphere, two_parts
from trimesh.triangles import closest_point

from polygraph.mesh import MeshError, barycentric, decimate, least_squares
from polygraph.mesh.upsample import closest_faces

# Distances of order one from a few dozen float64 operations.
ROUNDING = 1e-13


def brute_force(points, corners):
    """Distance from every point to its closest triangle, by someone else's code on all pairs."""
    p = np.repeat(points, len(corners), axis=0)
    q = closest_point(np.tile(corners, (len(points), 1, 1)), p)
    return np.linalg.norm(p - q, axis=1).reshape(len(points), -1)


def check_closest(points, vertices, faces):
    face, weight = closest_faces(points, vertices, faces)
    assert (weight >= 0).all()
    np.testing.assert_allclose(weight.sum(1), 1, rtol=0, atol=1e-15)
    reached = np.einsum("pt,ptc->pc", weight, vertices[faces[face]])
    distance = brute_force(points, vertices[faces])
    scale = np.abs(points).max() + np.abs(vertices).max()
    # What is reached lies on the mesh, so it can only be too far; trimesh is, for tiny triangles.
    ours = np.linalg.norm(points - reached, axis=1)
    assert (ours <= distance.min(1) + ROUNDING * scale).all()


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.floats(0, 3), st.floats(0, 1000))
def test_closest_face_of_a_soup(seed, spread, offset):
    """Triangles whose sizes differ by orders of magnitude, near and far points, away from 0."""
    rng = np.random.default_rng(seed)
    size = 10.0 ** rng.uniform(-spread, 0, (40, 1, 1))
    corners = rng.standard_normal((40, 1, 3)) + size * rng.standard_normal((40, 3, 3)) + offset
    faces = np.arange(120).reshape(40, 3)
    points = rng.standard_normal((60, 3)) * 10.0 ** rng.uniform(-2, 1, (60, 1)) + offset
    on_surface = np.einsum("pt,ptc->pc", rng.dirichlet([1, 1, 1], 40), corners)
    check_closest(np.concatenate([points, on_surface]), corners.reshape(-1, 3), faces)


def test_closest_face_of_a_decimated_mesh():
    v, f = sphere(3)
    v = v * (1 + 0.3 * np.sin(4 * v[:, :1]))
    coarse = decimate(v, f, 100)
    check_closest(v, v[coarse.keep], coarse.faces)


def test_many_candidates_come_in_pieces(monkeypatch):
    monkeypatch.setitem(closest_faces.__globals__, "_PAIRS_AT_ONCE", 50)
    monkeypatch.setitem(closest_faces.__globals__, "_POINTS_AT_ONCE", 17)
    v, f = sphere(2)
    check_closest(np.random.default_rng(0).standard_normal((100, 3)) * 0.1, v, f)


def test_flat_triangles():
    vertices = np.array([[0, 0, 0], [1, 0, 0], [3, 0, 0], [0, 5, 0], [0, 5, 0.0]])
    faces = np.array([[0, 1, 2], [2, 0, 1], [3, 4, 3]])  # on a line, again, and in a point
    points = np.array([[2, 1, 0], [-1, 0, 1], [9, 0, 0], [0.2, 4, 0]])
    face, weight = closest_faces(points, vertices, faces)
    reached = np.einsum("pt,ptc->pc", weight, vertices[faces[face]])
    np.testing.assert_allclose(reached, [[2, 0, 0], [0, 0, 0], [3, 0, 0], [0, 5, 0]], atol=1e-15)
    assert face.tolist() == [0, 0, 0, 2]


@pytest.mark.parametrize("weights", [barycentric, least_squares])
@pytest.mark.parametrize("shape", [sphere, two_parts, isolated])
def test_kept_vertices_map_to_themselves(weights, shape):
    v, f = shape()
    v = v + 0.1  # generic for least squares, whose weights depend on the origin
    coarse = decimate(v, f, 60)
    index, weight = weights(v, v[coarse.keep], coarse.faces)
    assert index.shape == weight.shape == (len(v), 3)
    assert index.dtype == np.int64
    assert weight.dtype == np.float64
    rows = np.arange(60)
    own = np.where(index[coarse.keep] == rows[:, None], weight[coarse.keep], 0)
    assert (own.max(1) == 1).all()
    assert (np.abs(weight[coarse.keep]).sum(1) == 1).all()


def test_rows_are_convex_combinations(any_mesh):
    v, f = any_mesh
    fine = v + 0.2 * np.random.default_rng(0).standard_normal(v.shape)
    index, weight = barycentric(fine, v, f)
    assert (weight >= 0).all()
    np.testing.assert_allclose(weight.sum(1), 1, rtol=0, atol=1e-15)
    assert index.min() >= 0
    assert index.max() < len(v)


def test_isolated_coarse_vertex_takes_part():
    v, f = isolated()
    index, weight = barycentric(np.array([[7.0, 0.1, 0]]), v, f)
    assert index[0, weight[0] == 1].tolist() == [len(v) - 1]


def test_known_weights():
    v, f = fan()
    fine = np.array([[0.5, 0.0, 0.5], [0, 0, 0.25], [9, 0, 0.5]])
    index, weight = barycentric(fine, v, f)
    dense = np.zeros((3, 5))
    np.add.at(dense, (np.arange(3)[:, None], index), weight)
    want = [[0.25, 0.25, 0.5, 0, 0], [0.75, 0.25, 0, 0, 0], [0, 0, 1, 0, 0]]
    np.testing.assert_allclose(dense, want, rtol=0, atol=1e-15)


@pytest.mark.parametrize("scale", [2.0**-500, 2.0**500])
def test_unit_of_length_does_not_matter(scale):
    v, f = sphere(2)
    coarse = decimate(v, f, 50)
    index, weight = barycentric(v, v[coarse.keep], coarse.faces)
    scaled = barycentric(v * scale, v[coarse.keep] * scale, coarse.faces)
    np.testing.assert_array_equal(scaled[0], index)
    np.testing.assert_array_equal(scaled[1], weight)


def published_weights(p, corners, q):
    """Weights of the corners, for a vertex p whose nearest point q is made of all of them.

    Three corners, a face: of the nearest point. Two, an edge: of the vertex itself.
    """
    if len(corners) == 1:
        return np.ones(1)
    return np.linalg.lstsq(corners.T, q if len(corners) == 3 else p, rcond=None)[0]


def check_published_rule(v, points, faces, atol):
    """Of every row, and how many vertices found a corner, an edge, a face nearest."""
    index, weight = least_squares(v, points, faces)
    near_index, near = barycentric(v, points, faces)
    np.testing.assert_array_equal(index, near_index)
    want = np.zeros_like(weight)
    for row, (p, i, b) in enumerate(zip(v, index, near, strict=True)):
        used = np.flatnonzero(b)
        corners = points[i[used]]
        want[row, used] = published_weights(p, corners, b[used] @ corners)
    np.testing.assert_allclose(weight, want, rtol=0, atol=atol)
    inside = (near > 0).all(1)
    # A face in a plane apart from the origin: nothing but the nearest point's own coordinates.
    np.testing.assert_allclose(weight[inside], near[inside], rtol=0, atol=100 * atol)
    return np.bincount((near > 0).sum(1), minlength=4), weight


def test_least_squares_is_the_published_rule():
    v, f = sphere(2)
    v = v + 0.3
    coarse = decimate(v, f, 50)
    # lstsq and the pseudo-inverse round differently; the condition numbers here are < 1e3.
    kinds, weight = check_published_rule(v, v[coarse.keep], coarse.faces, 1e-11)
    assert (kinds[1:] > 0).all()
    assert np.abs(weight.sum(1) - 1).max() > 1e-3  # of edges; why barycentric is the default


def test_least_squares_by_hand():
    """A face in the plane z = 1; vertices above its inside, beside an edge, beyond a corner."""
    corners = np.array([[0, 0, 1], [4, 0, 1], [0, 4, 1.0]])
    fine = np.array([[1, 2, 5], [1, -3, 1], [-1, -1, 3.0]])
    index, weight = least_squares(fine, corners, np.array([[0, 1, 2]]))
    dense = np.zeros((3, 3))
    np.add.at(dense, (np.arange(3)[:, None], index), weight)
    # Beside the edge: w_0 (0, 0, 1) + w_1 (4, 0, 1) nearest to (1, -3, 1): w_1 = 1/4, w_0 = 3/4.
    want = [[0.25, 0.25, 0.5], [0.75, 0.25, 0], [1, 0, 0]]
    np.testing.assert_allclose(dense, want, rtol=0, atol=1e-14)
    # Higher, the edge's weights are of the vertex itself, and sum to 2; its nearest point's to 1.
    index, weight = least_squares(np.array([[1, -3, 2.0]]), corners, np.array([[0, 1, 2]]))
    dense = np.zeros(3)
    np.add.at(dense, index[0], weight[0])
    np.testing.assert_allclose(dense, [1.75, 0.25, 0], rtol=0, atol=1e-14)


def test_least_squares_of_the_coma_template(coma_template):
    v, f = coma_template
    coarse = decimate(v, f, 1256)
    # Condition numbers up to 1e5: the head surrounds the origin, and faces may point to it.
    kinds, weight = check_published_rule(v, v[coarse.keep], coarse.faces, 1e-9)
    assert (kinds[1:] > 100).all()
    # With the vertex itself in the place of its nearest point, inside of faces up to 20.
    assert np.abs(weight).max() < 6


def test_no_points():
    index, weight = barycentric(np.zeros((0, 3)), *sphere(1))
    assert index.shape == weight.shape == (0, 3)


@pytest.mark.parametrize("weights", [barycentric, least_squares])
def test_bad_input(weights):
    v, f = sphere(1)
    with pytest.raises(
        MeshError, match=r"fine: want real numbers of shape \[V, 3\], got float64 \[4, 2\]"
    ):
        weights(np.zeros((4, 2)), v, f)
    with pytest.raises(MeshError, match="fine: the positions are not finite"):
        weights(np.full((1, 3), np.nan), v, f)
    with pytest.raises(MeshError, match="coarse mesh: face 0"):
        weights(v, v, f + 100)
