"""See a classifier of images as the affine map that it is at each picture: templates and biases."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from polygraph.cli.parser import Parser, UsageError, add_run, check_least

_EXPLAINED = """A network of piecewise affine layers gives each class the number <A, x> + b, with a
template A and a bias b that hold in the picture's whole region. Printed are both parts for the
likeliest classes, and the picture shows the templates: red where a brighter pixel speaks for the
class, blue where it speaks against it.

--page writes a page to look around in: the plane through three pictures, cut into the regions of
the network; where these are too many, as much of it around the first as has --regions of them.

examples:
  polygraph lens cat.png ship.png --run RUN --out lens.png
  polygraph lens cat.png ship.png dog.png --run RUN --page plane.html
"""


def run(arguments: Sequence[str]) -> int:
    """Do what the words after the command ask for; returns the exit status."""
    parser = Parser(
        prog="polygraph lens",
        description=__doc__,
        epilog=_EXPLAINED,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="pictures")
    add_run(parser)
    parser.add_argument("--out", default="lens.png", metavar="PNG", help="default: %(default)s")
    parser.add_argument(
        "--templates", type=int, default=3, help="beside each picture, default: %(default)s"
    )
    parser.add_argument(
        "--page", metavar="HTML", help="regions of the plane through three pictures"
    )
    parser.add_argument(
        "--regions", type=int, default=2000, help="of that page, at most, default: %(default)s"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    chosen = parser.parse_args(arguments)
    check_least("lens", chosen, templates=1, regions=1)
    if not chosen.out.lower().endswith((".png", ".svg")):
        raise UsageError(f"lens: --out must end in .png or .svg, got {chosen.out!r}")
    if chosen.page is not None and (
        len(chosen.files) != 3 or not chosen.page.lower().endswith(".html")
    ):
        raise UsageError(
            "lens: --page takes three pictures and a name that ends in .html, got "
            f"{len(chosen.files)} and {chosen.page!r}"
        )
    import torch

    from polygraph.analysis.spline import SplineLens
    from polygraph.data.images import to_float
    from polygraph.report.lens_pictures import template_figure, top_names
    from polygraph.tasks.images.run import load_run

    trained = load_run(chosen.run)
    pixels = torch.stack([torch.from_numpy(trained.read(path).copy()) for path in chosen.files])
    x = to_float(pixels).double()
    lens = SplineLens(trained.model.double())
    found = lens.affine(x)
    path = template_figure(chosen.out, x, found, trained.classes, shown=chosen.templates)
    told = "" if chosen.page is None else _page(chosen, lens, x, trained.classes)
    rows = [
        {
            "image": file,
            "classes": list(trained.classes),
            "inner": found.inner[n].tolist(),
            "bias": found.b[n].tolist(),
        }
        for n, file in enumerate(chosen.files)
    ]
    if chosen.json:
        print(json.dumps(rows))
        return 0
    for n, file in enumerate(chosen.files):
        print(f"{file}: {'; '.join(top_names(found, trained.classes, n))}")
    print(
        f"affine around each picture to {found.residual:.0e} of its outputs; wrote {path.resolve()}"
    )
    if told:
        print(told)
    return 0


def _page(chosen: argparse.Namespace, lens: Any, x: Any, classes: Sequence[str]) -> str:
    """Write the page; returns what is on it, for people."""
    from polygraph.report.lens_page import widest_slice, write_slice_page

    plane, found, part = widest_slice(lens, x[0], x[1], x[2], chosen.regions)
    labels = [Path(file).stem for file in chosen.files]
    corners = ((-0.5, -0.5), (0.5, -0.5), (-0.5, 0.5)) if part == 0 else ((0.0, 0.0),)
    points = [(*at, label) for at, label in zip(corners, labels, strict=False)]
    title = f"The plane through {', '.join(labels[:2])} and {labels[2]}"
    path = write_slice_page(
        chosen.page, lens, *plane, found=found, names=classes, points=points, title=title
    )
    where = "" if part == 0 else f" within {part:g} of the way from {labels[0]} to the others"
    return f"{found.regions:,} regions{where}; wrote {path.resolve()}"
