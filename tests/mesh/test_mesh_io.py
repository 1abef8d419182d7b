"""Reading and writing: every format, every fault by name, nothing unchecked."""

import errno
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.mesh_shapes import SHAPES, grid, sphere

from polygraph.mesh import (
    Mesh,
    MeshError,
    read_collection,
    read_mesh,
    validate_mesh,
    write_mesh,
)
from polygraph.mesh.formats.write import ENCODERS

FORMATS = (".ply", ".obj", ".off", ".stl")
SQUARE = [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]


@pytest.mark.parametrize("suffix", [".ply", ".obj", ".off", ".PLY"])
@pytest.mark.parametrize("name", sorted(SHAPES))
def test_round_trip_is_exact(name, suffix, tmp_path):
    v, f = SHAPES[name]()
    path = tmp_path / f"mesh{suffix}"
    write_mesh(path, Mesh(v, f))
    mesh = read_mesh(str(path))
    assert mesh.vertices.dtype == np.float64
    assert mesh.faces.dtype == np.int64
    np.testing.assert_array_equal(mesh.vertices, v)
    np.testing.assert_array_equal(mesh.faces, f)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_ply_is_single_precision_where_that_is_exact(tmp_path):
    v, f = sphere(1)
    write_mesh(tmp_path / "double.ply", Mesh(v, f))
    write_mesh(tmp_path / "single.ply", Mesh(v.astype(np.float32).astype(float), f))
    assert b"property double x" in (tmp_path / "double.ply").read_bytes()
    assert b"property float x" in (tmp_path / "single.ply").read_bytes()


def test_stl_merges_vertices_in_order_of_appearance(tmp_path):
    v, f = sphere(1)
    write_mesh(tmp_path / "mesh.stl", Mesh(v, f))
    mesh = read_mesh(tmp_path / "mesh.stl")
    order = list(dict.fromkeys(f.ravel().tolist()))
    np.testing.assert_array_equal(mesh.vertices, v[order].astype(np.float32))
    np.testing.assert_array_equal(np.array(order)[mesh.faces], f)


def test_stl_drops_flat_triangles(tmp_path):
    text = "solid s\n"
    for corners in ([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[1, 0, 0], [1, 0, 0], [0, 1, 0]]):
        rows = "".join(f"vertex {x} {y} {z}\n" for x, y, z in corners)
        text += f"facet normal 0 0 1\nouter loop\n{rows}endloop\nendfacet\n"
    (tmp_path / "a.stl").write_text(text + "endsolid s\n")
    with pytest.warns(UserWarning, match=r"a\.stl: 1 of 2 faces repeat a corner"):
        assert read_mesh(tmp_path / "a.stl").faces.tolist() == [[0, 1, 2]]


def test_obj_keeps_vertices_whole(tmp_path):
    path = tmp_path / "seam.obj"
    path.write_text(
        "# a square with a texture seam, two groups, a loose vertex, CRLF, and a long line\r\n"
        "mtllib none.mtl\nv 0 0 0 1.0\nv 1 0 0 0.5 0.5 0.5\nv 1 1 0\nv 0 1 0\nv 5 5 5\n"
        "vt 0 0\nvt 1 0\nvn 0 0 1\ng one\nusemtl A\nf 1/1/1 2/2/1 \\\n3/1/1\n"
        "g two\nusemtl B\nf -5//1 -3//1 -2//1 # counted from the end\n"
    )
    mesh = read_mesh(path)
    assert mesh.vertices.tolist() == [*SQUARE, [5, 5, 5]]
    assert mesh.faces.tolist() == [[0, 1, 2], [0, 2, 3]]


def test_ply_keeps_vertices_whole(tmp_path):
    path = tmp_path / "seam.ply"
    head = "ply\nformat ascii 1.0\nelement vertex 4\n"
    head += "".join(f"property float {n}\n" for n in "xyz") + "element face 2\n"
    head += "property list uchar int vertex_indices\nproperty list uchar float texcoord\n"
    head += "end_header\n"
    rows = "\n".join(" ".join(map(str, p)) for p in SQUARE)
    seams = "\n3 0 1 2 6 0 0 1 0 1 1\n3 0 2 3 6 .5 .5 0 1 1 0\n"
    path.write_text(head + rows + seams)
    mesh = read_mesh(path)
    assert mesh.vertices.tolist() == SQUARE
    assert mesh.faces.tolist() == [[0, 1, 2], [0, 2, 3]]


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        (".obj", "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nf 1 2 3 4\n"),
        (".off", "OFF\n4 1 0\n0 0 0\n1 0 0\n1 1 0\n0 1 0\n4 0 1 2 3\n"),
        (
            ".ply",
            "ply\nformat ascii 1.0\nelement vertex 4\nproperty float x\nproperty float y\n"
            "property float z\nelement face 1\nproperty list uchar int vertex_indices\n"
            "end_header\n0 0 0\n1 0 0\n1 1 0\n0 1 0\n4 0 1 2 3\n",
        ),
    ],
)
def test_polygons_are_cut(suffix, text, tmp_path):
    path = tmp_path / f"quad{suffix}"
    path.write_text(text)
    mesh = read_mesh(path)
    assert mesh.vertices.tolist() == SQUARE
    assert mesh.faces.shape == (2, 3)
    a, b, c = (mesh.vertices[mesh.faces[:, k]] for k in range(3))
    np.testing.assert_array_equal(np.cross(b - a, c - a), [[0, 0, 1], [0, 0, 1]])


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.filterwarnings("ignore:.* faces :UserWarning")
@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), cut=st.booleans())
def test_corrupt_files_are_refused_by_name_or_sound(suffix, seed, cut, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / f"corrupt{suffix}"
    write_mesh(path, Mesh(*sphere(0)))
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(seed)
    for at in rng.integers(0, len(data), rng.integers(1, 6)):
        data[at] = rng.integers(256)
    path.write_bytes(data[: rng.integers(len(data))] if cut else data)
    mesh, message = None, ""
    try:
        mesh = read_mesh(path)
    except MeshError as refused:
        message = str(refused)
    if mesh is None:
        assert message.startswith(str(path))
    else:
        validate_mesh(mesh.vertices, mesh.faces)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("content", [b"", b"\0" * 200, b"ply\nformat", b"hello, world\n" * 20])
def test_not_a_mesh(suffix, content, tmp_path):
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(content)
    with pytest.raises(MeshError, match=rf"bad\{suffix}: "):
        read_mesh(path)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("v 0 0 0\nv 1 0 0\nv 0 1 0\n", "it has 3 vertices and no faces"),
        ("# nothing\n", "it has no vertices"),
        ("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 4\n", r"face 0 = \[0, 1, 3\] has an index outside"),
        ("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 -9\n", r"has an index outside \[0, 3\)"),
        ("v 0 0 0\nv 1 nan 0\nv 0 1 0\nf 1 2 3\n", "1 of 3 vertices are not finite, first .* 1"),
        ("v 0 0 0\nv 1 0\n", "line 2 is not a valid v line: 'v 1 0'"),
        ("v 0 0 0\nv 1 0 x\n", "line 2 is not a valid v line"),
        ("v 0 0 0\nf 1 0 1\n", "line 2 is not a valid f line"),
        ("v 0 0 0\nf 1 1\n", "line 2 is not a valid f line"),
        ("v 0 0 0\nf 1 1 99999999999999999999\n", "line 2 is not a valid f line"),
    ],
)
def test_faults_in_obj(text, fault, tmp_path):
    path = tmp_path / "faulty.obj"
    path.write_text(text)
    with pytest.raises(MeshError, match=rf"faulty\.obj: .*{fault}"):
        read_mesh(path)


@pytest.mark.parametrize("suffix", [".ply", ".off"])
def test_faults_of_binary_and_text(suffix, tmp_path):
    path = tmp_path / f"faulty{suffix}"
    v, f = sphere(1)
    for vertices, faces, fault in (
        (v, np.where(f == 7, 1000, f), "index outside"),
        (v, np.where(f == 7, -1, f), "index outside"),
        (np.where(v > 0.99, np.nan, v), f, "not finite"),
    ):
        path.write_bytes(ENCODERS[suffix](vertices, faces))  # write_mesh refuses
        with pytest.raises(MeshError, match=rf"faulty\{suffix}: .*{fault}"):
            read_mesh(path)


def test_point_cloud(tmp_path):
    path = tmp_path / "points.ply"
    head = "ply\nformat ascii 1.0\nelement vertex 2\n"
    head += "".join(f"property float {n}\n" for n in "xyz") + "end_header\n0 0 0\n1 1 1\n"
    path.write_text(head)
    with pytest.raises(MeshError, match=r"points\.ply: the mesh is empty"):
        read_mesh(path)


def test_wrong_paths(tmp_path):
    with pytest.raises(MeshError, match=r"absent\.ply: no such file"):
        read_mesh(tmp_path / "absent.ply")
    (tmp_path / "folder.ply").mkdir()
    with pytest.raises(MeshError, match=r"folder\.ply: not a file"):
        read_mesh(tmp_path / "folder.ply")
    with pytest.raises(MeshError, match=r"mesh\.fbx: cannot read \.fbx, want one of \.ply, \.obj"):
        read_mesh(tmp_path / "mesh.fbx")
    with pytest.raises(MeshError, match="cannot read a file without extension"):
        read_mesh(tmp_path / "mesh")
    mesh = Mesh(*sphere(0))
    with pytest.raises(MeshError, match=r"mesh\.vtk: cannot write \.vtk, want one of"):
        write_mesh(tmp_path / "mesh.vtk", mesh)
    with pytest.raises(MeshError, match=r"the folder .*nowhere does not exist"):
        write_mesh(tmp_path / "nowhere" / "mesh.ply", mesh)


def test_without_trimesh(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "trimesh", None)
    for suffix in FORMATS:
        write_mesh(tmp_path / f"a{suffix}", Mesh(*sphere(0)))
        assert len(read_mesh(tmp_path / f"a{suffix}").faces) == 20


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.ply"
    write_mesh(path, Mesh(*sphere(0)))
    before = path.read_bytes()
    write_bytes = Path.write_bytes

    def full(self, data):
        write_bytes(self, data[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        write_mesh(path, Mesh(*sphere(1)))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.ply"]


@pytest.mark.parametrize("name", ["n" * 251 + ".ply", "caf\udce9.ply", "\u00b2.ply", "12.ply"])
def test_names_of_every_kind(name, tmp_path):
    v, f = sphere(0)
    for _ in range(2):  # the second one replaces a file
        write_mesh(tmp_path / name, Mesh(v, f))
    assert [p.name for p in tmp_path.iterdir()] == [name]
    np.testing.assert_array_equal(read_mesh(tmp_path / name).vertices, v)


def test_write_refuses_a_bad_mesh(tmp_path):
    v, f = sphere(0)
    with pytest.raises(MeshError, match=r"mesh for .*a\.ply: face"):
        write_mesh(tmp_path / "a.ply", Mesh(v, f + 1))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("vertices", "faces", "fault"),
    [
        (np.zeros((4, 2)), [[0, 1, 2]], r"vertices must have shape \[V, 3\], got \[4, 2\]"),
        (np.zeros(3), [[0, 1, 2]], r"vertices must have shape \[V, 3\], got \[3\]"),
        (np.zeros((0, 3)), [[0, 1, 2]], "it has no vertices"),
        (SQUARE, np.zeros((0, 3), int), "it has 4 vertices and no faces"),
        (SQUARE, [[0, 1, 2, 3]], r"faces must have shape \[F, 3\], got \[1, 4\]"),
        (SQUARE, [[0.0, 1.0, 2.0]], "faces must be integers, got float64"),
        (np.array(SQUARE, complex), [[0, 1, 2]], "vertices must be real numbers, got complex128"),
        (np.array(SQUARE, str), [[0, 1, 2]], "vertices must be real numbers"),
        (SQUARE, [[0, 1, 2], [0, 2, 4]], r"face 1 = \[0, 2, 4\] has an index outside \[0, 4\)"),
        (SQUARE, [[0, 1, -1]], r"face 0 = \[0, 1, -1\] has an index outside"),
        (SQUARE, np.array([[0, 1, 2**64 - 1]], np.uint64), "has an index outside"),
        (SQUARE, [[0, 1, 2], [3, 3, 1]], r"1 faces repeat a vertex, first face 1 = \[3, 3, 1\]"),
        ([[0, 0, 0], [1, np.inf, 0], [0, 1, 0]], [[0, 1, 2]], "1 of 3 vertices are not finite"),
        (np.ones((3, 3)), [[0, 1, 2]], "all 3 vertices coincide"),
    ],
)
def test_validation(vertices, faces, fault):
    with pytest.raises(MeshError, match=f"^thing: .*{fault}"):
        validate_mesh(vertices, faces, "thing")


def test_validation_allows_what_meshes_are_like(any_mesh):
    v, f = any_mesh
    mesh = validate_mesh(v.astype(np.float32)[::1], f.astype(np.uint16))
    assert mesh.vertices.dtype == np.float64
    assert mesh.faces.dtype == np.int64
    assert mesh.vertices.flags.c_contiguous
    np.testing.assert_array_equal(mesh.faces, f)


def test_collection(tmp_path):
    v, f = sphere(1)
    paths = [tmp_path / f"{k}{s}" for k, s in enumerate((".ply", ".obj", ".off"))]
    for k, path in enumerate(paths):
        write_mesh(path, Mesh(v + k, f))
    vertices, faces = read_collection(paths)
    assert vertices.dtype == np.float32
    np.testing.assert_array_equal(vertices, np.stack([v, v + 1, v + 2]).astype(np.float32))
    np.testing.assert_array_equal(faces, f)
    assert read_collection(paths[:1])[0].shape == (1, 42, 3)


def test_collection_of_mixed_topology(tmp_path):
    v, f = sphere(1)
    others = {
        "turned": (v, np.roll(f, 1, axis=1), r"face 0 is .*, want .* as in .*0\.ply"),
        "fewer": (v, f[:-1], "79 faces, want 80"),
        "larger": (*grid(), r"72 vertices, want 42 as in .*0\.ply"),
    }
    for k in range(2):
        write_mesh(tmp_path / f"{k}.ply", Mesh(v + k, f))
    for name, (v2, f2, fault) in others.items():
        write_mesh(tmp_path / f"{name}.ply", Mesh(v2, f2))
        paths = [tmp_path / p for p in ("0.ply", "1.ply", f"{name}.ply", "absent.ply")]
        with pytest.raises(MeshError, match=rf"{name}\.ply: {fault}"):
            read_collection(paths)


def test_bad_collections(tmp_path):
    with pytest.raises(MeshError, match="paths is empty"):
        read_collection([])
    with pytest.raises(MeshError, match="paths must be a sequence of files"):
        read_collection("a.ply")
    v, f = sphere(0)
    write_mesh(tmp_path / "huge.ply", Mesh(v * 1e300, f))
    with pytest.raises(MeshError, match=r"huge\.ply: mesh 0: vertex 0 is not a finite float32"):
        read_collection([tmp_path / "huge.ply"])


def test_collections_far_from_zero(tmp_path):
    """float32 would cut their digits off: an origin is given, or they are refused."""
    v, f = sphere(0)
    place = (691234.123, 5334567.891, 512.345)
    path = tmp_path / "map.ply"
    write_mesh(path, Mesh(0.013 * v + place, f))
    with pytest.raises(MeshError, match=r"map\.ply: mesh 0 is 0\.02\d* large and up to 5334568"):
        read_collection([path])
    vertices, _ = read_collection([path], origin=place)
    np.testing.assert_allclose(vertices[0], 0.013 * v, atol=2e-9)
