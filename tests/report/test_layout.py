"""Pictures: nothing is cut off, no text lies on another, legends lie beside the data."""

import itertools

import numpy as np
import pytest
import trimesh
from support.grids import write_grid

plt = pytest.importorskip("matplotlib.pyplot")

from polygraph.report import charts, figures, order_figure  # noqa: E402
from polygraph.report.figures import Panel  # noqa: E402
from polygraph.report.grid_rows import make_views, read_rows  # noqa: E402

NAMES = ("first-order-spiralnet++", "full-2-instance-noact", "skip-3-code", "pca", "x" * 40)


@pytest.fixture
def kept(monkeypatch):
    """Figures are not closed after they were written: they come here."""
    figures_ = []
    monkeypatch.setattr(plt, "close", figures_.append)
    yield figures_
    monkeypatch.undo()
    for figure in figures_:
        plt.close(figure)


def ticks_out_of_sight(axes):
    """Tick labels that matplotlib holds but does not draw."""
    box = axes.get_window_extent()
    off = set()
    for labels, low, high, along in (
        (axes.get_xticklabels(which="both"), box.x0, box.x1, 0),
        (axes.get_yticklabels(which="both"), box.y0, box.y1, 1),
    ):
        for label in labels:
            middle = label.get_window_extent().get_points().mean(axis=0)[along]
            if not axes.axison or not low - 1 <= middle <= high + 1:
                off.add(label)
    return off


def boxes(figure):
    """(text, its box in pixels) of every text that is seen."""
    hidden = set().union(*map(ticks_out_of_sight, figure.axes))
    texts = [t for t in figure.findobj(plt.Text) if t.get_visible() and t.get_text().strip()]
    return [(t.get_text(), t.get_window_extent()) for t in texts if t not in hidden]


def check(path, figure):
    """White all around; texts apart; legends above the axes."""
    picture = plt.imread(path)[..., :3]
    for border in (picture[0], picture[-1], picture[:, 0], picture[:, -1]):
        assert (border > 0.99).all()
    figure.canvas.draw()
    shown = [(text, box) for text, box in boxes(figure) if box.width > 0]
    for (one, a), (two, b) in itertools.combinations(shown, 2):
        across = min(a.x1, b.x1) - max(a.x0, b.x0)
        down = min(a.y1, b.y1) - max(a.y0, b.y0)
        assert min(across, down) < 1.5, f"{one!r} lies on {two!r}"
    for axes in figure.axes:
        legend = axes.get_legend()
        if legend is not None:
            assert legend.get_window_extent().y0 >= axes.get_window_extent().y1 - 1


def test_charts(tmp_path, kept):
    write_grid(tmp_path / "grid")
    for view in make_views(read_rows(tmp_path / "grid")):
        path = charts.chart(view, tmp_path / f"{view.latent}.png")
        check(path, kept[-1])
        shown = [label.get_text() for label in kept[-1].axes[0].get_yticklabels()]
        assert shown == [model.name for model in view.models]


@pytest.mark.parametrize("count", [1, 2, 5, 12])
def test_curves(tmp_path, kept, count):
    steps = np.arange(1, 60)
    names = [f"{NAMES[n % 4]}-{n}" for n in range(count)]
    curves = {name: (steps, 50.0 / steps + n) for n, name in enumerate(names)}
    path = figures.curve_figure(
        tmp_path / "c.png", curves, ylabel="validation error in mm", title="A title",
        lines={"pca": 9.0},
    )  # fmt: skip
    check(path, kept[-1])


@pytest.mark.parametrize(
    ("shape", "columns"),
    [((1, 1, 1), 1), ((3, 1, 1), 1), ((3, 1, 1), 5), ((1, 1, 4), 5)],
    ids=["even", "wide", "wide-5", "tall-5"],
)
def test_heat_maps(tmp_path, kept, shape, columns):
    sphere = trimesh.creation.icosphere(subdivisions=1)
    vertices = np.asarray(sphere.vertices) * shape
    rng = np.random.default_rng(0)
    panels = [
        Panel(NAMES[n], vertices * (1 + 0.1 * n), 50 * rng.random(len(vertices)))
        for n in range(columns)
    ]
    view = figures.panels_view(vertices, panels)
    rows = [(f"test mesh of\n{name} error", vertices, panels) for name in ("median", "largest")]
    title = "Mean error in mm: first-order 20.0, pca 12.0"
    faces = np.asarray(sphere.faces)
    path = figures.heatmap_figure(tmp_path / "h.png", rows, faces, [view] * 2, title=title)
    check(path, kept[-1])


def test_latent_walks(tmp_path, kept):
    sphere = trimesh.creation.icosphere(subdivisions=1)
    meshes = np.stack([np.asarray(sphere.vertices) * [3, 1, 1]] * 11)
    labels = [f"{n - 5:+.2f} σ" for n in range(11)]
    rows = [("axis-0", labels, meshes), ("vertices", labels, meshes)]
    path = figures.mesh_rows_figure(tmp_path / "m.png", rows, np.asarray(sphere.faces))
    check(path, kept[-1])


def test_errors_by_order(tmp_path, kept):
    write_grid(tmp_path / "grid", latents=(8,), odd=False)
    (path,) = order_figure.write_order_figures(tmp_path / "grid", tmp_path)
    check(path, kept[-1])


def test_panels_have_room():
    """What models made is in the picture, unless it flew off."""
    vertices = np.asarray(trimesh.creation.icosphere(subdivisions=1).vertices)

    def width(made):
        return figures.panels_view(vertices, [Panel("", made, np.zeros(len(made)))]).half_width

    alone = width(vertices)
    assert width(vertices * 1.2) > 1.1 * alone
    assert width(vertices * 1e9) < 2.1 * alone
    assert width(np.full_like(vertices, np.nan)) == alone
