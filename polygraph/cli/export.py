"""Write a trained autoencoder as a pretrained folder (safetensors, JSON, model card)."""

from __future__ import annotations

from collections.abc import Sequence

from polygraph.cli.parser import Parser, add_run, checked_folder


def run(arguments: Sequence[str]) -> int:
    """Do what the words after the command ask for; returns the exit status."""
    parser = Parser(prog="polygraph export", description=__doc__)
    add_run(parser)
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    chosen = parser.parse_args(arguments)
    from polygraph.tasks.mesh.run import export_run, load_run

    out = checked_folder("export", chosen.out)
    print(f"wrote {export_run(load_run(chosen.run), out).resolve()}")
    return 0
