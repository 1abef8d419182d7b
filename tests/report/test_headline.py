"""What a report says in words, and which models its lines join: computed over all rows."""

import json

import pytest
from support.grids import MODELS, row, write_grid

from polygraph.report.grid_rows import make_views, read_rows
from polygraph.report.headline import headline, millimetres
from polygraph.report.order_figure import _by_order
from polygraph.report.order_lines import order_lines


def view(*rows):
    """One view of rows: (name, error in mm) of one seed each, of MODELS or like another of them."""
    made = []
    for name, error in rows:
        like = name if name in MODELS else name.removesuffix("-spiralnet++").removesuffix("-batch")
        one = row(like, split="a", latent=8, seed=0)
        one |= {"model": name, "mean_mm": error, "group_hash": name}
        made.append(one | ({"norm": "batch"} if name.endswith("-batch") else {}))
    return make_views(made)[0]


def said(*rows):
    return "".join(text for text, _ in headline(view(*rows)))


@pytest.mark.parametrize(
    ("rows", "end"),
    [
        (
            [("first-order", 22.0), ("full-2", 17.6), ("pca", 9.25)],
            "9.25 mm, by pca, against 17.60 of full-2, the best network and 22.00 of the "
            "first-order model.",
        ),
        (
            [("first-order", 22.0), ("full-2", 17.6), ("pca", 29.25)],
            "17.60 mm, by full-2, against 22.00 of the first-order model and 29.25 of PCA.",
        ),
        ([("mean-shape", 160.0), ("full-2", 170.0)], "160.0 mm, by mean-shape, against 170.0 of"
         " full-2, the best network."),
        ([("first-order", 22.0), ("full-2", None)], "22.00 mm, by first-order."),
        ([("first-order", 0.5)], "0.500 mm, by first-order."),
        ([("first-order", None)], "No model has a finite error over all of its seeds."),
    ],
    ids=["pca", "network", "mean-shape", "diverged", "alone", "none"],
)  # fmt: skip
def test_headline(rows, end):
    """The lowest error is that of all models, whatever their family."""
    text = said(*rows)
    assert text.endswith(end), text
    assert text.startswith(f"{len(rows)} model")


def test_the_lowest_of_every_view_is_named(tmp_path):
    """Also where seeds differ and runs diverged: the name in bold has the least mean."""
    for one in make_views(write_grid(tmp_path)):
        means = {m.name: m.spread("mean_mm").mean for m in one.models}
        best = min((m for m in means if means[m] is not None), key=lambda name: means[name])
        bold = [text for text, strong in headline(one) if strong]
        assert bold == [f"{millimetres(means[best])} mm", best]


def test_one_point_for_each_order():
    """First order with other spirals is no order 1 of these polynomials."""
    rows = [(name, 20.0) for name in MODELS] + [("first-order-spiralnet++", 21.0)]
    one = view(*rows, ("full-2-batch", 20.0))
    lines = order_lines(one.models)
    names = [[model.name for model in line.models] for line in lines]
    assert names == [
        ["first-order", "simple-2", "simple-3"],
        ["first-order", "full-2", "full-3", "full-4"],
        ["first-order", "full-2-batch"],
        ["first-order-noact", "full-2-noact", "full-3-noact"],
        ["first-order", "skip-2"],
    ]
    assert [line.norm for line in lines] == [None, None, "batch", None, None]
    for line in lines:
        orders = [model.rows[0]["order"] for model in line.models]
        assert orders == sorted(set(orders))
    assert [m.name for m in _by_order(one)] == names[1]


def test_the_page_gets_both(tmp_path):
    pytest.importorskip("matplotlib", reason="needs matplotlib (extra [report])")
    from polygraph.report.page import build_payload

    write_grid(tmp_path)
    content = json.loads(json.dumps(build_payload(tmp_path, budget=1e7)))
    for shown, one in zip(content["views"], make_views(read_rows(tmp_path)), strict=True):
        assert shown["headline"] == [list(piece) for piece in headline(one)]
        names = [[m.name for m in line.models] for line in order_lines(one.models)]
        assert [line["models"] for line in shown["order_lines"]] == names
