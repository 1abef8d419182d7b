"""Draws knn.svg: scores as lower bounds of distances, and the pairs that each way looks at."""

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

INK, KEPT, DROPPED, BAND = "#333333", "#1f77b4", "#999999", "#c6dbef"


def draw_bounds(axes: Axes) -> None:
    """One row per point: its score, its distance, and how far above the score that can lie."""
    scores = [0.9, 1.5, 2.1, 2.8, 3.55, 4.6, 5.6]
    offsets = [0.35, 0.2, 0.45, 0.25, 0.5, 0.3, 0.4]
    bound, limit = 2.1, 3.2
    for row, (score, offset) in enumerate(zip(scores, offsets, strict=True)):
        color = KEPT if score <= limit else DROPPED
        axes.barh(row, 0.7, left=score, height=0.34, color=BAND if score <= limit else "#eeeeee")
        axes.plot([score, score], [row - 0.24, row + 0.24], color=color, linewidth=2.5)
        axes.plot(score + offset, row, "o", color=color, markersize=5)
    axes.axvline(bound, color=INK, linestyle=":", linewidth=1)
    axes.axvline(limit, color=INK, linewidth=1.2)
    axes.text(bound - 0.08, 5.3, "t: k = 3 scores\nare ≤ t", ha="right", fontsize=8)
    axes.text(
        limit + 0.08, 0.1, "D: no neighbor is further;\nscore > D: not in the answer", fontsize=8
    )
    axes.text(4.75, 1.9, "bar: score\ndot: distance d\nband: where d can be", fontsize=8, color=INK)
    axes.set_ylim(6.6, -0.6)
    axes.set_xlim(0.6, 6.6)
    axes.set_title("Scores are lower bounds", fontsize=10)
    axes.set_xlabel("squared distance", fontsize=8)
    axes.set_yticks([])
    axes.set_ylabel("points of one query", fontsize=8)
    axes.tick_params(labelsize=7)


def draw_square(axes: Axes, title: str) -> None:
    """An empty square of pairs."""
    axes.add_patch(Rectangle((0, 0), 8, 8, fill=False, color=INK, linewidth=1))
    axes.set_xlim(-0.3, 8.3)
    axes.set_ylim(8.3, -0.3)
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.set_title(title, fontsize=9)


def draw_pairs(rows: list[Axes]) -> None:
    """Queries down, points across: what is computed is blue."""
    draw_square(rows[0], "brute: rows of scores")
    for row in range(8):
        rows[0].add_patch(Rectangle((0, row + 0.1), 8, 0.8, color=KEPT, alpha=0.6))
    draw_square(rows[1], "square: one triangle,\ntiles are mirrored")
    for row in range(8):
        for column in range(8):
            alpha = 0.6 if column >= row else 0.12
            place = (column + 0.08, row + 0.08)
            rows[1].add_patch(Rectangle(place, 0.84, 0.84, color=KEPT, alpha=alpha))
    draw_square(rows[2], "tournament: rounds of\npairs of blocks")
    rounds = mpl.colormaps["viridis"]
    for a in range(4):
        rows[2].add_patch(Rectangle((2 * a + 0.1, 2 * a + 0.1), 1.8, 1.8, color=DROPPED, alpha=0.6))
        rows[2].text(2 * a + 1, 2 * a + 1, "own", ha="center", va="center", fontsize=7)
        for b in range(a + 1, 4):
            turn = (a + b) % 3 if b < 3 else 2 * a % 3
            place = (2 * b + 0.1, 2 * a + 0.1)
            color = rounds(0.25 + 0.3 * turn)
            rows[2].add_patch(Rectangle(place, 1.8, 1.8, color=color, alpha=0.8))
            rows[2].text(
                2 * b + 1, 2 * a + 1, f"round {turn}", ha="center", va="center", fontsize=6
            )
    draw_square(rows[3], "tree: leaves that\na bound reaches")
    leaves = [(0, 2.5, 3, 2.5), (3, 0, 2.6, 3.8), (3, 3.8, 2.6, 4.2)]  # reached
    others = [(0, 0, 3, 2.5), (0, 5, 3, 3), (5.6, 0, 2.4, 4.4), (5.6, 4.4, 2.4, 3.6)]
    for column, row, width, height in leaves + others:
        color = KEPT if (column, row, width, height) in leaves else "#dddddd"
        box = Rectangle((column, row), width, height, facecolor=color, edgecolor=INK, alpha=0.5)
        rows[3].add_patch(box)
    rows[3].add_patch(plt.Circle((3.6, 3.7), 1.1, fill=False, color="#d62728", linewidth=1.5))
    rows[3].plot(3.6, 3.7, "o", color="#d62728", markersize=4)


def main() -> None:
    """Draw the picture beside this file."""
    mpl.rcParams["svg.hashsalt"] = "knn"
    figure = plt.figure(figsize=(10, 4.6), layout="constrained")
    grid = figure.add_gridspec(2, 4)
    draw_bounds(figure.add_subplot(grid[:, :2]))
    draw_pairs([figure.add_subplot(grid[i // 2, 2 + i % 2]) for i in range(4)])
    target = Path(__file__).with_suffix("").with_name("knn.svg")
    figure.savefig(target, metadata={"Date": None})


if __name__ == "__main__":
    main()
