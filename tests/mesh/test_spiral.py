"""Spiral tables: which vertices, in which order, how many."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.mesh_shapes import (
    fan,
    grid,
    hops_from,
    isolated,
    neighbors,
    sphere,
    torus,
    two_parts,
)

from polygraph.mesh import MeshError, SpiralConfig, spiral_table

CONVENTIONS = ("neural3dmm", "spiralnet++")


def jittered(shape, seed=0):
    """Without ties between path lengths."""
    v, f = shape
    return v + 0.03 * np.random.default_rng(seed).standard_normal(v.shape), f


def entries(row):
    return row[row >= 0].tolist()


def check_rings(table, adjacent, complete_hops=None, length=None):
    """Centre first, every vertex once, ring by ring, no vertex of a ring left out."""
    for v, row in enumerate(table):
        spiral = entries(row)
        assert spiral[0] == v
        assert len(set(spiral)) == len(spiral)
        hops = hops_from(v, adjacent)
        distance = [hops[w] for w in spiral]
        assert distance == sorted(distance)
        full = distance[-1] if complete_hops is not None else distance[-1] - 1
        within = complete_hops if complete_hops is not None else full
        assert {w for w, d in hops.items() if d <= within} <= set(spiral)
        if complete_hops is not None:
            assert distance[-1] <= complete_hops
        else:
            assert len(spiral) == min(length, len(hops))


@pytest.mark.parametrize("hops", [1, 2, 4])
def test_rings_are_complete(any_mesh, hops):
    v, f = any_mesh
    table = spiral_table(v, f, hops=hops, length=2 * len(v))
    assert table.dtype == np.int64
    check_rings(table, neighbors(f, len(v)), complete_hops=hops)


@pytest.mark.parametrize("length", [1, 6, 9, 40])
def test_fixed_length_is_filled(any_mesh, length):
    v, f = any_mesh
    table = spiral_table(v, f, convention="spiralnet++", length=length)
    assert table.shape == (len(v), length)
    check_rings(table, neighbors(f, len(v)), length=length)
    padded = table < 0  # only at the end
    assert (padded[:, 1:] | ~padded[:, :-1]).all()


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_repeats(any_mesh, convention):
    first = spiral_table(*any_mesh, convention=convention)
    second = spiral_table(*(a.copy() for a in any_mesh), convention=convention)
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_isolated_vertex_is_alone(convention):
    v, f = isolated()
    table = spiral_table(v, f, convention=convention)
    for loose in np.setdiff1d(np.arange(len(v)), f):
        assert entries(table[loose]) == [loose]
        assert (table[loose, 1:] == -1).all()


def test_interior_of_a_grid_by_hand():
    v, f = grid(7, 7)
    table = spiral_table(v, f, hops=2, length=25, reference=27)  # the reference is east of all
    # Row-major 7 x 7; each vertex has its neighbours E, NE, N, W, SW, S. Around 24, the middle:
    assert table[24, :7].tolist() == [24, 25, 32, 31, 23, 16, 17]
    # The 2-ring begins at the vertex beyond the first and the last of the 1-ring.
    assert table[24, 7:19].tolist() == [18, 26, 33, 40, 39, 38, 30, 22, 15, 8, 9, 10]
    assert (table[24, 19:] == -1).all()


def test_borders_leave_gaps():
    v, f = grid(4, 4)
    table = spiral_table(v, f, hops=2, length=14, reference=14)
    # 4: on the west border, neighbours S 0, E 5, NE 9, N 8; the straight way to 14 leads over 9.
    # The ring runs 9, 8, then the gap in the west, then 0, 5. Its own neighbours follow likewise.
    assert table[4, :6].tolist() == [4, 9, 8, -1, 0, 5]
    assert table[4, 6:].tolist() == [10, 14, 13, 12, -1, 1, 6, -1]
    flat = spiral_table(v, f, convention="spiralnet++", length=11)
    assert -1 not in flat[4]
    # OpenMesh begins at the counter-clockwise end, and turns clockwise.
    assert flat[4, :5].tolist() == [4, 8, 9, 5, 0]


def test_a_ring_that_starts_at_an_end_of_a_border():
    v, f = grid(4, 4)
    # 4 towards 0 in the south: at the clockwise end of its ring, with the gap behind it; its own
    # neighbours begin behind the gap. Towards 12 in the north: at the other end, the gap follows.
    table = spiral_table(v, f, hops=2, length=14, reference=0)
    assert table[4].tolist() == [4, 0, 5, 9, 8, -1, 1, 6, 10, 14, 13, 12, -1, -1]
    table = spiral_table(v, f, length=6, reference=12)
    assert table[4].tolist() == [4, 8, -1, 0, 5, 9]


TETRAHEDRON = np.array([[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 3, 2]])


@pytest.mark.parametrize(
    ("faces", "rings"),
    [
        # Closed: each ring begins behind its centre in the last face of the centre.
        (TETRAHEDRON, [[3, 2, 1], [3, 0, 2], [1, 0, 3], [2, 0, 1]]),
        (TETRAHEDRON[::-1], [[1, 3, 2], [2, 3, 0], [0, 3, 1], [0, 1, 2]]),
        # The same faces, named from another corner: nothing changes.
        (TETRAHEDRON[:, [1, 2, 0]], [[3, 2, 1], [3, 0, 2], [1, 0, 3], [2, 0, 1]]),
        # A strip, all border: from the counter-clockwise end.
        ([[0, 1, 2], [1, 3, 2]], [[2, 1], [0, 2, 3], [3, 1, 0], [1, 2]]),
        ([[1, 3, 2], [0, 1, 2]], [[2, 1], [0, 2, 3], [3, 1, 0], [1, 2]]),
        # A wheel that lacks a slice, and with it, added last: the hub's ring begins at 4.
        ([[0, 1, 2], [0, 2, 3], [0, 3, 4]], [[4, 3, 2, 1], [0, 2], [1, 0, 3], [2, 0, 4], [3, 0]]),
        (
            [[0, 1, 2], [0, 2, 3], [0, 3, 4], [0, 4, 1]],
            [[4, 3, 2, 1], [4, 0, 2], [1, 0, 3], [2, 0, 4], [3, 0, 1]],
        ),
        # Two arcs at 0, in the order in which they came; joined, they begin where 3's face does.
        ([[0, 1, 2], [0, 3, 4]], [[2, 1, 4, 3], [0, 2], [1, 0], [0, 4], [3, 0]]),
        (
            [[0, 1, 2], [0, 3, 4], [0, 2, 3]],
            [[4, 3, 2, 1], [0, 2], [1, 0, 3], [2, 0, 4], [3, 0]],
        ),
        # A third face at an edge is refused: its vertices come last.
        ([[0, 1, 2], [0, 1, 3]], [[2, 1, 3], [0, 2, 3], [1, 0], [0, 1]]),
    ],
)
def test_spiralnet_rings_are_those_of_openmesh(faces, rings):
    """By hand, and as OpenMesh 1.2.1 for Python gives them (but for the face it refuses)."""
    v = np.random.default_rng(0).random((len(rings), 3))
    table = spiral_table(v, np.array(faces), convention="spiralnet++", length=5)
    got = [entries(row)[1 : 1 + len(ring)] for row, ring in zip(table, rings, strict=True)]
    assert got == rings


def test_spiralnet_rings_of_a_grid():
    v, f = grid(3, 3)
    table = spiral_table(v, f, convention="spiralnet++", length=9)
    # Within: from 8 in the last face, (4, 8, 7), clockwise E 5, S 1, SW 0, W 3, N 7; then the rest.
    assert table[4].tolist() == [4, 8, 5, 1, 0, 3, 7, 2, 6]
    # In the corner: ring N 3, NE 4, E 1; around 3 are new 6, 7, around 4 8, 5, around 1 2.
    assert table[0].tolist() == [0, 3, 4, 1, 6, 7, 8, 5, 2]


def test_the_conventions_turn_opposite_ways():
    v, f = jittered(torus())
    left = spiral_table(v, f, length=12)
    right = spiral_table(v, f, convention="spiralnet++", length=12)
    for degree, a, b in zip(map(len, neighbors(f, len(v))), left, right, strict=True):
        ring, other = a[1 : 1 + degree].tolist(), b[1 : 1 + degree].tolist()
        at = other.index(ring[0])
        assert ring == [*other[at::-1], *other[:at:-1]]


def test_counter_clockwise_around_the_normal():
    v, f = jittered(sphere(2))
    for row in spiral_table(v, f, length=10):
        ring = np.array(entries(row)[1:])
        normal = v[row[0]] / np.linalg.norm(v[row[0]])
        x = v[ring[0]] - v[row[0]]
        x -= normal * (x @ normal)
        y = np.cross(normal, x)
        offset = v[ring] - v[row[0]]
        angle = np.arctan2(offset @ y, offset @ x) % (2 * np.pi)
        assert angle[0] < 1e-9 or angle[0] > 2 * np.pi - 1e-9
        assert (np.diff(angle[1:]) > 0).all()


@pytest.mark.parametrize("shape", [sphere(3), torus(20, 16)])
def test_second_ring_of_a_closed_mesh_is_a_closed_walk(shape):
    v, f = jittered(shape)
    adjacent = neighbors(f, len(v))
    table = spiral_table(v, f, hops=2, length=40)
    for row in table:
        spiral = entries(row)
        ring = [w for w in spiral if w not in adjacent[row[0]] and w != row[0]]
        assert all(b in adjacent[a] for a, b in zip(ring, ring[1:] + ring[:1], strict=True))
        degree = len(adjacent[row[0]])
        assert {spiral[1], spiral[degree]} <= adjacent[ring[0]]


@pytest.mark.parametrize("shape", [sphere, grid, two_parts])
def test_starts_on_the_shortest_path(shape):
    v, f = jittered(shape())
    reference = 17
    table = spiral_table(v, f, reference=reference)
    adjacent = neighbors(f, len(v))
    reached = hops_from(reference, adjacent)
    distance = {reference: 0.0}
    while len(distance) < len(reached):  # Dijkstra, the slow way
        near = {
            w: min(distance[u] + np.linalg.norm(v[u] - v[w]) for u in adjacent[w] if u in distance)
            for u in distance
            for w in adjacent[u]
            if w not in distance
        }
        nearest = min(near, key=near.get)
        distance[nearest] = near[nearest]
    for w in reached:
        start = table[w, 1]
        length = np.linalg.norm(v[start] - v[w])
        if w == reference:
            assert length == min(np.linalg.norm(v[u] - v[w]) for u in adjacent[w])
        else:
            assert distance[start] + length == pytest.approx(distance[w], rel=1e-12)


@settings(max_examples=15)
@given(st.integers(0, 2**32 - 1), st.sampled_from([sphere, grid, torus]), st.integers(1, 2))
def test_names_of_vertices_do_not_matter(seed, shape, hops):
    v, f = jittered(shape(), seed % 1000)
    rng = np.random.default_rng(seed)
    name = rng.permutation(len(v))
    table = spiral_table(v, f, hops=hops, reference=5)
    moved = np.empty_like(v)
    moved[name] = v
    faces = np.roll(rng.permutation(name[f]), rng.integers(3), axis=1)
    renamed = spiral_table(moved, faces, hops=hops, reference=int(name[5]))
    np.testing.assert_array_equal(renamed[name], np.append(name, -1)[table])


def test_several_references():
    v, f = jittered(two_parts())
    count = len(v)
    table = spiral_table(v, f, reference=(17, count - 1))
    first, second = spiral_table(v, f, reference=17), spiral_table(v, f, reference=count - 1)
    sphere_part = np.arange(count) < 162
    np.testing.assert_array_equal(table, np.where(sphere_part[:, None], first, second))
    # Of two in one component the last counts, and the other starts at its closest neighbour.
    both = spiral_table(v, f, reference=[40, 17])
    others = np.arange(count) != 40
    np.testing.assert_array_equal(both[others], first[others])
    around = sorted(neighbors(f, count)[40])
    assert both[40, 1] == around[np.argmin(np.linalg.norm(v[around] - v[40], axis=1))]


def test_default_reference_is_a_tip():
    v, f = jittered(sphere(2))
    v[33] *= 3
    np.testing.assert_array_equal(spiral_table(v, f), spiral_table(v, f, reference=33))


# On 2 x 3 the standard deviation of a sample would give 7 instead of 6.
@pytest.mark.parametrize("shape", [(6, 7), (2, 3)])
def test_length_rule(shape):
    v, f = grid(*shape)
    degree = np.array([len(n) for n in neighbors(f, len(v))])
    full = spiral_table(v, f, length=20)
    rows, columns = shape
    y, x = np.divmod(np.arange(len(v)), columns)
    border = (x == 0) | (x == columns - 1) | (y == 0) | (y == rows - 1)
    # Every open ring has a gap, which counts also where it is at the end of the spiral.
    used = 1 + degree + border
    assert any(row[1 + d] < 0 for row, d in zip(full[border], degree[border], strict=True))
    table = spiral_table(v, f)
    assert table.shape[1] == int(used.mean() + 2 * used.std())
    np.testing.assert_array_equal(table, full[:, : table.shape[1]])


def test_length_rule_cuts_long_spirals():
    n = 30  # a wheel: one hub, the others of valence 3 on its rim
    angle = 2 * np.pi * np.arange(n) / n
    v = np.concatenate([np.zeros((1, 3)), np.stack([np.cos(angle), np.sin(angle), 0 * angle], 1)])
    f = np.stack([np.zeros(n, int), 1 + np.arange(n), 1 + (np.arange(n) + 1) % n], 1)
    table = spiral_table(v, f)
    assert table.shape[1] < 31
    assert table[0, 0] == 0
    assert (table[0] >= 0).all()


@pytest.mark.parametrize("dilation", [2, 3])
def test_dilation(dilation):
    v, f = jittered(sphere(3))
    plain = spiral_table(v, f, hops=2, length=40)
    rule = spiral_table(v, f, hops=2, dilation=dilation)
    used = (plain >= 0).sum(1)
    kept = 1 + -(-(used - 1) // dilation)
    assert rule.shape[1] == int(kept.mean() + 2 * kept.std())
    want = np.concatenate([plain[:, :1], plain[:, 1::dilation]], axis=1)
    np.testing.assert_array_equal(rule, want[:, : rule.shape[1]])

    long = spiral_table(v, f, convention="spiralnet++", length=9 * dilation)
    np.testing.assert_array_equal(
        spiral_table(v, f, convention="spiralnet++", length=9, dilation=dilation),
        long[:, ::dilation],
    )


def test_three_triangles_on_an_edge():
    v, f = fan()
    table = spiral_table(v, f, length=8)
    assert sorted(entries(table[0])) == [0, 1, 2, 3, 4]
    assert entries(table[2])[0] == 2
    assert set(entries(table[2])) == {0, 1, 2}
    assert set(entries(spiral_table(v, f, hops=2, length=8)[2])) == {0, 1, 2, 3, 4}


def test_coincident_vertices():
    v, f = grid(4, 4)
    v[5] = v[6]  # an edge of length zero is still an edge
    table = spiral_table(v, f, reference=15, length=12)
    check_rings(table, neighbors(f, 16), complete_hops=1)
    v, f = jittered(grid(4, 4))
    v[0] = v[15]  # the reference is the one asked for, not the other at its place
    assert spiral_table(v, f, reference=15)[14, 1] == 15
    assert spiral_table(v, f, reference=0)[1, 1] == 0


def test_coma_lengths(coma_template):
    v, f = coma_template
    # Published for the finest level: 9 with one ring, 15 with two rings and dilation 2.
    for reference in (None, 3567, (3567, 4051, 4597)):  # published: the head's, and each eye's
        assert spiral_table(v, f, reference=reference).shape == (5023, 9)
        assert spiral_table(v, f, hops=2, dilation=2, reference=reference).shape == (5023, 15)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"convention": "neural3dm"}, "convention must be 'neural3dmm' or 'spiralnet\\+\\+'"),
        ({"hops": 0}, "hops must be a whole number >= 1, got 0"),
        ({"hops": 1.5}, "hops must be a whole number >= 1, got 1.5"),
        ({"hops": True}, "hops must be a whole number >= 1, got True"),
        ({"dilation": 0}, "dilation must be a whole number >= 1, got 0"),
        ({"length": 0}, "length must be a whole number >= 1, got 0"),
        ({"reference": -1}, "reference must be a whole number >= 0, got -1"),
        ({"reference": 162}, r"reference must be a vertex in \[0, 162\), got 162"),
        ({"reference": (3, 162)}, r"reference must be a vertex in \[0, 162\), got 162"),
        ({"reference": (3, -1)}, "reference must be a whole number >= 0, got -1"),
        ({"reference": ()}, "reference must name a vertex or several, got none"),
        ({"convention": "spiralnet++", "hops": 2}, "hops has no meaning with 'spiralnet"),
        ({"convention": "spiralnet++", "reference": 2}, "reference has no meaning with 'spiral"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        spiral_table(*sphere(2), **options)


@pytest.mark.parametrize("hops", [(), 2, "12", None])
def test_bad_levels(hops):
    with pytest.raises(ValueError, match="hops must be a sequence with one number per level"):
        SpiralConfig(hops=hops)


def test_bad_mesh():
    v, f = sphere(1)
    with pytest.raises(MeshError, match="not finite"):
        spiral_table(np.where(v > 0.9, np.nan, v), f)


def test_config_per_level():
    config = SpiralConfig(hops=[2, 2, 1], dilation=(2, 1))
    assert config.hops == (2, 2, 1)
    assert [config.at_level(n) for n in range(5)] == [(2, 2), (2, 1), (1, 1), (1, 1), (1, 1)]
    assert config == SpiralConfig(hops=(2, 2, 1), dilation=(2, 1))


def test_config_from_the_command_line():
    jsonargparse = pytest.importorskip("jsonargparse")
    parser = jsonargparse.ArgumentParser()
    parser.add_class_arguments(SpiralConfig, "spiral")
    args = ["--spiral.hops=[2,2,1]", "--spiral.dilation=[2,2,1]", "--spiral.length=12"]
    instantiate = getattr(parser, "instantiate", None) or parser.instantiate_classes
    config = instantiate(parser.parse_args(args)).spiral
    assert config == SpiralConfig(hops=(2, 2, 1), dilation=(2, 2, 1), length=12)
    config = instantiate(parser.parse_args(["--spiral.reference=[3567,4051,4597]"])).spiral
    assert config.reference == (3567, 4051, 4597)
    assert instantiate(parser.parse_args(["--spiral.reference=7"])).spiral.reference == 7
    with pytest.raises(SystemExit):
        parser.parse_args(["--spiral.convention=unknown"])


def test_a_vertex_of_many_faces():
    """Given a length, nobody lists all of its neighbours; without one they are too many."""
    count = 3000
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    vertices = np.stack([np.cos(angle), np.sin(angle), np.zeros(count)], 1)
    vertices = np.concatenate([[[0, 0, 1]], vertices])
    number = np.arange(count)
    faces = np.stack([0 * number, 1 + number, 1 + (number + 1) % count], 1)
    table = spiral_table(vertices, faces, hops=2, dilation=2, length=9)
    # From 100 the way leads to the hub; the other neighbours of 100 and what they see follow.
    assert set(table[100].tolist()) <= {100, 0, *range(1, count + 1), -1}
    assert table.shape == (count + 1, 9)
    published = spiral_table(vertices, faces, convention="spiralnet++", length=9)
    assert (published[:, 1:] >= 0).all()
    with pytest.raises(MeshError, match=r"more than 1000 entries .* a vertex has 3000 neighb"):
        spiral_table(vertices, faces, hops=2)


@pytest.mark.parametrize("length", [1, 2, 7, 11, 40])
@pytest.mark.parametrize("options", [{"hops": 3}, {"hops": 2, "dilation": 2}], ids=str)
def test_a_given_length_cuts_what_is_there(any_mesh, options, length):
    """Rings are not listed to their end, and the entries are the same."""
    v, f = any_mesh
    whole = spiral_table(v, f, length=400, **options)
    np.testing.assert_array_equal(spiral_table(v, f, length=length, **options), whole[:, :length])
    whole = spiral_table(v, f, convention="spiralnet++", length=400)
    cut = spiral_table(v, f, convention="spiralnet++", length=length)
    np.testing.assert_array_equal(cut, whole[:, :length])
