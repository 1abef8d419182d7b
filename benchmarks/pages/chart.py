"""Dots on a logarithmic scale, as SVG: text, so that a change of a row is a readable change."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, LEFT, RIGHT, TOP, STEP, BOTTOM = 800, 290, 30, 52, 26, 32
RADIUS = 4.5
COLORS = ("#9aa5b1", "#c4420f")  # of the two kinds of dots
TICKS = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
Lines = Mapping[str, tuple[Sequence[float], Sequence[float]]]


def dots(title: str, kinds: tuple[str, str], lines: Lines) -> str:
    """A line of dots of two kinds under each name.

    Args:
        title: above the chart.
        kinds: what the two kinds are called.
        lines: values of the first and of the second kind under each name; all above 0.
    """
    values = [value for pair in lines.values() for kind in pair for value in kind]
    ticks = _ticks(min(values), max(values))
    height = TOP + STEP * len(lines) + BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'font-family="sans-serif" font-size="13" role="img" aria-label="{escape(title)}">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="12" y="22" font-size="15" font-weight="bold">{escape(title)}</text>',
        *_legend(kinds),
        *(_tick(tick, _place(tick, ticks), height) for tick in ticks),
    ]
    for place, (name, pair) in enumerate(lines.items()):
        parts += _line(name, pair, TOP + STEP * (place + 0.5), ticks)
    return "\n".join([*parts, "</svg>", ""])


def _ticks(low: float, high: float) -> list[float]:
    """The ticks around all values; 1, where both are equal, is one of them."""
    first = max(n for n, tick in enumerate(TICKS) if tick <= min(low, 1))
    last = min(n for n, tick in enumerate(TICKS) if tick >= max(high, 1))
    return list(TICKS[first : last + 1])


def _place(value: float, ticks: Sequence[float]) -> float:
    share = math.log(value / ticks[0]) / math.log(ticks[-1] / ticks[0])
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def _tick(value: float, x: float, height: int) -> str:
    color, bottom = ("#555555" if value == 1 else "#dddddd"), height - BOTTOM
    return (
        f'<path d="M{x:.1f} {TOP}V{bottom}" stroke="{color}"/>'
        f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{value:g}</text>'
    )


def _legend(kinds: tuple[str, str]) -> list[str]:
    parts, x = [], float(LEFT)
    for kind, color in zip(kinds, COLORS, strict=True):
        parts.append(f'<circle cx="{x:.1f}" cy="38" r="{RADIUS}" fill="{color}"/>')
        parts.append(f'<text x="{x + 10:.1f}" y="42.5">{escape(kind)}</text>')
        x += 7 * len(kind) + 40
    return parts


def _line(
    name: str, pair: tuple[Sequence[float], Sequence[float]], y: float, ticks: Sequence[float]
) -> list[str]:
    text = f'<text x="{LEFT - 14}" y="{y + 4.5:.1f}" text-anchor="end">{escape(name)}</text>'
    return [text] + [
        f'<circle cx="{_place(value, ticks):.1f}" cy="{y + lift:.1f}" r="{RADIUS}" '
        f'fill="{color}" fill-opacity="0.8"/>'
        for kind, color, lift in zip(pair, COLORS, (-5, 5), strict=True)
        for value in kind
    ]
