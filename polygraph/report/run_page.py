"""A page about one run: numbers, bars and pictures in one HTML file, without a script."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from polygraph._files import write_atomic

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2430; max-width: 60rem;
       margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; }
td, th { padding: .2rem .8rem .2rem 0; text-align: right; border-bottom: 1px solid #e4e4e4; }
td:first-child, th:first-child { text-align: left; }
img { max-width: 100%; image-rendering: auto; border: 1px solid #e4e4e4; }
p { color: #55606e; }
"""


@dataclass(frozen=True)
class Picture:
    """A picture with its words.

    Attributes:
        title: heading.
        words: what it shows.
        png: the file's bytes.
    """

    title: str
    words: str
    png: bytes


@dataclass(frozen=True)
class RunPage:
    """What a page shows, in this order.

    Attributes:
        title: heading.
        words: what the run is.
        columns: of the table of numbers: of each its rows by name.
        bars: heading -> numbers, drawn as bars, each from 0.
        pictures: below.
    """

    title: str
    words: str
    columns: Mapping[str, Mapping[str, str]]
    bars: Mapping[str, Sequence[float]] = field(default_factory=dict)
    pictures: Sequence[Picture] = ()

    def write(self, path: str | Path) -> Path:
        """Write the page; its folder is made.

        Raises:
            OSError: the file cannot be written.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, self.html().encode())
        return path

    def html(self) -> str:
        """The whole document; all words are escaped."""
        names = list(dict.fromkeys(name for rows in self.columns.values() for name in rows))
        head = "".join(f"<th>{_text(column)}</th>" for column in ("", *self.columns))
        body = "".join(
            f"<tr><td>{_text(name)}</td>"
            + "".join(f"<td>{_text(rows.get(name, ''))}</td>" for rows in self.columns.values())
            + "</tr>"
            for name in names
        )
        parts = [
            f"<h1>{_text(self.title)}</h1><p>{_text(self.words)}</p>",
            f"<table><tr>{head}</tr>{body}</table>",
            *(f"<h2>{_text(name)}</h2>{_bars(values)}" for name, values in self.bars.items()),
            *(
                f"<h2>{_text(one.title)}</h2><p>{_text(one.words)}</p>"
                f'<img alt="{_text(one.title)}" '
                f'src="data:image/png;base64,{base64.b64encode(one.png).decode()}">'
                for one in self.pictures
            ),
        ]
        return (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            f"<title>{_text(self.title)}</title><style>{_STYLE}</style></head>"
            f"<body>{''.join(parts)}</body></html>\n"
        )


def _text(value: object) -> str:
    return html.escape(str(value))


def _bars(values: Sequence[float], height: int = 120, width: int = 22) -> str:
    """Bars of numbers that are 0 or more, with their numbers as titles."""
    most = max([*values, 1e-12])
    rects = "".join(
        f'<rect x="{n * width}" y="{height - height * value / most:.1f}" '
        f'width="{width - 4}" height="{height * value / most:.1f}" fill="#0072b2">'
        f"<title>{n}: {value:.3g}</title></rect>"
        for n, value in enumerate(values)
    )
    return (
        f'<svg width="{len(values) * width}" height="{height}" role="img">{rects}</svg>'
        f"<p>0 to {most:.3g}</p>"
    )
