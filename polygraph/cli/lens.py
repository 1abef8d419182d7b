"""See a classifier of images as the affine map that it is at each picture: templates and biases."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from polygraph.cli.parser import Parser, UsageError, add_run, check_least

_EXPLAINED = """A network of piecewise affine layers gives each class the number <A, x> + b, with a
template A and a bias b that hold in the picture's whole region. Printed are both parts for the
likeliest classes, and the picture shows the templates: red where a brighter pixel speaks for the
class, blue where it speaks against it.

example:
  polygraph lens cat.png ship.png --run RUN --out lens.png
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
    parser.add_argument("--json", action="store_true", help="print JSON")
    chosen = parser.parse_args(arguments)
    check_least("lens", chosen, templates=1)
    if not chosen.out.lower().endswith((".png", ".svg")):
        raise UsageError(f"lens: --out must end in .png or .svg, got {chosen.out!r}")
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
    return 0
