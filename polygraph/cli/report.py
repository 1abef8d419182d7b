"""Write the report of a grid of mesh autoencoders, or of a run of a variational autoencoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from polygraph.cli.parser import Parser, UsageError


def run(arguments: Sequence[str]) -> int:
    """Do what the words after the command ask for; returns the exit status."""
    parser = Parser(prog="polygraph report", description=__doc__)
    parser.add_argument(
        "grid",
        metavar="GRID",
        help="folder of `polygraph benchmark mesh`; or its results.json: then without meshes; or "
        "the folder of a run of `polygraph train vae`",
    )
    parser.add_argument("--out", default="report.html", metavar="HTML", help="%(default)s")
    parser.add_argument("--title", default="Mesh autoencoders", help="default: %(default)s")
    parser.add_argument("--max-mb", type=float, default=15.0, help="size, default: %(default)s")
    parser.add_argument("--up", choices=("auto", "x", "y", "z"), default="auto")
    parser.add_argument("--charts", metavar="DIR", help="also write charts there, as PNG")
    parser.add_argument(
        "--errors",
        metavar="DIR",
        help="also write one test mesh there and its reconstructions by rising order, coloured by "
        "error on one scale, as PNG",
    )
    parser.add_argument(
        "--errors-of",
        nargs="+",
        default=[],
        metavar="NAME",
        help="models of that picture; default: first order and full of every order",
    )
    parser.add_argument(
        "--errors-mesh", type=int, default=0, metavar="N", help="its mesh, default: %(default)s"
    )
    chosen = parser.parse_args(arguments)
    if not chosen.max_mb > 0:
        raise UsageError(f"report: max-mb must be positive, got {chosen.max_mb}")
    if any(
        (Path(chosen.grid) / name).is_file() for name in ("best.safetensors", "last.safetensors")
    ):
        from polygraph.tasks.vae.page import write_run_report

        print(f"wrote {write_run_report(chosen.grid, chosen.out).resolve()}")
        return 0
    from polygraph.report.charts import write_charts
    from polygraph.report.order_figure import write_order_figures
    from polygraph.report.page import write_report

    path = write_report(
        chosen.grid, chosen.out, title=chosen.title, max_mb=chosen.max_mb, up=chosen.up
    )
    print(f"wrote {path.resolve()}, {path.stat().st_size / 1e6:.1f} MB")
    if chosen.charts is not None:
        for picture in write_charts(chosen.grid, chosen.charts):
            print(f"wrote {picture.resolve()}")
    if chosen.errors is not None:
        for picture in write_order_figures(
            chosen.grid,
            chosen.errors,
            models=chosen.errors_of,
            mesh=chosen.errors_mesh,
            up=chosen.up,
        ):
            print(f"wrote {picture.resolve()}")
    return 0
