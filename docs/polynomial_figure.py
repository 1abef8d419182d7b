"""Draws polynomial_forms.svg and polynomial_templates.png.

The first is how a tensor becomes factors, and the recursion of each form; the second is the last
picture of the tutorial on polynomials, which trains the network that it shows.
"""

from __future__ import annotations

import runpy
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Rectangle

INK, MAP, SKIP, CUBE = "#333333", "#c6dbef", "#d6551f", "#e7d8f0"


def open_axes(axes: Axes, title: str, width: float, height: float) -> None:
    """An empty drawing of that size."""
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.set_title(title, fontsize=9.5, loc="left", color=INK)


def arrow(axes: Axes, *places: tuple[float, float], color: str = INK) -> None:
    """A line through places, with a head at the last."""
    for start, end in pairwise(places[:-1]):
        axes.plot(*zip(start, end, strict=True), color=color, linewidth=1.1, zorder=1)
    style = {"arrowstyle": "-|>", "mutation_scale": 8, "shrinkA": 0, "shrinkB": 0}
    axes.add_patch(FancyArrowPatch(*places[-2:], color=color, linewidth=1.1, zorder=1, **style))


def matrix(axes: Axes, x: float, y: float, name: str, color: str = MAP) -> None:
    """A linear map, its middle at a place."""
    box = FancyBboxPatch((x - 0.42, y - 0.27), 0.84, 0.54, boxstyle="round,pad=0.03")
    box.set(facecolor=color, edgecolor=INK, linewidth=0.8, zorder=2)
    axes.add_patch(box)
    axes.text(x, y, name, ha="center", va="center", fontsize=9, zorder=3)


def junction(axes: Axes, x: float, y: float, sign: str) -> None:
    """A sum or a product of what arrives."""
    axes.add_patch(Circle((x, y), 0.21, facecolor="white", edgecolor=INK, linewidth=0.9, zorder=2))
    axes.text(x, y + 0.015, sign, ha="center", va="center", fontsize=10, zorder=3)


def draw_factors(axes: Axes) -> None:
    """The tensor of degree 2 of one output, and the CP decomposition of it."""
    open_axes(axes, "One tensor, few factors: CP decomposition", 8.4, 3.3)
    for shift in (0.42, 0.21, 0.0):
        place = (0.35 + shift, 1.25 - shift)
        axes.add_patch(Rectangle(place, 1.3, 1.3, facecolor=CUBE, edgecolor=INK, linewidth=0.8))
    axes.text(1.0, 1.92, r"$W^{[2]}$", ha="center", va="center", fontsize=11)
    axes.text(0.24, 1.9, "d", fontsize=8, ha="right")
    axes.text(1.0, 2.85, "d", fontsize=8, ha="center")
    axes.text(2.2, 0.98, "o", fontsize=8)
    axes.text(2.5, 1.95, "=", fontsize=13, ha="center")
    for term, x in enumerate((3.0, 5.0)):
        column = Rectangle((x, 1.25), 0.17, 1.3, facecolor=MAP, edgecolor=INK, linewidth=0.8)
        row = Rectangle((x + 0.27, 1.25), 1.15, 0.17, facecolor=MAP, edgecolor=INK, linewidth=0.8)
        slope = Rectangle((x + 0.24, 1.12), 0.55, 0.15, angle=-45, facecolor=SKIP, alpha=0.55)
        slope.set(edgecolor=INK, linewidth=0.8)
        for part in (column, row, slope):
            axes.add_patch(part)
        number = term + 1
        axes.text(x + 0.32, 2.4, f"$u_{{2,{number}}}$", fontsize=8.5)
        axes.text(x + 0.85, 1.72, f"$u_{{1,{number}}}$", fontsize=8.5)
        axes.text(x + 0.72, 0.6, f"$c_{number}$", fontsize=8.5)
    axes.text(4.72, 1.95, "+", fontsize=12, ha="center")
    axes.text(6.62, 1.95, "+ … ,  k terms", fontsize=9)
    told = r"$W^{[2]} z z \,=\, \sum_j c_j\,(u_{2,j}\!\cdot z)(u_{1,j}\!\cdot z) \,=\, "
    axes.text(0.3, 3.2, told + r"C\,(U_2 z * U_1 z)$", fontsize=9.5)


def chain(axes: Axes, first: str, nested: str | None, second: str, skip: str | None) -> None:
    """A recursion of order 3: maps of z from above, the sum so far from the left.

    Args:
        axes: where.
        first: the name of the maps of z.
        nested: of the map of what was computed before; None: the identity.
        second: what is added after a product: "before" or "fresh" (the map of z).
        skip: a map on the way past a product; None: none.
    """
    top, line = 0.35, 2.2
    axes.text(0.2, top + 0.08, "z", fontsize=11, style="italic")
    axes.plot([0.55, 7.25], [top, top], color=INK, linewidth=1.1, zorder=1)
    arrow(axes, (0.9, top), (0.9, line - 0.28))
    if nested is None:  # with nested maps, x₁ is z itself
        matrix(axes, 0.9, 1.15, f"${first}_1$")
    axes.text(0.9, line, "$x_1$", ha="center", va="center", fontsize=10)
    for n, left in ((2, 1.15), (3, 4.6)):
        product, total = left + 1.75, left + 2.5
        arrow(axes, (left, line), (product - 0.22, line))
        if nested is not None:
            matrix(axes, left + 0.8, line, f"${nested}_{n}$")
        junction(axes, product, line, "∗")
        arrow(axes, (product, top), (product, line - 0.22))
        matrix(axes, product, 1.15, f"${first}_{n}$")
        arrow(axes, (product + 0.21, line), (total - 0.22, line))
        junction(axes, total, line, "+")
        if second == "before":
            low = line + 0.75
            arrow(axes, (left + 0.12, line), (left + 0.12, low), (total, low), (total, line + 0.22),
                  color=SKIP)  # fmt: skip
            if skip is not None:
                matrix(axes, left + 0.95, low, f"${skip}_{n}$", "#f7d9cb")
        if second == "fresh" or skip is not None:
            arrow(axes, (product, 1.66), (total, 1.66), (total, line - 0.22))
        arrow(axes, (total + 0.21, line), (total + 0.46, line))
        axes.text(total + 0.63, line, f"$x_{n}$", ha="center", va="center", fontsize=10)


def draw_product(axes: Axes) -> None:
    """Blocks in succession."""
    open_axes(axes, "ProdPoly: polynomials of polynomials", 8.4, 3.3)
    axes.text(0.2, 1.28, "z", fontsize=11, style="italic")
    left = 0.5
    for n, order in enumerate((2, 2, 3)):
        arrow(axes, (left, 1.2), (left + 0.5, 1.2))
        box = FancyBboxPatch((left + 0.5, 0.75), 1.35, 0.9, boxstyle="round,pad=0.03")
        box.set(facecolor=CUBE, edgecolor=INK, linewidth=0.9)
        axes.add_patch(box)
        axes.text(left + 1.17, 1.06, f"block {n + 1}", ha="center", fontsize=8.5)
        axes.text(left + 1.17, 1.46, f"order {order}", ha="center", fontsize=8.5)
        left += 1.9
    arrow(axes, (left, 1.2), (left + 0.5, 1.2))
    axes.text(left + 0.6, 1.28, "f(z)", fontsize=10, style="italic")
    degrees = ((1.67, "2"), (3.57, "2 · 2 = 4"), (5.47, "2 · 2 · 3 = 12"))
    for x, text in degrees:
        axes.text(x, 2.1, text, ha="center", fontsize=9, color=SKIP)
    axes.text(0.2, 2.7, "degree in z: a product of orders, for a sum of their costs", fontsize=9)


def draw_templates() -> None:
    """Templates of digits by degree, by the tutorial's own code."""
    here = Path(__file__).parent
    runpy.run_path(str(here.parent / "examples" / "4_polynomials.py"))
    plt.gcf().savefig(here / "polynomial_templates.png", dpi=80, metadata={"Software": None})


def draw_forms() -> None:
    """All forms on one sheet."""
    mpl.rcParams["svg.hashsalt"] = "polynomial"
    figure, places = plt.subplots(3, 2, figsize=(10.4, 6.9), layout="constrained")
    draw_factors(places[0, 0])
    forms = (
        (places[0, 1], "CCP: all factors shared by all degrees", ("U", None, "before", None)),
        (places[1, 0], "NCP (a layer): factors of factors", ("A", "S", "fresh", None)),
        (places[1, 1], "NCPSkip: and a way past the product", ("A", "S", "before", "V")),
    )
    for axes, title, form in forms:
        open_axes(axes, title, 8.4, 3.3)
        chain(axes, *form)
    draw_product(places[2, 0])
    open_axes(places[2, 1], "How to read them", 8.4, 3.3)
    matrix(places[2, 1], 0.8, 0.6, "$A_n$")
    junction(places[2, 1], 0.8, 1.5, "∗")
    arrow(places[2, 1], (0.4, 2.4), (1.2, 2.4), color=SKIP)
    notes = (
        "a linear map: fully connected, convolution, spiral, EdgeConv, ECC",
        "product entry by entry: raises the degree by that of its other side",
        "a way past the product: lower degrees stay in the sum",
    )
    for y, text in zip((0.68, 1.58, 2.48), notes, strict=True):
        places[2, 1].text(1.6, y, text, fontsize=9)
    target = Path(__file__).with_name("polynomial_forms.svg")
    figure.savefig(target, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    mpl.use("Agg")
    draw_forms()
    draw_templates()
