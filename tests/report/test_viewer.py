"""What the window shows, and the window itself on a virtual screen."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import trimesh

from polygraph.cli import main
from polygraph.mesh import Mesh, MeshError, write_mesh
from polygraph.mesh.cloud import import_open3d, poisson_disk, read_cloud
from polygraph.report.render import ERROR_COLORS, error_colormap, error_colors
from polygraph.report.viewer import Frame, Item, color_items, knn_edges, lay_out, load_items


def has_open3d():
    try:
        import_open3d()
    except ImportError:
        return False
    return True


needs_open3d = pytest.mark.skipif(
    not has_open3d(), reason="needs open3d and its system libraries (extra [open3d])"
)


def sphere(subdivisions=2, scale=1.0):
    made = trimesh.creation.icosphere(subdivisions=subdivisions)
    return Mesh(scale * np.asarray(made.vertices), np.asarray(made.faces, dtype=np.int64))


def write_xyz(path, points):
    np.savetxt(path, points, fmt="%.17g")
    return path


def write_pcd(path, points):
    head = "VERSION 0.7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\n"
    head += f"WIDTH {len(points)}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {len(points)}\n"
    body = "\n".join(" ".join(map(repr, row)) for row in np.float32(points).tolist())
    path.write_text(f"{head}DATA ascii\n{body}\n")
    return path


def write_ply_cloud(path, points):
    head = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(points)}\n"
    head += "property float x\nproperty float y\nproperty float z\nend_header\n"
    path.write_bytes(head.encode() + np.float32(points).tobytes())
    return path


WRITERS = {".xyz": write_xyz, ".pcd": write_pcd, ".ply": write_ply_cloud}
POINTS = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32).astype(np.float64)


@pytest.mark.parametrize("suffix", WRITERS)
def test_clouds_are_read(tmp_path, suffix):
    path = WRITERS[suffix](tmp_path / f"cloud{suffix}", POINTS)
    np.testing.assert_allclose(read_cloud(path), POINTS, rtol=1e-7)
    (item,) = load_items([path], knn=3)
    (frame,) = item.frames
    assert frame.faces is None
    assert len(frame.edges) >= 60 * 3 / 2


def test_bad_clouds(tmp_path):
    with pytest.raises(MeshError, match=r"none\.xyz: no such file"):
        read_cloud(tmp_path / "none.xyz")
    with pytest.raises(MeshError, match=r"want one of \.pcd, \.ply, \.xyz"):
        read_cloud(tmp_path / "a.las")
    for suffix in WRITERS:
        (tmp_path / f"bad{suffix}").write_bytes(b"\0\1nonsense")
        with pytest.raises(MeshError, match=rf"bad\{suffix}: "):
            read_cloud(tmp_path / f"bad{suffix}")
    spoiled = POINTS.copy()
    spoiled[7, 1] = np.nan
    with pytest.raises(MeshError, match="1 of 60 points are not finite, first point 7"):
        read_cloud(write_ply_cloud(tmp_path / "nan.ply", spoiled))


def test_ply_files_with_and_without_faces(tmp_path):
    write_mesh(tmp_path / "mesh.ply", sphere())
    path = write_ply_cloud(tmp_path / "cloud.ply", POINTS)
    mesh, cloud = load_items([tmp_path / "mesh.ply", path])
    assert mesh.frames[0].faces is not None
    assert cloud.frames[0].faces is None
    data = path.read_bytes()
    path.write_bytes(data.replace(b"end_header", b"comment element face 5\nend_header"))
    assert load_items([path])[0].frames[0].faces is None
    path.write_bytes(data.replace(b"end_header", b"element tristrips 1\nend_header"))
    with pytest.raises(MeshError, match="triangle strips are not supported"):
        load_items([path])


@needs_open3d
def test_poisson_disks_keep_their_distance():
    mesh = sphere(3)
    points = poisson_disk(mesh, 300, seed=1)
    assert points.shape == (300, 3)
    assert np.abs(np.linalg.norm(points, axis=1) - 1).max() < 0.02
    gaps = np.linalg.norm(points[:, None] - points[None], axis=2) + 9 * np.eye(300)
    # 300 discs of this radius would cover the sphere by half; random points come far closer.
    assert gaps.min() > 0.5 * np.sqrt(4 / 300)
    np.testing.assert_array_equal(points, poisson_disk(mesh, 300, seed=1))
    assert not np.array_equal(points, poisson_disk(mesh, 300, seed=2))


def test_bad_samplings():
    with pytest.raises(ValueError, match="count must be positive, got 0"):
        poisson_disk(sphere(), 0)
    flat = Mesh(np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]]), np.array([[0, 1, 2]]))
    with pytest.raises(MeshError, match="the mesh has no area"):
        poisson_disk(flat, 10)


def block(monkeypatch, error):
    """Let ``import open3d`` raise an error."""
    monkeypatch.delitem(sys.modules, "open3d", raising=False)

    class Finder:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name == "open3d":
                raise error

    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            ModuleNotFoundError("No module named 'open3d'", name="open3d"),
            r"need open3d: pip install 'polygraph-nn\[open3d\]'",
        ),
        (
            ImportError("libusb-1.0.so.0: cannot open shared object file: No such file"),
            r"the system lacks libusb-1\.0\.so\.0: apt-get install libusb-1\.0-0",
        ),
        (
            OSError("libGL.so.1: cannot open shared object file: No such file"),
            r"the system lacks libGL\.so\.1: apt-get install libgl1 ",
        ),
        (ImportError("libnew.so.7: cannot open shared object file"), r"lacks libnew\.so\.7"),
        (ImportError("wrong ELF class"), "open3d is installed but does not load: wrong ELF"),
    ],
)
def test_what_is_missing_is_named(monkeypatch, tmp_path, capsys, error, message):
    block(monkeypatch, error)
    with pytest.raises(ImportError, match=message):
        import_open3d()
    write_mesh(tmp_path / "a.ply", sphere())
    assert main(["view", str(tmp_path / "a.ply")]) == 1
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "open3d" in line


def test_folders_are_played_in_natural_order(tmp_path):
    for number in (10, 9, 1):
        write_mesh(tmp_path / f"f{number}.ply", sphere(scale=number))
    write_mesh(tmp_path / "f2.obj", sphere(scale=2))
    (tmp_path / "notes.txt").write_text("no mesh")
    (item,) = load_items([tmp_path])
    sizes = [np.abs(frame.points).max().round(6) for frame in item.frames]
    assert sizes == [1, 2, 9, 10]
    (tmp_path / "empty").mkdir()
    with pytest.raises(MeshError, match="empty: no meshes or clouds here"):
        load_items([tmp_path / "empty"])
    with pytest.raises(MeshError, match=r"gone\.ply: no such file"):
        load_items([tmp_path / "gone.ply"])
    with pytest.raises(ValueError, match="knn and sample must be 0 or more, got -1 and 0"):
        load_items([tmp_path], knn=-1)


def test_the_graph_has_each_edge_once():
    edges = knn_edges(POINTS, 4)
    distance = np.linalg.norm(POINTS[:, None] - POINTS[None], axis=2) + 99 * np.eye(60)
    wanted = {tuple(sorted((i, j))) for i in range(60) for j in distance[i].argsort()[:4].tolist()}
    assert {tuple(edge) for edge in edges.tolist()} == wanted
    assert len(edges) == len(wanted)


def test_meshes_are_coloured_by_their_distance():
    one, two = sphere(), sphere(scale=1.02)
    item = Item("b", [Frame(two.vertices, two.faces), Frame(one.vertices, one.faces)])
    reference = Item("a", [Frame(one.vertices, one.faces)])
    (painted,), top = color_items([item], reference)
    assert top == pytest.approx(20)
    np.testing.assert_allclose(painted.frames[0].errors, 20)
    np.testing.assert_allclose(painted.frames[0].colors, error_colors(np.full(162, 20.0), 20))
    np.testing.assert_array_equal(painted.frames[1].errors, 0)
    assert color_items([item], reference, to_mm=1.0, vmax=3.0)[1] == 3.0
    with pytest.raises(ValueError, match="1 frame or the 1 of a, got 2"):
        color_items([reference], item)
    with pytest.raises(MeshError, match="errors are of meshes"):
        color_items([Item("c", [Frame(POINTS, None)])], reference)
    other = sphere(1)
    with pytest.raises(MeshError, match="b: 162 vertices, want 42"):
        color_items([item], Item("o", [Frame(other.vertices, other.faces)]))


def test_colours_are_those_of_the_pictures():
    values = np.linspace(0, 12, 200)
    np.testing.assert_allclose(
        error_colors(values, 10), error_colormap()(np.clip(values / 10, 0, 1))[:, :3], atol=0.02
    )
    np.testing.assert_array_equal(error_colors(np.array([np.inf, np.nan]), 1), 0)
    light = [sum(int(c[i : i + 2], 16) for i in (1, 3, 5)) for c in ERROR_COLORS]
    assert light == sorted(light, reverse=True)


def test_items_stand_side_by_side():
    a, b = sphere(), sphere(scale=2)
    items = lay_out([Item(n, [Frame(m.vertices, m.faces)]) for n, m in (("a", a), ("b", b))])
    spans = [(f.points[:, 0].min(), f.points[:, 0].max()) for f in (i.frames[0] for i in items)]
    assert spans[0][0] == 0
    assert spans[0][1] < spans[1][0] < spans[0][1] + 1
    single = lay_out([Item("p", [Frame(np.zeros((1, 3)), None)])])
    assert np.isfinite(single[0].frames[0].points).all()


def pixels(path):
    from PIL import Image

    return np.asarray(Image.open(path).convert("RGB")).astype(int)


SCRIPT = """
import sys
from polygraph.report.viewer import Window, lay_out, load_items
window = Window(lay_out(load_items([sys.argv[1]])), size=(320, 240))
first = window.screenshot(sys.argv[2] + "/0.png")
window.step(1)
window.screenshot(sys.argv[2] + "/1.png")
window.step(1)
window.screenshot(sys.argv[2] + "/2.png")
assert (window.number, window.length, window.playing) == (0, 2, False)
window.toggle(); window.advance()
assert (window.number, window.playing) == (1, True)
window.toggle_graph(); window.home()
window.close()
"""


def on_a_screen(words):
    """Run a Python command on a virtual screen."""
    if shutil.which("xvfb-run") is None:
        pytest.skip("needs a virtual screen (apt-get install xvfb)")
    screen = ["xvfb-run", "-a", "-s", "-screen 0 800x600x24"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [*screen, sys.executable, *map(str, words)],
        env=env, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@needs_open3d
def test_the_window_on_a_virtual_screen(tmp_path):
    folder = tmp_path / "sequence"
    folder.mkdir()
    write_mesh(folder / "0.ply", sphere())
    write_mesh(folder / "1.ply", Mesh(sphere().vertices * [1, 0.4, 1], sphere().faces))
    on_a_screen(["-c", SCRIPT, folder, tmp_path])
    first, second, third = (pixels(tmp_path / f"{n}.png") for n in range(3))
    assert first.shape == (240, 320, 3)
    drawn = [(np.abs(image - image[0, 0]).sum(2) > 60).mean() for image in (first, second)]
    assert 0.05 < drawn[1] < drawn[0] < 0.9
    np.testing.assert_array_equal(first, third)


@needs_open3d
def test_the_command_on_a_virtual_screen(tmp_path):
    write_mesh(tmp_path / "a.ply", sphere())
    write_mesh(tmp_path / "b.ply", sphere(scale=1.05))
    words = ["-m", "polygraph", "view", tmp_path / "b.ply", "--reference", tmp_path / "a.ply"]
    said = on_a_screen([*words, "--vmax", 50, "--screenshot", tmp_path / "e.png"])
    assert "vertex error from 0 to 50.00 mm" in said
    image = pixels(tmp_path / "e.png")
    violet = (image[..., 2] > image[..., 1] + 15) & (image[..., 0] > image[..., 1] + 10)
    assert violet.mean() > 0.05  # the last colour of the scale
    words = ["-m", "polygraph", "view", tmp_path / "a.ply", "--sample", 400, "--knn", 5]
    on_a_screen([*words, "--screenshot", tmp_path / "k.png"])
    image = pixels(tmp_path / "k.png")
    blue = image[..., 2] > image[..., 0] + 60
    grey = (np.ptp(image, axis=2) < 45) & (image.mean(2) < 215)
    assert blue.mean() > 0.002  # points
    assert grey.mean() > 0.005  # lines


@needs_open3d
def test_no_screen(tmp_path):
    write_mesh(tmp_path / "a.ply", sphere())
    env = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY")}
    env |= {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "polygraph", "view", str(tmp_path / "a.ply")],
        env=env, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 1
    assert "there is no screen (DISPLAY); --screenshot" in done.stderr
