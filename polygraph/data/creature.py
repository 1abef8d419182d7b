"""The body of the built-in synthetic animal: surface, skeleton and skin.

The surface is modelled the way an artist would: a coarse cage of quadrilaterals (a torso of
hexagonal rings from which legs, neck, head, ears and tail are extruded) is subdivided twice by
Catmull and Clark's rule ("Recursively generated B-spline surfaces on arbitrary topological meshes",
1978). Extrusion and subdivision keep a closed surface closed, so the result is a watertight
manifold of genus 0 by construction.

Axes: x forward, y left, z up; metres; the paws stand on z = 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

# Joint of every bone in the rest pose, its parent, and the point at which the bone ends.
# Leg names: f = front, h = hind; l = left, r = right. Only the left side is listed.
_SPINE: tuple[
    tuple[str, str | None, tuple[float, float, float], tuple[float, float, float]], ...
] = (
    ("pelvis", None, (-0.24, 0.0, 0.47), (-0.06, 0.0, 0.48)),
    ("chest", "pelvis", (-0.06, 0.0, 0.48), (0.20, 0.0, 0.48)),
    ("neck", "chest", (0.20, 0.0, 0.50), (0.31, 0.0, 0.63)),
    ("head", "neck", (0.31, 0.0, 0.63), (0.53, 0.0, 0.63)),
    ("tail1", "pelvis", (-0.28, 0.0, 0.49), (-0.37, 0.0, 0.47)),
    ("tail2", "tail1", (-0.37, 0.0, 0.47), (-0.47, 0.0, 0.43)),
    ("tail3", "tail2", (-0.47, 0.0, 0.43), (-0.60, 0.0, 0.40)),
)
_LEFT: tuple[tuple[str, str, tuple[float, float, float], tuple[float, float, float]], ...] = (
    ("ear_l", "head", (0.345, 0.045, 0.715), (0.325, 0.075, 0.80)),
    ("upper_fl", "chest", (0.150, 0.062, 0.40), (0.105, 0.066, 0.225)),
    ("lower_fl", "upper_fl", (0.105, 0.066, 0.225), (0.145, 0.066, 0.055)),
    ("paw_fl", "lower_fl", (0.145, 0.066, 0.055), (0.185, 0.066, 0.015)),
    ("upper_hl", "pelvis", (-0.215, 0.064, 0.41), (-0.165, 0.068, 0.245)),
    ("lower_hl", "upper_hl", (-0.165, 0.068, 0.245), (-0.225, 0.068, 0.055)),
    ("paw_hl", "lower_hl", (-0.225, 0.068, 0.055), (-0.180, 0.068, 0.015)),
)
LEGS = ("fl", "fr", "hl", "hr")


@dataclass(frozen=True)
class Body:
    """Rest pose of the animal.

    Attributes:
        vertices: ``[V, 3]`` rest positions in metres.
        faces: ``[F, 3]`` triangles, counter-clockwise seen from outside.
        bones: names of the J bones; a parent always precedes its children.
        parents: ``[J]`` index of each bone's parent, -1 for the root.
        joints: ``[J, 3]`` rest position of the joint a bone turns about.
        weights: ``[V, J]`` skinning weights, non-negative, rows sum to 1, smooth over the surface.
        breath: ``[V, 3]`` displacement of a full breath (metres).
    """

    vertices: FloatArray
    faces: IntArray
    bones: tuple[str, ...]
    parents: IntArray
    joints: FloatArray
    weights: FloatArray
    breath: FloatArray


class _Cage:
    """A quadrilateral mesh under construction; every face names the body part it belongs to."""

    def __init__(self) -> None:
        self.points: list[FloatArray] = []
        self.quads: list[tuple[int, ...]] = []
        self.parts: list[str] = []

    def ring(self, points: FloatArray) -> list[int]:
        start = len(self.points)
        self.points.extend(np.asarray(points, np.float64))
        return list(range(start, len(self.points)))

    def face(self, corners: tuple[int, ...], part: str) -> None:
        self.quads.append(corners)
        self.parts.append(part)

    def tube(self, loop: list[int], points: FloatArray, part: str) -> list[int]:
        """Extend the open boundary `loop` to a new ring, which is the new boundary."""
        ring = self.ring(points)
        for k in range(len(loop)):
            after = (k + 1) % len(loop)
            self.face((loop[k], loop[after], ring[after], ring[k]), part)
        return ring

    def cap(self, loop: list[int], part: str) -> None:
        """Close a boundary of four or six vertices with one or two quadrilaterals."""
        for k in range(0, len(loop) - 2, 2):
            self.face(
                (loop[0], *loop[k + 1 : k + 4]) if k == 0 else (loop[0], loop[3], loop[4], loop[5]),
                part,
            )

    def open(self, corners: set[int]) -> list[int]:
        """Remove the face with these corners; returns the boundary that it leaves."""
        at = next(i for i, quad in enumerate(self.quads) if set(quad) == corners)
        self.parts.pop(at)
        return list(self.quads.pop(at))


# (sideways, up) of the corners of a ring: top, then down the left side and up the right.
_HEXAGON = np.array([(0.0, 1.0), (0.9, 0.5), (0.9, -0.55), (0.0, -1.0), (-0.9, -0.55), (-0.9, 0.5)])


def _hexagon(
    center: tuple[float, float], width: float, height: float, tilt: float = 0.0
) -> FloatArray:
    """Ring of six points around (x, z) = center; tilt (degrees) leans its top backwards."""
    angle = np.radians(tilt)
    up = np.array([-np.sin(angle), 0.0, np.cos(angle)])
    side = np.array([0.0, 1.0, 0.0])
    middle = np.array([center[0], 0.0, center[1]])
    ring: FloatArray = middle + width * _HEXAGON[:, :1] * side + height * _HEXAGON[:, 1:] * up
    return ring


def _square(
    cage: _Cage, loop: list[int], center: tuple[float, float, float], half: tuple[float, float]
) -> FloatArray:
    """Horizontal ring of four points, in the order of the loop that it continues."""
    corners = np.array([cage.points[i] for i in loop])
    sign = np.sign(corners - corners.mean(0))[:, :2]
    ring = np.tile(np.asarray(center), (4, 1))
    ring[:, :2] += sign * np.asarray(half)
    return ring


def _add_leg(cage: _Cage, corners: set[int], side: float, part: str) -> None:
    """Extrude one leg from a face under the belly; side is +1 on the left and -1 on the right."""
    loop = cage.open(corners)
    if part.startswith("f"):
        rings = (
            ((0.128, 0.066, 0.235), (0.044, 0.038)),
            ((0.146, 0.066, 0.060), (0.033, 0.031)),
            ((0.170, 0.066, -0.006), (0.062, 0.044)),
        )
    else:
        rings = (
            ((-0.175, 0.070, 0.255), (0.060, 0.044)),
            ((-0.224, 0.068, 0.070), (0.033, 0.031)),
            ((-0.196, 0.068, -0.006), (0.062, 0.044)),
        )
    for (x, y, z), half in rings:
        loop = cage.tube(loop, _square(cage, loop, (x, side * y, z), half), part)
    cage.cap(loop, part)


def _add_ear(cage: _Cage, corners: set[int], side: float, part: str) -> None:
    """Extrude one pointed ear from a face on top of the head."""
    loop = cage.open(corners)
    middle = np.array([cage.points[i] for i in loop])
    tip = np.array([0.335, side * 0.100, 0.880])
    ring = tip + 0.30 * (middle - middle.mean(0)) * np.array([0.6, 1.0, 1.0])
    cage.cap(cage.tube(loop, ring, part), part)


def _build_cage() -> _Cage:
    cage = _Cage()
    rings = [cage.ring(_hexagon((-0.285, 0.475), 0.085, 0.105))]
    for center, width, height in (
        ((-0.150, 0.475), 0.105, 0.125),
        ((0.060, 0.465), 0.100, 0.125),
        ((0.215, 0.475), 0.104, 0.155),
    ):
        rings.append(cage.tube(rings[-1], _hexagon(center, width, height), "trunk"))
    nape = cage.tube(rings[3], _hexagon((0.300, 0.650), 0.092, 0.096, 40.0), "neck")
    brow = cage.tube(nape, _hexagon((0.400, 0.672), 0.108, 0.100, 2.0), "head")
    muzzle = cage.tube(brow, _hexagon((0.475, 0.632), 0.050, 0.055, -14.0), "head")
    nose = cage.tube(muzzle, _hexagon((0.580, 0.612), 0.036, 0.036, -8.0), "head")
    cage.cap(nose, "head")
    tail = list(reversed(rings[0]))
    for center, width, height, tilt in (
        ((-0.345, 0.485), 0.036, 0.036, -10.0),
        ((-0.480, 0.435), 0.088, 0.088, -25.0),
        ((-0.640, 0.390), 0.026, 0.026, -15.0),
    ):
        ring = _hexagon(center, width, height, tilt)
        tail = cage.tube(tail, ring[::-1], "tail")
    cage.cap(tail, "tail")
    for side, low, part in ((1.0, 2, "l"), (-1.0, 4, "r")):
        for first, leg in ((0, "h"), (2, "f")):
            rear, front = rings[first], rings[first + 1]
            _add_leg(cage, {rear[low], rear[3], front[3], front[low]}, side, leg + part)
        high = 1 if side > 0 else 5
        _add_ear(cage, {nape[0], nape[high], brow[high], brow[0]}, side, "ear_" + part)
    return cage


def _subdivide(points: FloatArray, quads: IntArray) -> tuple[FloatArray, IntArray]:
    """One Catmull-Clark step of a closed quadrilateral mesh; face f becomes faces 4f .. 4f + 3."""
    num_points, num_quads = len(points), len(quads)
    pairs = np.sort(np.stack([quads, np.roll(quads, -1, 1)], -1).reshape(-1, 2), 1)
    edges, edge_of = np.unique(pairs, axis=0, return_inverse=True)
    edge_of = edge_of.reshape(num_quads, 4)
    face_points = points[quads].mean(1)
    middles = points[edges].mean(1)
    face_sum = np.zeros_like(middles)
    np.add.at(face_sum, edge_of, face_points[:, None])
    edge_points = (2 * middles + face_sum) / 4
    valence = np.bincount(quads.ravel(), minlength=num_points).astype(np.float64)[:, None]
    around = np.zeros_like(points)
    np.add.at(around, quads, face_points[:, None])
    spokes = np.zeros_like(points)
    np.add.at(spokes, edges, middles[:, None])
    moved = (around / valence + 2 * spokes / valence + (valence - 3) * points) / valence
    corner_faces = np.stack(
        [
            quads,
            num_points + num_quads + edge_of,
            np.empty_like(quads),
            num_points + num_quads + np.roll(edge_of, 1, 1),
        ],
        -1,
    )
    corner_faces[..., 2] = num_points + np.arange(num_quads)[:, None]
    return np.concatenate([moved, face_points, edge_points]), corner_faces.reshape(-1, 4)


def _skeleton() -> tuple[tuple[str, ...], IntArray, FloatArray, FloatArray]:
    """-> names, parents, joints [J, 3], ends [J, 3]; parents precede children."""
    rows = list(_SPINE)
    for mirror, letter in ((1.0, "l"), (-1.0, "r")):
        for name, parent, joint, end in _LEFT:
            rename = {"ear_l": f"ear_{letter}"}
            name = rename.get(name, name[:-1] + letter)
            parent = parent[:-1] + letter if parent[-3:] in ("_fl", "_hl") else parent
            rows.append(
                (
                    name,
                    parent,
                    (joint[0], mirror * joint[1], joint[2]),
                    (end[0], mirror * end[1], end[2]),
                )
            )
    names = tuple(row[0] for row in rows)
    parents = np.array([-1 if row[1] is None else names.index(row[1]) for row in rows])
    return names, parents, np.array([row[2] for row in rows]), np.array([row[3] for row in rows])


def _bones_of_part(part: str) -> tuple[str, ...]:
    if part in LEGS:
        return (f"upper_{part}", f"lower_{part}", f"paw_{part}")
    return {
        "trunk": ("pelvis", "chest"),
        "neck": ("neck",),
        "head": ("head",),
        "tail": ("tail1", "tail2", "tail3"),
    }.get(part, (part,))


def _weights(points: FloatArray, quads: IntArray, parts: list[str], rounds: int = 14) -> FloatArray:
    """Skinning weights: the nearest bone of the body part, then diffused over the surface.

    Diffusion runs along edges, so weight never jumps from one leg to the other through the air.
    """
    names, _, start, end = _skeleton()
    axis = end - start
    offset = points[:, None] - start
    along = np.clip((offset * axis).sum(-1) / (axis * axis).sum(-1), 0.0, 1.0)
    distance = np.linalg.norm(offset - along[..., None] * axis, axis=-1)
    allowed = np.zeros((len(points), len(names)), bool)
    for part in sorted(set(parts)):
        rows = np.unique(quads[np.array(parts) == part])
        for bone in _bones_of_part(part):
            allowed[rows, names.index(bone)] = True
    weights = np.zeros_like(distance)
    nearest = np.where(allowed, distance, np.inf).argmin(1)
    weights[np.arange(len(points)), nearest] = 1.0
    degree = np.bincount(quads.ravel(), minlength=len(points)).astype(np.float64)[:, None]
    for _ in range(rounds):
        total = np.zeros_like(weights)
        for shift in (1, 2, 3):
            np.add.at(total, quads, weights[np.roll(quads, -shift, 1)])
        weights = 0.5 * weights + 0.5 * total / (3 * degree)
    shares: FloatArray = weights / weights.sum(1, keepdims=True)
    return shares


def vertex_normals(vertices: FloatArray, faces: IntArray) -> FloatArray:
    """Area-weighted unit normals, ``[V, 3]``."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    normals = np.zeros_like(vertices)
    np.add.at(normals, faces, np.cross(b - a, c - a)[:, None])
    length: FloatArray = np.linalg.norm(normals, axis=1, keepdims=True)
    return normals / np.maximum(length, 1e-30)


@lru_cache(maxsize=1)
def build_body() -> Body:
    """Model the animal; the same arrays on every call."""
    cage = _build_cage()
    points, quads = np.array(cage.points), np.array(cage.quads, np.int64)
    for _ in range(2):
        points, quads = _subdivide(points, quads)
    parts = list(np.repeat(cage.parts, 16))
    faces = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    a, b, c = (points[faces[:, k]] for k in range(3))
    if np.einsum("fi,fi->", a, np.cross(b, c)) < 0:
        faces = faces[:, ::-1].copy()
    names, parents, joints, _ = _skeleton()
    weights = _weights(points, quads, parts)
    chest = np.exp(-(((points - [0.08, 0.0, 0.46]) / [0.14, 0.16, 0.13]) ** 2).sum(1))
    trunk = weights[:, [names.index("pelvis"), names.index("chest")]].sum(1)
    breath = 0.018 * (chest * trunk)[:, None] * vertex_normals(points, faces)
    return Body(points, faces, names, parents, joints, weights, breath)
