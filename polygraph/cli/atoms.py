"""Draw the dictionaries of a classifier by sparse codes: its atoms, as they are in images."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from polygraph.cli.parser import Parser, UsageError, add_run, check_least

_EXPLAINED = """An atom of layer l is what one entry of its code adds to the image, the dictionaries
below applied to it. Of grey images red adds light and blue takes it.

examples:
  polygraph train images DIR --kind mnist --data.size 28 --preset sparse/ista --out RUN
  polygraph atoms --run RUN --out atoms.png
"""


def run(arguments: Sequence[str]) -> int:
    """Do what the words after the command ask for; returns the exit status."""
    parser = Parser(
        prog="polygraph atoms",
        description=__doc__,
        epilog=_EXPLAINED,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_run(parser)
    parser.add_argument("--out", default="atoms.png", metavar="PNG", help="default: %(default)s")
    parser.add_argument(
        "--layers", type=int, nargs="+", metavar="L", help="from 1 on, default: all"
    )
    parser.add_argument(
        "--shown", type=int, default=64, metavar="N", help="of each, default: %(default)s"
    )
    chosen = parser.parse_args(arguments)
    check_least("atoms", chosen, shown=1)
    if not chosen.out.lower().endswith((".png", ".svg")):
        raise UsageError(f"atoms: --out must end in .png or .svg, got {chosen.out!r}")
    from polygraph.models import SparseCodingClassifier
    from polygraph.report.atom_pictures import atom_figure
    from polygraph.tasks.images.run import load_run

    model = load_run(chosen.run).model
    if not isinstance(model, SparseCodingClassifier):
        raise ValueError(
            f"atoms: {chosen.run} holds a {type(model).__name__}, which has no dictionaries: train "
            "one of the presets sparse/*"
        )
    path = atom_figure(chosen.out, model.coder, layers=chosen.layers, shown=chosen.shown)
    print(f"{model.coder}\nwrote {path.resolve()}")
    return 0
