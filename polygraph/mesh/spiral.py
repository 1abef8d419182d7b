"""Spiral tables: the ordered neighbourhood of every vertex, which a spiral convolution gathers.

A spiral is its centre, then the 1-ring, then the 2-ring, and so on. Two published conventions
differ in the way it turns (seen from the side the faces show), where it starts and its length:

- ``neural3dmm`` (Bouritsas et al., "Neural 3D Morphable Models", ICCV 2019): counter-clockwise,
  whole rings, starting at the neighbour on the shortest path to a reference vertex; ``-1`` stands
  for the gap where a border opens a ring, and pads short spirals;
- ``spiralnet++`` (Gong et al., "SpiralNet++", ICCVW 2019): clockwise, a fixed length, as many rings
  as it takes, in the order in which OpenMesh walks around a vertex.

Where we depart: a ring here holds *every* vertex at its distance exactly once, on any mesh. The
published code stops a ring at the second obstacle, and fills SpiralNet++'s spirals of too small
components with Euclidean neighbours; ours end in -1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from polygraph.mesh.io import FloatArray, IntArray, Mesh, MeshError, validate_mesh
from polygraph.mesh.spiral_config import SpiralConfig as SpiralConfig
from polygraph.mesh.spiral_config import references_of

_DEFAULT_LENGTH = 9
_MOST_ENTRIES = 1000  # of a spiral, on average
_GAP = -1


def spiral_table(
    vertices: Any,
    faces: Any,
    *,
    convention: str = "neural3dmm",
    hops: int = 1,
    dilation: int = 1,
    length: int | None = None,
    reference: int | Sequence[int] | None = None,
) -> IntArray:
    """The spirals of one mesh.

    Works on open, non-manifold and disconnected meshes, and where faces disagree in orientation.
    Deterministic.

    - Ring r is the set of vertices r edges away from the centre.
    - "neural3dmm" turns counter-clockwise. Where the 1-ring is open (a border) or falls into
      several arcs, the arcs follow one another, each with a gap behind it, a ``-1`` entry as in the
      published code; also at the end, where a ring starts at the clockwise end of an arc. Ring
      r + 1 lists the new neighbours of ring r, counter-clockwise around each. The 1-ring starts at
      the neighbour through which the shortest path (sum of edge lengths) to ``reference`` leads; at
      a reference itself, at its closest neighbour. Of several references in one component the last
      counts, as in the published code; a component without one uses its vertex closest to the
      first. Of the rings, entries 1, 1 + dilation, 1 + 2 dilation ... are kept after the centre.
      ``length`` None: int(mean + 2 std) of the lengths so obtained, over all vertices, centre and
      gaps counted, those at the end too.
    - "spiralnet++" turns clockwise, and starts where OpenMesh's vertex circulator does on a mesh to
      which the faces were added in their order: on a border at the counter-clockwise end; within
      the mesh at the vertex that follows the centre in the last of its faces (b, where that is
      (centre, b, c) or a rotation of it). Ring r + 1 lists the new neighbours of ring r, clockwise
      around each, beginning behind its first neighbour that is of ring r. Arcs follow one another
      without gaps. Entries 0, dilation, 2 dilation ... are kept of as many rings as fill
      ``length``. So it depends on the order of the faces; the published weights belong to the
      template's own.

    Args:
        vertices: ``[V, 3]`` real numbers.
        faces: ``[F, 3]`` integers.
        convention: "neural3dmm" or "spiralnet++".
        hops: number of rings; "neural3dmm" only.
        dilation: keep every dilation-th entry.
        length: slots S; longer spirals are cut, shorter ones padded with -1.
        reference: vertex index, or several; None takes the vertex furthest from the middle of the
            bounding box. "neural3dmm" only.

    Returns:
        int64 ``[V, S]``: row v starts with v; -1 means no vertex.

    Raises:
        MeshError: if the mesh is not valid, or ``length`` is None and spirals would have more than
            a thousand entries on average, and more than a million in all.
        ValueError: if an option is out of range, or has no meaning in the convention.

    Example:
        >>> from polygraph.mesh import spiral_table
        >>> vertices = [[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]
        >>> faces = [[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 3, 2]]  # a tetrahedron
        >>> spiral_table(vertices, faces)  # each vertex, then its ring
        array([[0, 1, 2, 3],
               [1, 0, 3, 2],
               [2, 0, 1, 3],
               [3, 0, 2, 1]])

    See Also:
        `polygraph.nn.SpiralConv`, which reads it; `build_hierarchy` makes those of all levels.
    """
    mesh = validate_mesh(vertices, faces)
    SpiralConfig(convention, (hops,), (dilation,), length, reference)  # type: ignore[arg-type]  # checks all
    references = references_of(choose_reference(mesh) if reference is None else reference)
    if convention == "neural3dmm":
        one_rings = _one_rings(mesh)
        starts = _starts(mesh, references)
        entries = None if length is None else 1 + (length - 1) * dilation
        spirals, left = [], _MOST_ENTRIES * len(one_rings) + 10**6
        for v, start in enumerate(starts.tolist()):
            spiral = _rings(v, one_rings, start, hops, entries)
            spirals.append(spiral[:1] + spiral[1::dilation])
            left -= len(spirals[-1])
            if left < 0:
                raise MeshError(
                    f"spirals of {hops} rings have more than {_MOST_ENTRIES} entries each on "
                    f"average: a vertex has {max(map(len, one_rings))} neighbours; give a length"
                )
        if length is None:
            sizes = np.array([len(spiral) for spiral in spirals])
            length = int(sizes.mean() + 2 * sizes.std())
    else:
        length = length or _DEFAULT_LENGTH
        rings = _clockwise_rings(mesh)
        spirals = [
            _clockwise_spiral(v, rings, length * dilation)[::dilation] for v in range(len(rings))
        ]
    return np.array([(s + [_GAP] * (length - len(s)))[:length] for s in spirals], dtype=np.int64)


def choose_reference(mesh: Mesh) -> int:
    """The default reference: the vertex (with a face) furthest from the bounding box's middle."""
    used = np.unique(mesh.faces)
    points = mesh.vertices[used] / np.abs(mesh.vertices).max()
    offset = points - (points.min(axis=0) / 2 + points.max(axis=0) / 2)
    return int(used[np.argmax(_length(offset))])


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
    center: int, one_rings: list[list[int]], start: int, hops: int, entries: int | None
) -> list[int]:
    """The centre and its rings, with gaps; where ``entries`` are enough, not many more."""
    around = one_rings[center]
    at = around.index(start) if start != _GAP else 0
    ring = around[at:] + around[:at]
    spiral = [center]
    seen = {center, _GAP}
    for hop in range(hops):
        if hop:
            wanted = None if entries is None else entries - len(spiral)
            ring = _next_ring(ring, one_rings, seen, wanted)
        spiral += ring
        seen.update(ring)
    return spiral


def _next_ring(
    ring: list[int], one_rings: list[list[int]], seen: set[int], wanted: int | None
) -> list[int]:
    """The unseen neighbours of a ring: counter-clockwise around each, from its predecessor on.

    The first of them, where ``wanted`` are enough.
    """
    out: list[int] = []
    fresh = set(seen)
    previous = ring[-1] if ring else _GAP
    for w in ring:
        for u in (_GAP,) if w == _GAP else _outward(one_rings[w], previous, seen):
            if wanted is not None and len(out) >= wanted:
                return out
            if u not in fresh:
                fresh.add(u)
                out.append(u)
            elif u == _GAP and out and out[-1] != _GAP:
                out.append(_GAP)
        previous = w
    return out


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


def _clockwise_rings(mesh: Mesh) -> list[list[int]]:
    """The neighbours of every vertex as OpenMesh walks around it, on a mesh built face by face.

    A vertex holds arcs of neighbours, each clockwise, in a circle that begins at the arc of its
    outgoing half-edge. A face that OpenMesh would refuse (a side that another face has in the same
    direction, a vertex that is closed already) is left out of the arcs; neighbours that only such
    faces have come last.
    """
    arcs: list[list[list[int]]] = [[] for _ in range(len(mesh.vertices))]
    closed = [False] * len(arcs)
    taken: set[tuple[int, int]] = set()
    for a, b, c in mesh.faces.tolist():
        sides, corners = [(a, b), (b, c), (c, a)], [(a, b, c), (b, c, a), (c, a, b)]
        if taken.isdisjoint(sides) and all(
            not closed[v] and _has_room(arcs[v], *others) for v, *others in corners
        ):
            taken.update(sides)
            for v, *others in corners:
                closed[v] = _add_corner(arcs[v], *others)
    rings = [[w for arc in around for w in arc] for around in arcs]
    known = [{v, *ring} for v, ring in enumerate(rings)]
    for face in mesh.faces.tolist():
        for v in face:
            rings[v] += [w for w in face if w not in known[v]]
            known[v].update(face)
    return rings


def _ends(arcs: list[list[int]], b: int, c: int) -> tuple[int | None, int | None]:
    """Places of the arc that ends with c, and of the one that begins with b."""
    before = next((k for k, arc in enumerate(arcs) if arc[-1] == c), None)
    after = next((k for k, arc in enumerate(arcs) if arc[0] == b), None)
    return before, after


def _has_room(arcs: list[list[int]], b: int, c: int) -> bool:
    """Whether a corner with neighbours b, c, counter-clockwise, closes no ring beside an arc."""
    before, after = _ends(arcs, b, c)
    return b != c and (before is None or before != after or len(arcs) == 1)


def _add_corner(arcs: list[list[int]], b: int, c: int) -> bool:
    """Put c before b, clockwise. Returns whether that closes the ring, which then begins at b.

    The outgoing half-edge moves to the arc that a corner prolongs at its beginning, or to the one
    behind an arc that it prolongs at its end, and leaves the beginning of an arc that is joined to
    another.
    """
    before, after = _ends(arcs, b, c)
    start = 0
    if before is None and after is None:
        arcs.append([c, b])
    elif before is None and after is not None:
        arcs[after].insert(0, c)
        start = after
    elif before is not None and after is None:
        arcs[before].append(b)
        start = (before + 1) % len(arcs)
    elif before == after:
        return True
    else:
        start = _join(arcs, before or 0, after or 0)
    arcs[:] = arcs[start:] + arcs[:start]
    return False


def _join(arcs: list[list[int]], before: int, after: int) -> int:
    """Join two arcs; those between them come behind. Returns where the outgoing half-edge is."""
    outgoing = arcs[0]
    turned = arcs[before:] + arcs[:before]
    at = (after - before) % len(arcs)
    first, second = turned[0], turned[at]
    first_of_joined = first is outgoing
    arcs[:] = [first + second, *turned[1:at], *turned[at + 1 :]]
    if first_of_joined:
        return 0
    if second is outgoing:
        return 1 % len(arcs)
    return next(k for k, arc in enumerate(arcs) if arc is outgoing)


def _clockwise_spiral(center: int, rings: list[list[int]], entries: int) -> list[int]:
    """The centre, then ring after ring until there are so many entries, or no vertex is left."""
    spiral, ring = [center], rings[center]
    while ring and len(spiral) < entries:
        spiral += ring
        ring = _ring_behind(ring, rings, set(spiral), entries - len(spiral))
    return spiral[:entries]


def _ring_behind(ring: list[int], rings: list[list[int]], seen: set[int], wanted: int) -> list[int]:
    """The unseen neighbours of a ring, around each from the first neighbour that is of the ring.

    The first of them, where ``wanted`` are enough.
    """
    last = set(ring)
    out: dict[int, None] = {}
    for w in ring:
        around = rings[w]
        at = next((k for k, u in enumerate(around) if u in last), len(around))
        for u in around[at + 1 :] + around[:at]:
            if len(out) >= wanted:
                return list(out)
            if u not in seen:
                out[u] = None
    return list(out)


def _starts(mesh: Mesh, references: list[int]) -> IntArray:
    """For every vertex the next one on its shortest path to a reference, -1 if there is none."""
    try:
        from scipy.sparse import csr_array
        from scipy.sparse.csgraph import connected_components, dijkstra
    except ImportError as error:
        raise ImportError("spiral tables need scipy: pip install 'polygraph-nn[mesh]'") from error
    count = len(mesh.vertices)
    if max(references) >= count:
        raise ValueError(f"reference must be a vertex in [0, {count}), got {max(references)}")
    f = mesh.faces
    edges = np.unique(
        np.concatenate([f[:, [a, b]] for a in range(3) for b in range(3) if a != b]), axis=0
    )
    source, target = edges.T
    points = mesh.vertices / np.abs(mesh.vertices).max()
    length = _length(points[target] - points[source])
    graph = csr_array((length, (source, target)), shape=(count, count))

    _, component = connected_components(graph, directed=False)
    nearness = _length(points - points[references[0]])
    by_component = np.lexsort((np.arange(count), nearness, component))
    aims = by_component[np.flatnonzero(np.diff(component[by_component], prepend=-1))]
    for reference in references:
        aims[component[reference]] = reference
    distance = dijkstra(graph, indices=aims, min_only=True)

    # Chosen here and not read from the predecessors, so that ties go to the smallest index. Every
    # reference starts at its closest neighbour, also one that the other vertices do not aim at.
    way = np.where(np.isin(source, references), 0.0, distance[target]) + length
    order = np.lexsort((target, way, source))
    first = order[np.flatnonzero(np.diff(source[order], prepend=-1))]
    starts = np.full(count, _GAP, dtype=np.int64)
    starts[source[first]] = target[first]
    return starts
