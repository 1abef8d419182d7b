"""The renderer paints what it should where it should; figures are written."""

import numpy as np
import pytest
import trimesh

plt = pytest.importorskip("matplotlib.pyplot")

from polygraph.report.figures import Panel, curve_figure, heatmap_figure  # noqa: E402
from polygraph.report.render import View, draw_mesh, make_view  # noqa: E402
from polygraph.report.table import cell, markdown_table, text_table  # noqa: E402

FRONT = View(np.eye(3), np.zeros(3), 1.5, 1.5)


def paint(vertices, faces, view=FRONT, **options):
    """The picture as float [100, 100, 3]; row 0 is the top."""
    figure = plt.figure(figsize=(1, 1), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    draw_mesh(axes, vertices, faces, view, **options)
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3] / 255
    plt.close(figure)
    return pixels


def sphere(radius=1.0):
    mesh = trimesh.creation.icosphere(subdivisions=2, radius=radius)
    return np.asarray(mesh.vertices), np.asarray(mesh.faces)


def test_a_sphere_is_a_disc_of_the_right_size():
    painted = (paint(*sphere()) < 0.99).any(axis=-1)
    area = painted.mean() * 9  # the picture is 3 units wide
    assert area == pytest.approx(np.pi, rel=0.05)  # polygonal outline, antialiased border
    assert painted[50, 50]
    assert not painted[5, 5]


def test_faces_that_point_inwards_are_painted_the_same():
    vertices, faces = sphere()
    np.testing.assert_allclose(paint(vertices, faces), paint(vertices, faces[:, ::-1]), atol=0.02)


def test_the_nearer_sheet_hides_the_other():
    square = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], dtype=float)
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    both = np.concatenate([faces, faces + 4])
    values = np.repeat([0.0, 1.0], 4)
    for height in (1.0, -1.0):  # height of the red sheet
        vertices = np.concatenate([square, square + np.array([0, 0, height])])
        red, _, blue = paint(vertices, both, values=values, cmap="bwr_r")[50, 50]
        assert (blue > red) == (height > 0)  # bwr_r: 0 is red, 1 is blue


def test_values_run_through_the_colour_map_and_saturate():
    vertices, faces = sphere()
    values = np.where(vertices[:, 0] > 0, 5.0, 0.0)
    pixels = paint(vertices, faces, values=values, vmax=1.0, cmap="bwr")
    assert pixels[50, 70, 0] > pixels[50, 70, 2]
    assert pixels[50, 30, 2] > pixels[50, 30, 0]


def test_vertices_that_are_not_finite_do_not_break_the_picture():
    vertices, faces = sphere()
    vertices = vertices.copy()
    vertices[3] = np.nan
    values = np.ones(len(vertices))
    values[3] = np.inf
    painted = (paint(vertices, faces, values=values) < 0.99).any(axis=-1)
    assert 0.5 < painted.mean() * 9 < np.pi * 1.05


def test_view_puts_up_up_and_everything_inside():
    rng = np.random.default_rng(0)
    for axis, up in enumerate("xyz"):
        tall = rng.normal(size=(300, 3)) * 0.1
        tall[:, axis] = np.linspace(0, 3, 300)
        view = make_view(tall, up=up)
        np.testing.assert_allclose(view.rotation @ view.rotation.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(view.rotation) == pytest.approx(1.0)  # no mirror image
        seen = (tall - view.center) @ view.rotation.T
        assert seen[-1, 1] > seen[0, 1] + 2
        assert (np.abs(seen[:, 0]) <= view.half_width).all()
        assert (np.abs(seen[:, 1]) <= view.half_height).all()
        assert view.half_height < 2


def test_auto_up_stands_figures_up():
    rng = np.random.default_rng(0)
    standing = rng.normal(size=(300, 3)) * [0.2, 0.1, 1.0]
    view = make_view(standing)
    assert view.half_height > 2 * view.half_width


def test_figures_are_written(tmp_path):
    vertices, faces = sphere()
    view = make_view(vertices)
    panels = [Panel("one", vertices * 1.1, np.full(len(vertices), 100.0))]
    path = heatmap_figure(tmp_path / "new" / "h.png", [("input", vertices, panels)], faces, [view])
    image = plt.imread(path)
    assert image.shape[0] > 200
    assert image.std() > 0.05
    with pytest.raises(ValueError, match="at least one mesh"):
        heatmap_figure(tmp_path / "h.png", [], faces, [])
    curves = {"a": ([1, 2, 3], [3.0, float("nan"), 1.0]), "b": ([], [])}
    path = curve_figure(tmp_path / "c.png", curves, ylabel="mm", lines={"PCA": 2.0})
    assert plt.imread(path).std() > 0.02


def test_tables():
    rows = [{"model": "a", "x": 1.5, "n": 12345}, {"model": "long name", "x": None, "n": 1}]
    columns = {"model": "model", "x": "error", "n": "count"}
    assert text_table(rows, columns).splitlines() == [
        "model      error   count",
        "---------  -----  ------",
        "a           1.50  12,345",
        "long name      –       1",
    ]
    assert markdown_table(rows, columns).splitlines()[1:3] == [
        "| --- | ---: | ---: |",
        "| a | 1.50 | 12,345 |",
    ]
    assert cell(float("inf")) == "inf"
    assert cell(True) == "yes"
