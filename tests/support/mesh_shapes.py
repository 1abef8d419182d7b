"""Small meshes of every kind, and independent ways to count what is in them."""

from collections import Counter, deque

import numpy as np
import trimesh


def sphere(subdivisions=2):
    """Closed: 162 vertices (2 subdivisions)."""
    mesh = trimesh.creation.icosphere(subdivisions=subdivisions)
    return np.array(mesh.vertices), np.array(mesh.faces)


def grid(rows=9, columns=8):
    """Open: a flat patch in the plane z = 0, faces counter-clockwise seen from +z."""
    y, x = np.mgrid[:rows, :columns]
    vertices = np.stack([x.ravel(), y.ravel(), np.zeros(x.size)], 1).astype(float)
    a = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)).ravel()
    faces = np.concatenate(
        [np.stack([a, a + 1, a + columns + 1], 1), np.stack([a, a + columns + 1, a + columns], 1)]
    )
    return vertices, faces


def torus(rings=12, sides=9):
    """Closed, genus 1."""
    mesh = trimesh.creation.torus(2.0, 0.7, major_sections=rings, minor_sections=sides)
    return np.array(mesh.vertices), np.array(mesh.faces)


def annulus():
    """Open with two borders: a grid without its middle."""
    vertices, faces = grid(9, 9)
    inside = np.abs(vertices[faces].mean(1)[:, :2] - 4).max(1) < 1.5
    return drop_unused(vertices, faces[~inside])


def book():
    """Non-manifold: three grid pages on one spine."""
    vertices, faces = grid(7, 5)
    parts, all_faces = [], []
    spine = np.flatnonzero(vertices[:, 0] == 0)
    for k in range(3):
        angle = 2 * np.pi * k / 3
        page = vertices.copy()
        page[:, 0], page[:, 2] = vertices[:, 0] * np.cos(angle), vertices[:, 0] * np.sin(angle)
        names = np.arange(len(vertices)) + k * len(vertices)
        names[spine] = spine
        parts.append(page)
        all_faces.append(names[faces])
    return drop_unused(np.concatenate(parts), np.concatenate(all_faces))


def fan():
    """Non-manifold: three triangles on the edge 0-1."""
    vertices = np.array([[0, 0, 0], [0, 0, 1], [1, 0, 0.5], [-1, 1, 0.5], [-1, -1, 0.5]], float)
    return vertices, np.array([[0, 1, 2], [0, 1, 3], [0, 1, 4]])


def bow_tie():
    """Non-manifold in a point: two spheres that share vertex 0."""
    v, f = sphere(1)
    other = f + len(v) - 1
    other[f == 0] = 0
    return np.concatenate([v, (2 * v[0] - v)[1:]]), np.concatenate([f, other[:, ::-1]])


def two_parts():
    """Two components: a sphere and a grid."""
    (v1, f1), (v2, f2) = sphere(2), grid(6, 6)
    return np.concatenate([v1, v2 + 3]), np.concatenate([f1, f2 + len(v1)])


def isolated():
    """A sphere and three vertices without a face, first, amid and last."""
    v, f = sphere(2)
    extra = np.array([[5.0, 0, 0], [6, 0, 0], [7, 0, 0]])
    v = np.concatenate([extra[:1], v[:80], extra[1:2], v[80:], extra[2:]])
    return v, f + 1 + (f >= 80)


def mixed_orientation():
    """A sphere with every third face turned over."""
    v, f = sphere(2)
    f = f.copy()
    f[::3] = f[::3, ::-1]
    return v, f


def moebius(n=20):
    """Open and not orientable."""
    t = 2 * np.pi * np.arange(n) / n
    rows = []
    for w in (-0.4, 0.0, 0.4):
        r = 1 + w * np.cos(t / 2)
        rows.append(np.stack([r * np.cos(t), r * np.sin(t), w * np.sin(t / 2)], 1))
    vertices = np.concatenate(rows)
    faces = []
    for i in range(n):
        for k in range(2):
            a, b = k * n + i, (k + 1) * n + i
            if i < n - 1:
                c, d = a + 1, b + 1
            else:
                c, d = (2 - k) * n, (1 - k) * n
            faces += [[a, c, d], [a, d, b]]
    return vertices, np.array(faces)


SHAPES = {
    f.__name__: f
    for f in (
        sphere,
        grid,
        torus,
        annulus,
        book,
        fan,
        bow_tie,
        two_parts,
        isolated,
        mixed_orientation,
        moebius,
    )
}


def drop_unused(vertices, faces):
    """The mesh without the vertices that no face uses."""
    used = np.unique(faces)
    return vertices[used], np.searchsorted(used, faces)


def edge_counts(faces):
    """Edge (smaller, larger) -> number of faces that hold it."""
    return Counter(
        (min(a, b), max(a, b))
        for face in np.asarray(faces).tolist()
        for a, b in zip(face, face[1:] + face[:1], strict=True)
    )


def border(faces):
    """The vertices on edges of one face."""
    return {v for edge, n in edge_counts(faces).items() if n == 1 for v in edge}


def neighbors(faces, count):
    """Sets of adjacent vertices."""
    out = [set() for _ in range(count)]
    for a, b in edge_counts(faces):
        out[a].add(b)
        out[b].add(a)
    return out


def hops_from(start, adjacent):
    """Vertex -> number of edges on the shortest path from start, for all it reaches."""
    hops, queue = {start: 0}, deque([start])
    while queue:
        v = queue.popleft()
        for w in adjacent[v]:
            if w not in hops:
                hops[w] = hops[v] + 1
                queue.append(w)
    return hops


def components(faces, count):
    """Number of components, a vertex without faces counting as one."""
    adjacent, seen, number = neighbors(faces, count), set(), 0
    for v in range(count):
        if v not in seen:
            seen |= hops_from(v, adjacent).keys()
            number += 1
    return number


def topology(faces, count):
    """What a decimation may not change.

    Euler characteristic, components, and the numbers of connected groups of edges with one face
    (borders) and with three or more.
    """
    edges = edge_counts(faces)
    groups = []
    for kind in (lambda n: n == 1, lambda n: n > 2):
        some = [edge for edge, n in edges.items() if kind(n)]
        ends = sorted({v for edge in some for v in edge})
        adjacent = {v: set() for v in ends}
        for a, b in some:
            adjacent[a].add(b)
            adjacent[b].add(a)
        seen, number = set(), 0
        for v in ends:
            if v not in seen:
                seen |= hops_from(v, adjacent).keys()
                number += 1
        groups.append(number)
    return count - len(edges) + len(faces), components(faces, count), *groups


def normals(vertices, faces):
    """Cross products: twice the area long."""
    a, b, c = vertices[faces[:, 0]], vertices[faces[:, 1]], vertices[faces[:, 2]]
    return np.cross(b - a, c - a)
