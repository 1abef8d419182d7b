"""Up-sampling in a mesh hierarchy: every fine vertex as a combination of three coarse ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from polygraph.mesh.io import FloatArray, IntArray, Mesh, MeshError, validate_mesh

# Point-triangle pairs examined at once: 2^18 pairs of float64 work space are about 50 MB.
_PAIRS_AT_ONCE = 1 << 18
_POINTS_AT_ONCE = 1 << 12


def barycentric(fine: Any, coarse: Any, coarse_faces: Any) -> tuple[IntArray, FloatArray]:
    """Barycentric coordinates of the closest point on the coarse mesh.

    The weights are non-negative and every row sums to 1, so up-sampled values stay within the range
    of their sources. A fine vertex at the position of a coarse vertex takes that vertex alone, with
    weight exactly 1. Deterministic: of several closest faces the first counts. Coarse vertices
    without a face take part as single points.

    Args:
        fine: positions ``[V, 3]``.
        coarse: positions ``[M, 3]``.
        coarse_faces: ``[F, 3]`` integers in ``[0, M)``.

    Returns:
        index int64 ``[V, 3]`` in ``[0, M)`` and weight float64 ``[V, 3]``.

    Raises:
        MeshError: if the coarse mesh is not valid, or ``fine`` is not a finite ``[V, 3]`` array.

    Example:
        >>> from polygraph.mesh import barycentric
        >>> coarse = [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
        >>> index, weight = barycentric([[0.5, 0.25, 0.0]], coarse, [[0, 1, 2]])
        >>> index, weight
        (array([[0, 1, 2]]), array([[0.25, 0.5 , 0.25]]))

    See Also:
        `least_squares`, the published code's; `polygraph.nn.Resample`, which reads both.
    """
    points, mesh = _check(fine, coarse, coarse_faces)
    return _closest(points, mesh)


def least_squares(fine: Any, coarse: Any, coarse_faces: Any) -> tuple[IntArray, FloatArray]:
    """The weights of the published CoMA and Neural3DMM code, for parity.

    The nearest point q of a fine vertex p is found as in :func:`barycentric`. Where q lies inside a
    face, the weights are the least-squares solution of ``w_1 a + w_2 b + w_3 c = q``: but for faces
    whose plane holds the origin, these are the barycentric ones, rounded. On an edge they are the
    solution of ``w_1 a + w_2 b = p``, for the vertex itself, as in the public code: they need not
    sum to 1, and depend on where the origin lies. At a vertex the weight is 1. Prefer
    :func:`barycentric` for anything but parity.

    Args, returns and raises: as :func:`barycentric`.

    Example:
        >>> from polygraph.mesh import least_squares
        >>> coarse = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
        >>> index, weight = least_squares([[0.25, 0.25, 0.5]], coarse, [[0, 1, 2]])
        >>> index, weight.round(3)
        (array([[0, 1, 2]]), array([[0.25, 0.25, 0.5 ]]))

    See Also:
        `barycentric`, whose weights add up to 1.
    """
    points, mesh = _check(fine, coarse, coarse_faces)
    index, closest = _closest(points, mesh)
    used = closest > 0
    corners = np.where(used[:, :, None], mesh.vertices[index], 0.0)
    reached = np.einsum("vt,vts->vs", closest, corners)
    wanted = np.where(used.sum(axis=1, keepdims=True) == 3, reached, points)
    # A column of zeros gets weight 0 from the pseudo-inverse: the minimum-norm solution, as numpy's
    # lstsq gives.
    inverse = np.linalg.pinv(corners.transpose(0, 2, 1), rcond=3 * np.finfo(np.float64).eps)
    weight = np.where(used, np.einsum("vts,vs->vt", inverse, wanted), 0.0)
    return index, np.where((used.sum(axis=1) == 1)[:, None], closest, weight)


Upsampling = Callable[[Any, Any, Any], tuple[IntArray, FloatArray]]
UPSAMPLING: dict[str, Upsampling] = {"barycentric": barycentric, "lstsq": least_squares}


def closest_faces(
    points: FloatArray, vertices: FloatArray, faces: IntArray
) -> tuple[IntArray, FloatArray]:
    """The face closest to each point, and the barycentric coordinates of the closest point on it.

    Exact, not approximate: a first guess bounds the distance from above; a face can only be closer
    if its centroid lies within that bound plus the face's radius. One tree per octave of radii
    keeps a few big faces from making every search wide. Faces may be flat, or even repeat a vertex.

    Args:
        points: ``[P, 3]``.
        vertices: ``[V, 3]``.
        faces: ``[F, 3]``, F >= 1.

    Returns:
        face int64 ``[P]`` (the smallest of equally close ones), weight float64 ``[P, 3]``.
    """
    tree_class = _tree_class()
    corners = vertices[faces]
    centers = corners.mean(axis=1)
    radii = np.sqrt(((corners - centers[:, None]) ** 2).sum(axis=2).max(axis=1))

    _, guess = tree_class(centers).query(points, k=1)
    best_face = np.asarray(guess, dtype=np.int64).reshape(-1)
    best, weight = _closest_on_triangles(points, corners[best_face])

    # Coordinates carry rounding errors of this size into every comparison of distances.
    largest = max(np.abs(points).max(initial=0.0), np.abs(vertices).max())
    slack = 16 * np.finfo(np.float64).eps * largest
    octave = np.frexp(radii)[1]
    for level in np.unique(octave)[::-1]:
        members = np.flatnonzero(octave == level)
        tree = tree_class(centers[members])
        widest = float(radii[members].max())
        for at, row in _candidates(tree, points, np.sqrt(best) + widest + slack):
            face = members[row]
            gap = np.sqrt(((points[at] - centers[face]) ** 2).sum(axis=1))
            near = gap <= np.sqrt(best[at]) + radii[face] + slack
            at, face = at[near], face[near]
            distance, coordinates = _closest_on_triangles(points[at], corners[face])
            order = np.lexsort((face, distance, at))
            first = order[np.flatnonzero(np.diff(at[order], prepend=-1))]
            at, face, distance = at[first], face[first], distance[first]
            better = (distance < best[at]) | ((distance == best[at]) & (face < best_face[at]))
            at, first = at[better], first[better]
            best[at], best_face[at], weight[at] = distance[better], face[better], coordinates[first]
    return best_face, weight


def _check(fine: Any, coarse: Any, coarse_faces: Any) -> tuple[FloatArray, Mesh]:
    mesh = validate_mesh(coarse, coarse_faces, "coarse mesh")
    points = np.asarray(fine)
    if points.ndim != 2 or points.shape[1] != 3 or points.dtype.kind not in "fiu":
        raise MeshError(
            f"fine: want real numbers of shape [V, 3], got {points.dtype} {list(points.shape)}"
        )
    if not np.isfinite(points).all():
        raise MeshError("fine: the positions are not finite")
    return points.astype(np.float64), mesh


def _closest(points: FloatArray, mesh: Mesh) -> tuple[IntArray, FloatArray]:
    loose = np.setdiff1d(np.arange(len(mesh.vertices)), mesh.faces)
    faces = np.concatenate([mesh.faces, np.repeat(loose[:, None], 3, axis=1)])
    scale = np.abs(mesh.vertices).max()  # so that no square over- or underflows
    face, weight = closest_faces(points / scale, mesh.vertices / scale, faces)
    return faces[face], weight


def _tree_class() -> Any:
    try:
        from scipy.spatial import cKDTree
    except ImportError as error:
        raise ImportError(
            "mesh hierarchies need scipy: pip install 'polygraph-nn[mesh]'"
        ) from error
    return cKDTree


def _candidates(
    tree: Any, points: FloatArray, reach: FloatArray
) -> Iterator[tuple[IntArray, IntArray]]:
    """All pairs (point, row of the tree) not further apart than the point's reach.

    They come in pieces of bounded size, all the pairs of one point in the same piece.
    """
    for start in range(0, len(points), _POINTS_AT_ONCE):
        rows = slice(start, start + _POINTS_AT_ONCE)
        count = tree.query_ball_point(points[rows], reach[rows], return_length=True)
        count = np.asarray(count, dtype=np.int64)
        piece = np.cumsum(count) // _PAIRS_AT_ONCE
        for k in np.unique(piece[count > 0]):
            at = np.flatnonzero((piece == k) & (count > 0))
            found = tree.query_ball_point(points[start + at], reach[start + at])
            row = np.fromiter(
                chain.from_iterable(found), dtype=np.int64, count=int(count[at].sum())
            )
            yield np.repeat(start + at, count[at]), row


def _closest_on_triangles(
    points: FloatArray, corners: npt.NDArray[np.float64]
) -> tuple[FloatArray, FloatArray]:
    """Squared distance to and coordinates of the closest point: ``[P]`` and ``[P, 3]``.

    Takes pairs of points ``[P, 3]`` and triangles ``[P, 3, 3]``. Each of the three edges and, where
    the projection falls inside, the interior; the nearest wins. This costs more than a case
    distinction and stays right on flat triangles, where a case distinction divides rounding errors.
    """
    best = np.full(len(points), np.inf)
    weight = np.zeros((len(points), 3))
    for i, j in ((0, 1), (1, 2), (2, 0)):
        along = corners[:, j] - corners[:, i]
        length = (along * along).sum(axis=1)
        share = ((points - corners[:, i]) * along).sum(axis=1)
        t = np.clip(np.divide(share, length, out=np.zeros_like(share), where=length > 0), 0.0, 1.0)
        candidate = np.zeros_like(weight)
        candidate[:, i], candidate[:, j] = 1 - t, t
        _take_nearer(points, corners, candidate, np.ones(len(points), dtype=bool), best, weight)
    ab, ac = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    ap = points - corners[:, 0]
    normal = np.cross(ab, ac)
    area = (normal * normal).sum(axis=1)
    v = (np.cross(ap, ac) * normal).sum(axis=1)
    w = (np.cross(ab, ap) * normal).sum(axis=1)
    inside = (v > 0) & (w > 0) & (v + w < area)
    scale = np.divide(1.0, area, out=np.zeros_like(area), where=inside)
    v, w = v * scale, w * scale
    inside &= v + w < 1
    _take_nearer(points, corners, np.stack([1 - (v + w), v, w], axis=1), inside, best, weight)
    return best, weight


def _take_nearer(
    points: FloatArray,
    corners: npt.NDArray[np.float64],
    candidate: FloatArray,
    allowed: npt.NDArray[np.bool_],
    best: FloatArray,
    weight: FloatArray,
) -> None:
    offset = points - (candidate[:, :, None] * corners).sum(axis=1)
    distance = (offset * offset).sum(axis=1)
    nearer = allowed & (distance < best)
    best[nearer], weight[nearer] = distance[nearer], candidate[nearer]
