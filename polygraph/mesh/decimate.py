"""Mesh decimation that keeps a subset of the vertices.

Mesh hierarchies down-sample by *selecting* vertices, so an edge collapse may only merge one end
into the other (a half-edge collapse), never into a new point. The error of a collapse is the
quadric error metric (Garland and Heckbert, "Surface Simplification Using Quadric Error Metrics",
SIGGRAPH 1997); its topology is guarded by the link condition (Dey, Edelsbrunner, Guha and Nekhayev,
"Topology preserving edge contraction", 1999).

The collapses run one by one, always the cheapest, on plain Python lists and floats: a collapse
touches some ten vertices, where the overhead of an array call exceeds the arithmetic. Every
operation is an IEEE addition, multiplication, division or square root in a fixed order and ties go
to the smaller index, so the result does not depend on the machine.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from polygraph._repr import short_repr
from polygraph.mesh.io import FloatArray, IntArray, MeshError, validate_mesh

# A collapse may turn no triangle by more than 78 degrees: the cosine of that.
_MIN_COSINE = 0.2
# Distance to the vertices already merged, relative to the distance to their planes. Spreads the
# collapses evenly over flat regions, where the planes alone cannot tell one vertex from another.
_POINT_WEIGHT = 1e-3
# Weight of the planes that stand on a border, relative to the planes of the triangles.
_BORDER_WEIGHT = 1.0

# The upper triangle of A, then b, then c (see _evaluate): ten numbers.
Quadric = tuple[float, ...]
_REMOVED = (-1, -1, -1)
# (error, from, to, sum of both versions); stale once either end has changed.
Candidate = tuple[float, int, int, int]


@dataclass(frozen=True, eq=False)
class Decimation:
    """The outcome of :func:`decimate`.

    Attributes:
        keep: int64 ``[M]``, the kept vertices in ascending order.
        faces: int64 ``[F', 3]``, the remaining triangles in terms of ``keep``, oriented as they
            were.
        relaxed: the constraints given up to reach the target, in order: "isolated" (vertices
            without a face were dropped), "flips" (triangles may have turned over). Empty when none.

    Example:
        >>> import numpy as np
        >>> from polygraph.mesh import decimate
        >>> from scipy.spatial import Delaunay
        >>> vertices = np.random.default_rng(0).random((100, 3))
        >>> decimate(vertices, Delaunay(vertices[:, :2]).simplices, 50)
        Decimation(keep=int64 [50], faces=int64 [86, 3], relaxed=())
    """

    keep: IntArray
    faces: IntArray
    relaxed: tuple[str, ...] = ()

    __repr__ = short_repr


def decimate(vertices: Any, faces: Any, target: int) -> Decimation:
    """Reduce a mesh to ``target`` of its own vertices.

    Deterministic. Topology is preserved: components, holes, handles, borders and non-manifold
    curves all stay. A vertex on a border (or on an edge of three or more faces) only moves along
    it; a vertex where several such curves or sheets meet is never removed. Triangles do not turn
    over.

    If the target cannot be reached this way, constraints are given up one after the other: first
    vertices without a face are dropped (highest index first), then triangles may turn over.
    Topology is never given up.

    Args:
        vertices: ``[V, 3]`` real numbers.
        faces: ``[F, 3]`` integers.
        target: number of vertices to keep, from 1 to V.

    Raises:
        MeshError: if the mesh is not valid, or its topology does not allow as few vertices as
            ``target``.
        ValueError: if ``target`` is out of range.

    Example:
        >>> import numpy as np
        >>> from polygraph.mesh import decimate
        >>> from scipy.spatial import Delaunay
        >>> vertices = np.random.default_rng(0).random((100, 3))
        >>> step = decimate(vertices, Delaunay(vertices[:, :2]).simplices, 50)
        >>> vertices[step.keep].shape
        (50, 3)

    See Also:
        `build_hierarchy`, which does so level by level.
    """
    mesh = validate_mesh(vertices, faces)
    count = len(mesh.vertices)
    whole = isinstance(target, (int, np.integer)) and not isinstance(target, bool)
    if not whole or not 1 <= target <= count:
        raise ValueError(
            f"decimate: target must be a whole number from 1 to V = {count}, got {target!r}"
        )
    target = int(target)
    collapser = _Collapser(mesh.vertices, mesh.faces)
    isolated = np.setdiff1d(np.arange(count), mesh.faces)
    relaxed: list[str] = []
    collapser.run(count - target, allow_flips=False)
    excess = count - collapser.removed - target
    if excess and len(isolated):
        relaxed.append("isolated")
        for vertex in isolated[::-1][:excess].tolist():
            collapser.alive[vertex] = False
            collapser.removed += 1
        excess = count - collapser.removed - target
    if excess:
        relaxed.append("flips")
        collapser.run(count - target, allow_flips=True)
    if count - collapser.removed > target:
        raise MeshError(
            f"decimate: cannot reduce {count} vertices to {target}:"
            f" {count - collapser.removed} remain,"
            " and fewer would change the topology (a closed component needs 4 vertices, a hole 3);"
            " use a larger target"
        )
    keep = np.flatnonzero(np.array(collapser.alive)).astype(np.int64)
    rest = np.array(
        [face for face in collapser.corners if face != _REMOVED], dtype=np.int64
    ).reshape(-1, 3)
    return Decimation(keep, np.searchsorted(keep, rest).astype(np.int64), tuple(relaxed))


class _Collapser:
    """The mesh as Python lists, and the half-edge collapses on it.

    An edge is *regular* when two faces hold it, otherwise *singular*: a border (one face) or a
    non-manifold edge (three or more). Both kinds are treated alike, as curves that a collapse may
    shorten and must not break.
    """

    def __init__(self, vertices: FloatArray, faces: IntArray) -> None:
        low, high = vertices.min(axis=0), vertices.max(axis=0)
        # In the unit box the weights mean the same for metres and millimetres, and nothing
        # overflows.
        half = float((high / 2 - low / 2).max()) or 1.0
        points = (vertices / 2 - (low / 4 + high / 4)) / half
        self.points: list[tuple[float, float, float]] = list(zip(*points.T.tolist(), strict=True))
        self.corners: list[tuple[int, int, int]] = list(zip(*faces.T.tolist(), strict=True))
        self.faces_of = [set(rows) for rows in _incident_faces(len(vertices), faces)]
        # The neighbours of every vertex, each with the number of faces that hold the edge to it;
        # and those of them at the other end of a singular edge.
        self.around: list[dict[int, int]] = [self._count_around(v) for v in range(len(vertices))]
        self.singular = [{w for w, n in around.items() if n != 2} for around in self.around]
        self.quadrics: list[Quadric] = list(zip(*_quadrics(points, faces).T.tolist(), strict=True))
        self.alive = [True] * len(vertices)
        self.locked = [not self._is_simple(v) for v in range(len(vertices))]
        self.version = [0] * len(vertices)
        self.own_error = [_evaluate(q, p) for q, p in zip(self.quadrics, self.points, strict=True)]
        self.removed = 0
        self.waiting = _Waiting()

    def run(self, removals: int, *, allow_flips: bool) -> None:
        """Collapse the cheapest legal edge until ``removals`` vertices are gone or none is left."""
        self.waiting = _Waiting()
        heap: list[Candidate] = []
        for v, is_alive in enumerate(self.alive):
            if is_alive:
                heap.extend(self._candidates(v, self.around[v], both=False))
        heapq.heapify(heap)
        version, alive = self.version, self.alive
        while heap and self.removed < removals:
            candidate = heapq.heappop(heap)
            _, u, v, stamp = candidate
            if not (alive[u] and alive[v]) or version[u] + version[v] != stamp:
                continue
            if not self._keeps_topology(u, v) or not (allow_flips or self._keeps_normals(u, v)):
                self.waiting.add(candidate)
                continue
            changed = self.around[u].keys() - {v}
            self._collapse(u, v)
            for other in self.waiting.woken(changed, self.around[v]):
                heapq.heappush(heap, other)
            for other in self._candidates(v, self.around[v], both=True):
                heapq.heappush(heap, other)

    def _count_around(self, v: int) -> dict[int, int]:
        count: dict[int, int] = {}
        for face in self.faces_of[v]:
            for w in self.corners[face]:
                count[w] = count.get(w, 0) + 1
        count.pop(v, None)
        return count

    def _candidates(self, v: int, neighbors: Iterable[int], *, both: bool) -> Iterable[Candidate]:
        """The collapses of v into its neighbours and, with ``both``, of its neighbours into v."""
        points, quadrics, own = self.points, self.quadrics, self.own_error
        version, locked = self.version, self.locked
        point, quadric, stamp = points[v], quadrics[v], version[v]
        out: list[Candidate] = []
        for w in neighbors:
            if not locked[v]:
                out.append((_evaluate(quadric, points[w]) + own[w], v, w, stamp + version[w]))
            if both and not locked[w]:
                out.append((_evaluate(quadrics[w], point) + own[v], w, v, stamp + version[w]))
        return out

    def _keeps_topology(self, u: int, v: int) -> bool:
        """The link condition for merging u into v; u is known to be simple (see _is_simple)."""
        around_u, around_v, singular = self.around[u], self.around[v], self.singular[u]
        on_edge = around_u[v]
        if singular and on_edge == 2:  # u would leave its curve
            return False
        few, many = sorted((around_u, around_v), key=len)
        common = [w for w in few if w in many]
        if len(common) != on_edge:  # a neighbour in common but no face between: a pinched tunnel
            return False
        if any(around_v.get(w, 2) != 2 for w in singular):  # a curve of three edges would fold up
            return False
        # Two faces would fall onto each other, as in a tetrahedron.
        return not any(
            q in around_v and self._has_face(v, p, q)
            for p in common
            for q in self._opposite(p, u)
            if q != v
        )

    def _opposite(self, p: int, u: int) -> list[int]:
        """The third corners of the faces at the edge of p and u."""
        few, many = sorted((self.faces_of[p], self.faces_of[u]), key=len)
        return [w for f in few if f in many for w in self.corners[f] if w not in (p, u)]

    def _has_face(self, a: int, b: int, c: int) -> bool:
        few, *many = sorted((self.faces_of[v] for v in (a, b, c)), key=len)
        return any(face in many[0] and face in many[1] for face in few)

    def _keeps_normals(self, u: int, v: int) -> bool:
        points = self.points
        ux, uy, uz = points[u]
        vx, vy, vz = points[v]
        for face in self.faces_of[u]:
            a, b, c = self.corners[face]
            if a == v or b == v or c == v:
                continue
            if a == u:
                a, b = b, c
            elif b == u:
                a, b = c, a
            ax, ay, az = points[a]
            ex, ey, ez = points[b]
            ex, ey, ez = ex - ax, ey - ay, ez - az
            px, py, pz = ux - ax, uy - ay, uz - az
            qx, qy, qz = vx - ax, vy - ay, vz - az
            ox, oy, oz = ey * pz - ez * py, ez * px - ex * pz, ex * py - ey * px
            nx, ny, nz = ey * qz - ez * qy, ez * qx - ex * qz, ex * qy - ey * qx
            old, new = ox * ox + oy * oy + oz * oz, nx * nx + ny * ny + nz * nz
            if old > 0.0 and ox * nx + oy * ny + oz * nz <= _MIN_COSINE * math.sqrt(old * new):
                return False
        return True

    def _collapse(self, u: int, v: int) -> None:
        faces_of, corners = self.faces_of, self.corners
        for face in faces_of[u]:
            a, b, c = corners[face]
            if a == v or b == v or c == v:
                w = next(w for w in (a, b, c) if w not in (u, v))
                faces_of[v].remove(face)
                faces_of[w].remove(face)
                corners[face] = _REMOVED
                self._add_to_edge(v, w, -1)
            else:
                corners[face] = (v if a == u else a, v if b == u else b, v if c == u else c)
                faces_of[v].add(face)
                for w in (a, b, c):
                    if w != u:
                        self._add_to_edge(v, w, 1)
        for w in self.around[u]:
            del self.around[w][u]
            self.singular[w].discard(u)
        faces_of[u], self.around[u], self.singular[u] = set(), {}, set()
        q, r = self.quadrics[u], self.quadrics[v]
        self.quadrics[v] = merged = tuple(a + b for a, b in zip(q, r, strict=True))
        self.own_error[v] = _evaluate(merged, self.points[v])
        self.version[v] += 1
        self.alive[u] = False
        self.waiting.drop(u)
        self.removed += 1

    def _add_to_edge(self, a: int, b: int, faces: int) -> None:
        for v, w in ((a, b), (b, a)):
            count = self.around[v].get(w, 0) + faces
            if count:
                self.around[v][w] = count
            else:
                del self.around[v][w]
            (self.singular[v].discard if count in (0, 2) else self.singular[v].add)(w)

    def _is_simple(self, v: int) -> bool:
        """Whether v lies inside one sheet, or inside one border or non-manifold curve of one kind.

        Only such vertices may be removed. Elsewhere curves end or meet, or sheets touch in a point.
        """
        neighbors = self.around[v]
        if not neighbors:
            return False
        singular = [neighbors[w] for w in self.singular[v]]
        if singular and (len(singular) != 2 or singular[0] != singular[1]):
            return False
        link: dict[int, list[int]] = {w: [] for w in neighbors}
        for face in self.faces_of[v]:
            a, b = (w for w in self.corners[face] if w != v)
            link[a].append(b)
            link[b].append(a)
        start = next(iter(link))
        reached, stack = {start}, [start]
        while stack:
            for w in link[stack.pop()]:
                if w not in reached:
                    reached.add(w)
                    stack.append(w)
        return len(reached) == len(link)


class _Waiting:
    """Candidates that were refused; they may become legal when the surroundings of an end change.

    A vertex of many faces is an end of many of them: they are found by both ends, without a look
    at the rest.
    """

    def __init__(self) -> None:
        self.by_from: dict[int, dict[int, Candidate]] = {}
        self.by_to: dict[int, dict[int, Candidate]] = {}

    def add(self, candidate: Candidate) -> None:
        """An older one of the same two ends is stale."""
        _, u, v, _ = candidate
        self.by_from.setdefault(u, {})[v] = candidate
        self.by_to.setdefault(v, {})[u] = candidate

    def drop(self, u: int) -> None:
        """Forget those of a vertex that is gone."""
        for v in self.by_from.pop(u, ()):
            del self.by_to[v][u]
        for v in self.by_to.pop(u, ()):
            del self.by_from[v][u]

    def woken(self, changed: Iterable[int], near: Mapping[int, int]) -> list[Candidate]:
        """Take out those from a vertex of ``changed``, and to one of them from near."""
        found = []
        for w in changed:
            for v, candidate in self.by_from.pop(w, {}).items():
                del self.by_to[v][w]
                found.append(candidate)
            to = self.by_to.get(w, {})
            few, many = (to, near) if len(to) < len(near) else (near, to)
            for u in [u for u in few if u in many]:
                found.append(to.pop(u))
                del self.by_from[u][w]
        return found


def _evaluate(q: Quadric, p: tuple[float, float, float]) -> float:
    """The quadric form at a point: pᵀAp + 2bᵀp + c."""
    x, y, z = p
    xx, xy, xz, yy, yz, zz, bx, by, bz, c = q
    return (
        x * (xx * x + 2.0 * (xy * y + xz * z + bx))
        + y * (yy * y + 2.0 * (yz * z + by))
        + z * (zz * z + 2.0 * bz)
        + c
    )


def _incident_faces(num_vertices: int, faces: IntArray) -> list[list[int]]:
    order = np.argsort(faces.reshape(-1), kind="stable")
    ends = np.cumsum(np.bincount(faces.reshape(-1), minlength=num_vertices)).tolist()
    owner = (order // 3).tolist()
    return [owner[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True)]


def _quadrics(points: FloatArray, faces: IntArray) -> FloatArray:
    """The starting quadrics ``[V, 10]``: of the triangles, the borders and the vertex itself."""
    a, b, c = points[faces[:, 0]], points[faces[:, 1]], points[faces[:, 2]]
    cross = _cross(b - a, c - a)
    double_area = np.sqrt(_dot(cross, cross))
    normal = _unit(cross, double_area)
    planes = _plane_quadric(normal, a, double_area / 6)  # a third of the area for each corner
    out = _scatter(planes, faces.T, len(points))

    share = _scatter(double_area[:, None] / 6, faces.T, len(points))[:, 0] * _POINT_WEIGHT
    out[:, [0, 3, 5]] += share[:, None]
    out[:, 6:9] -= share[:, None] * points
    out[:, 9] += share * _dot(points, points)

    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    _, inverse, count = np.unique(
        np.sort(edges, axis=1), axis=0, return_inverse=True, return_counts=True
    )
    rows = np.flatnonzero(count[inverse.reshape(-1)] != 2)
    start, along = points[edges[rows, 0]], points[edges[rows, 1]] - points[edges[rows, 0]]
    across = _cross(along, normal[rows % len(faces)])
    planes = _plane_quadric(
        _unit(across, np.sqrt(_dot(across, across))), start, _BORDER_WEIGHT * _dot(along, along)
    )
    return np.asarray(out + _scatter(planes, edges[rows].T, len(points)))


def _plane_quadric(normal: FloatArray, point: FloatArray, weight: FloatArray) -> FloatArray:
    x, y, z = normal.T
    d = -_dot(normal, point)
    terms = (x * x, x * y, x * z, y * y, y * z, z * z, x * d, y * d, z * d, d * d)
    return np.stack(terms, axis=1) * weight[:, None]


def _scatter(values: FloatArray, targets: Iterable[IntArray], num_vertices: int) -> FloatArray:
    """Sum the rows of values onto each array of targets in turn, in order and so repeatably."""
    out = np.zeros((num_vertices, values.shape[1]))
    for rows in targets:
        for k in range(values.shape[1]):
            out[:, k] += np.bincount(rows, weights=values[:, k], minlength=num_vertices)
    return out


# Spelled out, so that no library reorders or fuses the operations.
def _dot(a: FloatArray, b: FloatArray) -> FloatArray:
    return np.asarray(a[:, 0] * b[:, 0] + a[:, 1] * b[:, 1] + a[:, 2] * b[:, 2])


def _cross(a: FloatArray, b: FloatArray) -> FloatArray:
    (ax, ay, az), (bx, by, bz) = a.T, b.T
    return np.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], axis=1)


def _unit(vector: FloatArray, length: FloatArray) -> FloatArray:
    return np.divide(vector, length[:, None], out=np.zeros_like(vector), where=length[:, None] > 0)
