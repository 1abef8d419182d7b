"""Spiral tables: the ordered neighbourhood of every vertex, which a spiral convolution gathers.

A spiral is its centre, then the 1-ring counter-clockwise (seen from the side the faces show), then
the 2-ring, and so on. Two published conventions differ in where a spiral starts and how long it is:

- ``neural3dmm`` (Bouritsas et al., "Neural 3D Morphable Models", ICCV 2019): whole rings, starting
  at the neighbour on the shortest path to a reference vertex; ``-1`` stands for the gap where a
  border opens a ring, and pads short spirals;
- ``spiralnet++`` (Gong et al., "SpiralNet++", ICCVW 2019): a fixed length, as many rings as it
  takes, arbitrary start.

Where we depart: a ring here holds *every* vertex at its distance exactly once, on any mesh. The
published code stops a ring at the second obstacle, and fills SpiralNet++'s spirals of too small
components with Euclidean neighbours; ours end in -1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from polygraph.mesh.io import FloatArray, IntArray, Mesh, validate_mesh

_DEFAULT_LENGTH = 9
_GAP = -1


@dataclass(frozen=True)
class SpiralConfig:
    """How the spirals of a hierarchy are made.

    ``hops`` and ``dilation`` name one value per level, finest first; the last holds for all coarser
    levels. The published 2-ring setting is ``hops=(2, 2, 1), dilation=(2, 2, 1)``.

    Attributes:
        convention: "neural3dmm" (rings, start towards the reference, -1 padding) or "spiralnet++"
            (fixed length).
        hops: rings per spiral; "neural3dmm" only.
        dilation: keep every dilation-th vertex of a spiral.
        length: slots per spiral; None is the convention's own: int(mean + 2 std) of the lengths, or
            9 for "spiralnet++".
        reference: vertex of the finest level that the spirals start towards; None takes the one
            furthest from the middle of the bounding box. "neural3dmm" only.
    """

    convention: Literal["neural3dmm", "spiralnet++"] = "neural3dmm"
    hops: tuple[int, ...] = (1,)
    dilation: tuple[int, ...] = (1,)
    length: int | None = None
    reference: int | None = None

    def __post_init__(self) -> None:
        """Check every field, and turn lists into tuples."""
        if self.convention not in ("neural3dmm", "spiralnet++"):
            raise ValueError(
                f"convention must be 'neural3dmm' or 'spiralnet++', got {self.convention!r}"
            )
        for name in ("hops", "dilation"):
            values = getattr(self, name)
            if not isinstance(values, (tuple, list)) or not values:
                raise ValueError(
                    f"{name} must be a sequence with one number per level, got {values!r}"
                )
            for value in values:
                _check_whole(name, value, 1)
            object.__setattr__(self, name, tuple(int(value) for value in values))
        if self.length is not None:
            _check_whole("length", self.length, 1)
        if self.reference is not None:
            _check_whole("reference", self.reference, 0)
        if self.convention == "spiralnet++":
            if set(self.hops) != {1}:
                raise ValueError(
                    f"hops has no meaning with 'spiralnet++' (set length), got {self.hops}"
                )
            if self.reference is not None:
                raise ValueError(
                    f"reference has no meaning with 'spiralnet++', got {self.reference}"
                )

    def at_level(self, level: int) -> tuple[int, int]:
        """The hops and the dilation of a level; 0 is the finest."""
        return self.hops[min(level, len(self.hops) - 1)], self.dilation[
            min(level, len(self.dilation) - 1)
        ]


def spiral_table(
    vertices: Any,
    faces: Any,
    *,
    convention: str = "neural3dmm",
    hops: int = 1,
    dilation: int = 1,
    length: int | None = None,
    reference: int | None = None,
) -> IntArray:
    """The spirals of one mesh.

    Works on open, non-manifold and disconnected meshes, and where faces disagree in orientation.
    Deterministic.

    - Ring r is the set of vertices r edges away from the centre. The 1-ring follows the faces
      counter-clockwise; where it is open (a border) or falls into several arcs, the arcs follow one
      another with a gap between. Ring r + 1 lists the new neighbours of ring r, counter-clockwise
      around each. Gaps are ``-1`` entries with "neural3dmm", as in the published code, and left out
      with "spiralnet++".
    - "neural3dmm" starts at the neighbour through which the shortest path (sum of edge lengths) to
      ``reference`` leads; at the reference itself, at its closest neighbour. A component without
      the reference uses its vertex closest to it. Of the rings, entries 1, 1 + dilation, 1 + 2
      dilation ... are kept after the centre. ``length`` None: int(mean + 2 std) of the lengths so
      obtained, over all vertices, centre and gaps counted.
    - "spiralnet++" starts at the smallest neighbour, on a border at the clockwise end, and keeps
      entries 0, dilation, 2 dilation ... of as many rings as fill ``length``.

    Args:
        vertices: ``[V, 3]`` real numbers.
        faces: ``[F, 3]`` integers.
        convention: "neural3dmm" or "spiralnet++".
        hops: number of rings; "neural3dmm" only.
        dilation: keep every dilation-th entry.
        length: slots S; longer spirals are cut, shorter ones padded with -1.
        reference: vertex index; None takes the vertex furthest from the middle of the bounding box.

    Returns:
        int64 ``[V, S]``: row v starts with v; -1 means no vertex.

    Raises:
        MeshError: if the mesh is not valid.
        ValueError: if an option is out of range, or has no meaning in the convention.
    """
    mesh = validate_mesh(vertices, faces)
    SpiralConfig(convention, (hops,), (dilation,), length, reference)  # type: ignore[arg-type]  # checks all
    one_rings = _one_rings(mesh)
    if convention == "neural3dmm":
        starts = _starts(mesh, choose_reference(mesh) if reference is None else reference)
        spirals = [
            _rings(v, one_rings, start, hops=hops) for v, start in enumerate(starts.tolist())
        ]
        spirals = [spiral[:1] + spiral[1::dilation] for spiral in spirals]
        if length is None:
            sizes = np.array([len(spiral) for spiral in spirals])
            length = int(sizes.mean() + 2 * sizes.std())
    else:
        length = length or _DEFAULT_LENGTH
        spirals = [
            _rings(v, one_rings, entries=length * dilation)[::dilation]
            for v in range(len(one_rings))
        ]
    return np.array([(s + [_GAP] * (length - len(s)))[:length] for s in spirals], dtype=np.int64)


def choose_reference(mesh: Mesh) -> int:
    """The default reference: the vertex (with a face) furthest from the bounding box's middle."""
    used = np.unique(mesh.faces)
    points = mesh.vertices[used] / np.abs(mesh.vertices).max()
    offset = points - (points.min(axis=0) / 2 + points.max(axis=0) / 2)
    return int(used[np.argmax(_length(offset))])


def _check_whole(name: str, value: Any, low: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < low:
        raise ValueError(f"{name} must be a whole number >= {low}, got {value!r}")


def _length(offset: FloatArray) -> FloatArray:
    x, y, z = offset.T
    return np.asarray(np.sqrt(x * x + y * y + z * z))


def _one_rings(mesh: Mesh) -> list[list[int]]:
    """The neighbours of every vertex in cyclic order, with a gap after each arc of an open ring."""
    pairs: list[list[tuple[int, int]]] = [[] for _ in range(len(mesh.vertices))]
    for a, b, c in mesh.faces.tolist():
        pairs[a].append((b, c))
        pairs[b].append((c, a))
        pairs[c].append((a, b))
    return [_order_ring(steps) for steps in pairs]


def _order_ring(steps: list[tuple[int, int]]) -> list[int]:
    """Chain the steps (from, to) around one vertex into arcs."""
    after: dict[int, list[int]] = {}
    before: dict[int, list[int]] = {}
    for a, b in steps:
        for w in (a, b):
            if w not in after:
                after[w], before[w] = [], []
        after[a].append(b)
        before[b].append(a)
    # Arcs begin at their clockwise ends; what is left then are closed rings, which begin at their
    # smallest vertex. Only with faces of mixed orientation, or three at an edge, do the later parts
    # of this order and `before` matter.
    order = sorted(after, key=lambda w: (len(after[w]) + len(before[w]) != 1, bool(before[w]), w))
    ring: list[int] = []
    seen: set[int] = set()
    for first in order:
        if first in seen:
            continue
        seen.add(first)
        ring.append(first)
        last, size = first, 1
        while True:
            choices = [w for w in after[last] if w not in seen] or [
                w for w in before[last] if w not in seen
            ]
            if not choices:
                break
            last = min(choices)
            seen.add(last)
            ring.append(last)
            size += 1
        closed = size > 2 and (first in after[last] or first in before[last])
        if not (closed and size == len(order)):
            ring.append(_GAP)
    return ring


def _rings(
    center: int, one_rings: list[list[int]], start: int = _GAP, *, hops: int = 0, entries: int = 0
) -> list[int]:
    """The centre and its rings: ``hops`` with gaps, or, without, as many as fill ``entries``."""
    around = one_rings[center]
    at = around.index(start) if start != _GAP else 0
    ring = _strip(around[at:] + around[:at])
    spiral = [center]
    seen = {center, _GAP}
    hop = 1
    while ring:
        spiral += ring if hops else [w for w in ring if w != _GAP]
        if hop == hops or (not hops and len(spiral) >= entries):
            break
        seen.update(ring)
        ring = _next_ring(ring, one_rings, seen)
        hop += 1
    return spiral


def _next_ring(ring: list[int], one_rings: list[list[int]], seen: set[int]) -> list[int]:
    """The unseen neighbours of a ring: counter-clockwise around each, from its predecessor on."""
    out: list[int] = []
    fresh = set(seen)
    previous = ring[-1]
    for w in ring:
        for u in (_GAP,) if w == _GAP else _outward(one_rings[w], previous, seen):
            if u not in fresh:
                fresh.add(u)
                out.append(u)
            elif u == _GAP and out and out[-1] != _GAP:
                out.append(_GAP)
        previous = w
    return _strip(out)


def _outward(around: list[int], previous: int, seen: set[int]) -> list[int]:
    """The ring of one vertex, turned to begin where it leaves the rings within."""
    if previous not in around and _GAP in around:
        previous = _GAP
    if previous in around:  # a gap before the vertex continues at a gap of its own
        at = around.index(previous)
        return around[at + 1 :] + around[:at]
    # No neighbour of its predecessor: begin where seen vertices end.
    at = next((k for k, u in enumerate(around) if u not in seen and around[k - 1] in seen), 0)
    return around[at:] + around[:at]


def _strip(ring: list[int]) -> list[int]:
    """A gap between the last and the first entry needs no mark."""
    return ring[: -1 if ring and ring[-1] == _GAP else None]


def _starts(mesh: Mesh, reference: int) -> IntArray:
    """For every vertex the next one on its shortest path to the reference, -1 if there is none."""
    try:
        from scipy.sparse import csr_array
        from scipy.sparse.csgraph import connected_components, dijkstra
    except ImportError as error:
        raise ImportError("spiral tables need scipy: pip install 'polygraph[mesh]'") from error
    count = len(mesh.vertices)
    if reference >= count:
        raise ValueError(f"reference must be a vertex in [0, {count}), got {reference}")
    f = mesh.faces
    edges = np.unique(
        np.concatenate([f[:, [a, b]] for a in range(3) for b in range(3) if a != b]), axis=0
    )
    source, target = edges.T
    points = mesh.vertices / np.abs(mesh.vertices).max()
    length = _length(points[target] - points[source])
    graph = csr_array((length, (source, target)), shape=(count, count))

    _, component = connected_components(graph, directed=False)
    nearness = _length(points - points[reference])
    by_component = np.lexsort((np.arange(count), nearness, component))
    references = by_component[np.flatnonzero(np.diff(component[by_component], prepend=-1))]
    references[component[reference]] = reference
    distance = dijkstra(graph, indices=references, min_only=True)

    # Chosen here and not read from the predecessors, so that ties go to the smallest index.
    order = np.lexsort((target, distance[target] + length, source))
    first = order[np.flatnonzero(np.diff(source[order], prepend=-1))]
    starts = np.full(count, _GAP, dtype=np.int64)
    starts[source[first]] = target[first]
    return starts
