"""Send a mesh file through a trained autoencoder."""

from __future__ import annotations

from collections.abc import Sequence

from polygraph.cli.parser import Parser, add_run


def run(arguments: Sequence[str]) -> int:
    """Do what the words after the command ask for; returns the exit status."""
    parser = Parser(prog="polygraph reconstruct", description=__doc__)
    parser.add_argument("source", metavar="in.ply", help=".ply, .obj, .off or .stl")
    parser.add_argument("target", metavar="out.ply", help="where the reconstruction goes")
    add_run(parser)
    chosen = parser.parse_args(arguments)
    from polygraph.tasks.mesh.run import load_run, reconstruct_file

    errors = reconstruct_file(load_run(chosen.run), chosen.source, chosen.target)
    print(
        f"{chosen.target}: {errors.mean():.3f} mm from the input on average, "
        f"{errors.max():.3f} at most"
    )
    return 0
