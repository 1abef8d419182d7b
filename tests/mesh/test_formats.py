"""Readers of files: what is damaged is refused by line and count, and nothing is read wrongly."""

import os
import struct
import warnings

import numpy as np
import pytest
from support.mesh_files import CUBE, QUADS, SIDES, binary_ply, ply_head, put, refused, write_text

from polygraph.mesh import MeshError, read_collection, read_mesh
from polygraph.mesh.cloud import read_cloud
from polygraph.mesh.formats import polygons
from polygraph.mesh.formats.write import ENCODERS

SHAPE_L = [[0, 0, 0], [2, 0, 0], [2, 1, 0], [1, 1, 0], [1, 2, 0], [0, 2, 0]]
TEXTS = (".obj", ".off", ".ply")


# ---- counts ----


@pytest.mark.parametrize(
    ("suffix", "lines"),
    [(".ply", 7), (".off", 7), (".ply", 13), (".off", 13)],
)
def test_text_that_ends_early(suffix, lines, tmp_path):
    path = write_text(tmp_path / f"a{suffix}", CUBE, SIDES.tolist())
    whole = path.read_text().splitlines(keepends=True)
    path.write_text("".join(whole[:-lines]))
    rest = f"{12 - lines} of 12 faces" if lines < 12 else f"{20 - lines} of 8 vertices"
    refused(path, f"it ends after {rest}")
    path.write_text("".join(whole) + whole[-1])
    refused(path, r"line \d+: nothing may follow")


@pytest.mark.parametrize("order", ["little", "big"])
def test_binary_ply_that_ends_early(order, tmp_path):
    data = binary_ply(order, CUBE, SIDES.tolist())
    path = put(tmp_path, "a.ply", data)
    np.testing.assert_array_equal(read_mesh(path).faces, SIDES)
    path.write_bytes(data + b"\n")
    np.testing.assert_array_equal(read_mesh(path).faces, SIDES)
    path.write_bytes(data[:-60])
    refused(path, "it ends after 7 of 12 faces")
    path.write_bytes(data[: -13 * 12 - 10])
    refused(path, "it ends after 7 of 8 vertices")
    path.write_bytes(data + data[-13:])
    refused(path, "13 bytes follow what the header announces")


def test_stl_that_ends_early(tmp_path):
    data = ENCODERS[".stl"](CUBE, SIDES)
    path = put(tmp_path, "a.stl", b"solid " + data[6:])
    assert len(read_mesh(path).faces) == 12
    path.write_bytes(data[:-60])
    refused(path, "it ends after 10 of 12 triangles")
    path.write_bytes(data + data[-50:])
    refused(path, "announces 12 triangles, and it holds 13")


def text_stl():
    facets = "".join(
        "facet normal 0 0 0\nouter loop\n"
        + "".join(f"vertex {x} {y} {z}\n" for x, y, z in triangle)
        + "endloop\nendfacet\n"
        for triangle in CUBE[SIDES].tolist()
    )
    return f"solid a\n{facets}endsolid a\n"


def test_text_stl(tmp_path):
    text = text_stl()
    path = put(tmp_path, "a.stl", text)
    plain = read_mesh(path)
    assert plain.faces.shape == (12, 3)
    for other in (text.upper(), text.replace("\n", "\r\n  "), text + text.replace(" 1.0", " 3.0")):
        path.write_text(other)
        found = read_mesh(path)
        np.testing.assert_array_equal(found.faces[:12], plain.faces)
        assert len(found.faces) == 12 * (1 + other.count("endsolid") // 2)
    lines = text.splitlines(keepends=True)
    for cut, words in (
        (lines[:-1], "it ends without endsolid, after 12 triangles$"),
        (lines[:-9], "it ends without endsolid, after 10 triangles and a part of one"),
        (lines[:4] + lines[5:], "line 6, in triangle 0, stands in the wrong place: 'endloop'"),
        ([*lines[:3], "vertex 1 2\n", *lines[4:]], "line 4: a vertex has 3 numbers, got 2"),
        ([*lines[:3], "vertex\n", *lines[4:]], "line 4: a vertex has 3 numbers, got none"),
        ([*lines[:3], "vertex 1,5 2 3\n", *lines[4:]], "line 4: '1,5' is not a number"),
    ):
        path.write_text("".join(cut))
        refused(path, words)


# ---- text ----


def test_obj_comments_and_lines(tmp_path):
    body = "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"
    want = [[0, 0, 0], [1, 0, 0], [0, 1, 0]]
    for data in (
        "# saved to C:\\x\\\n" + body,
        b"\xef\xbb\xbf" + body.encode(),
        body.replace("\n", "\r\n"),
        body.replace("v 1 0 0", "v 1 \\\n0 0").replace("f 1", "f \\\r\n1"),
        "o a\u2028v 9 9 9\u0085v 9 9 9\fv 9 9 9\x1cv 9 9 9\n" + body,
        b"# caf\xe9\n" + body.encode(),
    ):
        mesh = read_mesh(put(tmp_path, "a.obj", data))
        assert mesh.vertices.tolist() == want
        assert mesh.faces.tolist() == [[0, 1, 2]]
    for encoding in ("utf-16", "utf-16-le"):
        refused(put(tmp_path, "b.obj", body.encode(encoding)), "UTF-16|zero bytes")
    continued = body.replace("v 1 0 0", "v 1 \\\n0 0") + "v x\n"
    refused(put(tmp_path, "b.obj", continued), "line 6 is not a valid v line: 'x' is not a number")


@pytest.mark.parametrize(
    "word",
    ["1_0", "\u0661", "1/2/3/4/5", "/1", "1/a", "1.0", "1e0", "0x1", "1,2", "+-1", "1-2", "--1"],
)
def test_corners_that_are_no_numbers(word, tmp_path):
    text = f"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\nf 1 2 {word} 3\n"
    refused(put(tmp_path, "a.obj", text), "line 5 is not a valid f line")


@pytest.mark.parametrize(
    "word",
    [
        "1_0",
        "\u0661",
        "0,5",
        "0x10",
        "1-2",
        "1.2.3",
        "1e2.5",
        "1e",
        ".",
        "-",
        "1d5",
        "nano",
    ],
)
@pytest.mark.parametrize("suffix", [".obj", ".off", ".ply", ".xyz"])
def test_coordinates_that_are_no_numbers(word, suffix, tmp_path):
    good = write_text(tmp_path / f"a{suffix}", CUBE, QUADS).read_text()
    if suffix == ".xyz":
        good = "0.0 0.0 0.0\n0.0 0.0 1.0\n"
    bad = good.replace("0.0 0.0 1.0", f"0.0 {word} 1.0", 1)
    number = good[: good.index("0.0 0.0 1.0")].count("\n") + 1
    read = read_cloud if suffix == ".xyz" else read_mesh
    refused(put(tmp_path, f"a{suffix}", bad), f"line {number}.* is not a number", read)


def test_numbers_are_those_that_python_reads(tmp_path):
    words = ["1e-3", "-.5", "+7.", "1E5", "0.1", "1e-400", "123456789.123456789", "-0", "5e-324"]
    rows = "".join(f"{a} {b} {c}\n" for a, b, c in zip(words, words[1:], words[2:], strict=False))
    points = read_cloud(put(tmp_path, "a.xyz", rows))
    assert points.ravel().tolist() == [float(word) for word in rows.split()]


# ---- polygons ----


@pytest.mark.parametrize("suffix", TEXTS)
@pytest.mark.parametrize("start", range(6))
@pytest.mark.parametrize("turn", [1, -1])
def test_concave_polygons(suffix, start, turn, tmp_path):
    ring = np.roll(np.arange(6), -start)[::turn].tolist()
    mesh = read_mesh(write_text(tmp_path / f"a{suffix}", SHAPE_L, [ring]))
    a, b, c = (mesh.vertices[mesh.faces[:, k]] for k in range(3))
    areas = turn * np.cross(b - a, c - a)[:, 2] / 2
    assert areas.sum() == 3
    assert (areas >= 0).all()
    assert len(areas) == 4


def areas_of(vertices, ring):
    found = polygons.Polygons(
        np.asarray(vertices, float), np.array([len(ring)]), np.asarray(ring, np.int64)
    )
    faces, notes = polygons.triangles_of(found, "a")
    a, b, c = (found.vertices[faces[:, k]] for k in range(3))
    return np.cross(b - a, c - a) / 2, notes


def test_polygons_of_many_shapes():
    """Stars, combs and spirals, tilted, far away, tiny: their area, and none turned over."""
    rng = np.random.default_rng(0)
    t = np.sort(rng.random(40)) * 2 * np.pi
    star = np.stack([np.cos(t), np.sin(t)], 1) * rng.uniform(0.1, 1, (40, 1))
    comb = [[i, 5.0 * (i % 2)] for i in range(25)] + [[24, -1.0], [0, -1]]
    s = np.linspace(0, 4 * np.pi, 40)
    arm = np.stack([np.cos(s), np.sin(s)], 1)
    spiral = np.concatenate([arm * (1 + s[:, None]), (arm * (0.8 + s[:, None]))[::-1]])
    for flat in (star, np.array(comb)[::-1], spiral):
        x, y = flat.T
        area = (x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2
        tilt, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        for scale, shift in ((1, 0), (1e-150, 0), (1e150, 0), (1, 1e4)):
            points = np.c_[flat, np.zeros(len(flat))] @ tilt * scale + shift
            for start in (0, 31):
                ring = np.roll(np.arange(len(flat)), start)
                with np.errstate(over="ignore", under="ignore"):
                    normals, notes = areas_of(points / scale, ring)
                    notes = notes or areas_of(points, ring)[1]
                assert not notes
                assert np.linalg.norm(normals.sum(0)) == pytest.approx(abs(area), rel=1e-6)
                assert np.linalg.norm(normals, axis=1).sum() == pytest.approx(abs(area), rel=1e-6)


def test_polygons_that_cross_themselves_are_told():
    bow_tie = [[0, 0, 0], [1, 1, 0], [1, 0, 0], [0, 3, 0]]
    assert "1 of 1 faces cross themselves" in areas_of(bow_tie, [0, 1, 2, 3])[1][0]


def test_large_polygons():
    count = 300_000
    t = np.arange(count) / count * 2 * np.pi
    ring = np.stack([np.cos(t), np.sin(t), 0 * t], 1)
    normals, notes = areas_of(ring, np.arange(count))
    assert (len(normals), notes) == (count - 2, [])
    ring[5] *= 0.5
    with pytest.raises(MeshError, match=r"face 0 has 300000 corners .* at most 1024"):
        areas_of(ring, np.arange(count))


@pytest.mark.parametrize("suffix", TEXTS)
def test_repeated_corners(suffix, tmp_path):
    faces = [[0, 1, 3, 3], [4, 4, 5], [2, 3, 7, 6], [1, 1, 1], [0, 1, 0, 2], [4, 6, 7, 5]]
    path = write_text(tmp_path / f"a{suffix}", CUBE, faces)
    with pytest.warns(UserWarning, match="4 of 6 faces repeat a corner .* first face 0;") as told:
        mesh = read_mesh(path)
    assert told[0].filename == __file__
    assert mesh.faces.tolist() == [[0, 1, 3], [2, 3, 7], [2, 7, 6], [4, 6, 7], [4, 7, 5]]
    write_text(path, CUBE, [[4, 4, 5]])
    with pytest.warns(UserWarning), pytest.raises(MeshError, match="all its 1 faces are flat"):  # noqa: PT030
        read_mesh(path)


def test_one_topology_from_every_format(tmp_path):
    faces = [QUADS[0], SIDES[2].tolist(), *QUADS[2:], [0, 1, 5, 7, 6, 2]]
    meshes = [read_mesh(write_text(tmp_path / f"a{suffix}", CUBE, faces)) for suffix in TEXTS]
    for order in ("little", "big"):
        meshes.append(read_mesh(put(tmp_path, "b.ply", binary_ply(order, CUBE, faces))))
    assert meshes[0].faces[:3].tolist() == [[0, 1, 3], [0, 3, 2], SIDES[2].tolist()]
    for mesh in meshes[1:]:
        np.testing.assert_array_equal(mesh.faces, meshes[0].faces)
        np.testing.assert_array_equal(mesh.vertices, CUBE)


def test_poses_of_one_topology_are_cut_alike(tmp_path):
    """A quad that is convex in one pose and not in the other."""
    bent = np.array(CUBE)
    bent[1] = [0, 0.9, 0.5]
    paths = [write_text(tmp_path / f"{i}.obj", v, QUADS) for i, v in enumerate((CUBE, bent))]
    assert not np.array_equal(read_mesh(paths[0]).faces, read_mesh(paths[1]).faces)
    vertices, faces = read_collection(paths)
    np.testing.assert_array_equal(vertices[1], bent.astype(np.float32))
    np.testing.assert_array_equal(faces, SIDES)


# ---- PLY ----


def triangle_ply(rows="0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n", **options):
    return ply_head("ascii", 3, 1, **options) + rows


@pytest.mark.parametrize(
    ("rows", "options", "words"),
    [
        ("0 0 0\n1 0 0\n0 1 0\n200 0 1 2\n", {}, "line 13: a face has 201 or more numbers, got 4"),
        ("0 0 0\n1 0 0\n0 1 0\n3 0 1 257\n", {"index": "uchar"}, "257 is no uchar"),
        ("0 0 0\n1 0 0\n0 1 0\n3 0 1.7 2\n", {}, "line 13: vertex_indices: 1.7.* is no int"),
        ("0 0 0\n1 0 0\n0 1 0\n3 0 -1 2\n", {"index": "uint16"}, "-1 is no uint16"),
        ("0 0 0\n1 0 0\n0 1 0\n-1 0 1 2\n", {"counts": "char"}, "-1 is no length of the type char"),
        ("0 0 0\n1 0 0\n0 1 0\n2.5 0 1 2\n", {}, "2.5 is no length of the type uchar"),
        ("0 0 0\n1 0 0\n0 1.5 0\n3 0 1 2\n", {"kind": "short"}, "line 12: y: 1.5 is no short"),
        ("0 0 0\n1 0 0\n0 40000 0\n3 0 1 2\n", {"kind": "int16"}, "y: 40000 is no int16"),
        ("0 0 0\n1 0 0\n0 1e39 0\n3 0 1 2\n", {}, r"line 12: y: 1e\+39|9.99\d*e\+38 is no float"),
        ("0 0 0\n1 0\n0 1 0\n3 0 1 2\n", {}, "line 11: a vertex has 3 numbers, got 2"),
        ("0 0 0\n1 0 0\n0 1 0\n3 0 1 2 7\n", {}, "line 13: a face has 4 numbers, got 5"),
    ],
)
def test_ply_numbers_and_their_types(rows, options, words, tmp_path):
    refused(put(tmp_path, "a.ply", triangle_ply(rows, **options)), words)


@pytest.mark.parametrize("kind", ["char", "int8", "short", "int16", "int", "int32", "double"])
def test_ply_types(kind, tmp_path):
    code = {"char": "b", "int8": "b", "short": "h", "int16": "h", "double": "d"}.get(kind, "i")
    index = "ushort" if kind == "double" else kind
    for order, sign in (("little", "<"), ("big", ">")):
        head = ply_head(f"binary_{order}_endian", 3, 1, kind=kind, index=index, counts="uint")
        data = head.encode() + struct.pack(f"{sign}9{code}", -1, 0, 0, 1, 0, 0, 0, 1, 0)
        data += struct.pack(f"{sign}I3{'H' if kind == 'double' else code}", 3, 2, 0, 1)
        mesh = read_mesh(put(tmp_path, "a.ply", data))
        assert mesh.vertices.tolist() == [[-1, 0, 0], [1, 0, 0], [0, 1, 0]]
        assert mesh.faces.tolist() == [[2, 0, 1]]


def test_ply_steps_over_all_else(tmp_path):
    """Other properties and elements, before, between and behind, in text and in both binaries."""
    head = (
        "ply\r\nformat {} 1.0\r\ncomment caf\xe9 end_header\nobj_info x\nelement material 1\n"
        "property list uchar double weights\nproperty uchar id\nelement vertex 3\n"
        "property uchar red\nproperty double x\nproperty float y\nproperty list short int8 tags\n"
        "property short z\nelement face 2\nproperty float quality\n"
        "property list uchar float texcoord\nproperty list int uint vertex_index\n"
        "element edge 1\nproperty int vertex1\nproperty int vertex2\nelement empty 7\nend_header\n"
    ).encode("latin-1")
    rows = [
        ("B2dB", 2, 0.5, 0.25, 1),
        *(("Bdfhh", 9, 0, 0, 0, 0), ("Bdfhbbh", 9, 1, 0, 2, 5, 6, 0), ("Bdfhbh", 9, 0, 1, 1, 5, 3)),
        *(("fBi3I", 0.5, 0, 3, 0, 1, 2), ("fB2fi3I", 0.5, 2, 1, 0, 3, 2, 1, 0), ("2i", 0, 1)),
    ]
    files = [head.replace(b"{}", b"ascii")]
    files[0] += "".join(" ".join(map(str, row[1:])) + "\n" for row in rows).encode()
    for order, sign in (("little", "<"), ("big", ">")):
        packed = b"".join(struct.pack(sign + row[0], *row[1:]) for row in rows)
        files.append(head.replace(b"{}", f"binary_{order}_endian".encode()) + packed)
    for data in files:
        mesh = read_mesh(put(tmp_path, "a.ply", data))
        assert mesh.vertices.tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 3]]
        assert mesh.faces.tolist() == [[0, 1, 2], [2, 1, 0]]
        np.testing.assert_array_equal(read_cloud(tmp_path / "a.ply"), mesh.vertices)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("format ascii 1.0", "format ascii 2.0", "line 2 is not valid in a header"),
        ("vertex 3", "vertex 3_0", "line 3 is not valid in a header: 'element vertex 3_0'"),
        ("vertex 3", "vertex \u0663", "line 3 is not valid"),
        ("element face", "element vertex", "line 7 is not valid"),
        ("property float y", "property float x", "line 5 is not valid"),
        ("property float z\n", "", "have no number z"),
        ("list uchar", "list float", "line 8 is not valid"),
        ("uchar int", "uchar float", "vertex_indices must be a list of integers"),
        ("vertex_indices", "corners", "no list vertex_indices or vertex_index"),
        ("property float y", "property int128 y", "line 5 is not valid"),
        ("end_header\n", "", "line 9 is not valid in a header: '0 0 0'"),
        ("element face", "element tristrips", "triangle strips are not supported"),
        ("ply\n", "plt\n", "does not begin with the line ply"),
    ],
)
def test_ply_headers(old, new, words, tmp_path):
    refused(put(tmp_path, "a.ply", triangle_ply().replace(old, new, 1)), words)


# ---- OFF ----


@pytest.mark.parametrize(
    ("head", "more"),
    [
        ("OFF\n3 1 0\n", ""),
        ("OFF 3 1 0\n", ""),
        ("# a\n\noff\n# b\n3 1\n\n", " # c"),
        ("COFF\n3 1 0\n", " 255 0 0 255"),
        ("COFF\n3 1 0\n", " 0.5 0 0"),
        ("NOFF\n3 1 0\n", " 0 0 1"),
        ("CNOFF\n3 1 0\n", " 0 0 1 1 1 1 1"),
        ("STCNOFF 3 1 0\n", " 0 0 1 1 1 1 1 0.5 0.5"),
        ("STOFF\n3 1 0\n", " 0.5 0.5"),
    ],
)
def test_off_variants(head, more, tmp_path):
    body = "".join(f"{row}{more}\n" for row in ("0 0 0", "1 0 0", "0 1 0")) + "3 0 1 2 255 0 0\n"
    mesh = read_mesh(put(tmp_path, "a.off", "\ufeff" + head + body))
    assert mesh.vertices.tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0]]
    assert mesh.faces.tolist() == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("OFF\n3 1 0\n0 0 0\n1 0 0\n3 0 1 2\n", "line 5: a vertex has 3 numbers, got 4"),
        ("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n4 0 1 2\n", "line 6: a face of 4 corners"),
        ("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2.5\n", "line 6: 2.5 is no index"),
        ("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2 9 9\n", "line 6: a face of 3 corners"),
        ("OFF\n3 1 0\n0 0 0 1\n1 0 0 1\n0 1 0 1\n3 0 1 2\n", "line 3: a vertex has 3 numbers"),
        ("OFF\n3 1_0 0\n", "line 2: want the numbers of vertices, faces"),
        ("OFF\n3\n", "line 2: want the numbers of vertices"),
        ("OFF BINARY\n", "binary OFF is not supported"),
        ("4OFF\n3 1 0\n", "4OFF is not supported"),
        ("nOFF\n5\n3 1 0\n", "nOFF is not supported"),
        ("3 1 0\n", "it does not begin with OFF"),
    ],
)
def test_off_faults(text, words, tmp_path):
    refused(put(tmp_path, "a.off", text), words)


# ---- files ----


@pytest.mark.timeout(30)
@pytest.mark.parametrize("read", [read_mesh, read_cloud], ids=["mesh", "cloud"])
def test_what_is_no_file(read, tmp_path):
    os.mkfifo(tmp_path / "pipe.ply")
    refused(tmp_path / "pipe.ply", "not a file but a pipe", read)
    (tmp_path / "zero.ply").symlink_to("/dev/zero")
    refused(tmp_path / "zero.ply", "not a file but a device", read)
    (tmp_path / "loop.ply").symlink_to("loop.ply")
    refused(tmp_path / "loop.ply", "Too many levels", read)
    with open(tmp_path / "sparse.ply", "wb") as file:
        file.truncate(50 << 30)
    refused(tmp_path / "sparse.ply", r"has \d+ bytes, more than", read)


def test_a_whole_file_gives_no_warning(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for suffix in TEXTS:
            read_mesh(write_text(tmp_path / f"a{suffix}", CUBE, QUADS))
