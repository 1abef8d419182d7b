"""Train first-order and polynomial autoencoders on the built-in animal; table and pictures."""

from __future__ import annotations

from collections.abc import Sequence

from polygraph.cli.parser import Parser, checked_folder

DEMO_PRESETS = ("first-order", "simple-2", "full-2", "full-2-noact")
DEMO_STEPS = 1400


def run(arguments: Sequence[str]) -> int:
    """Do what the words after the command ask for; returns the exit status."""
    parser = Parser(prog="polygraph demo", description=__doc__)
    parser.add_argument("--out", default="demo", metavar="DIR", help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=DEMO_STEPS, help="default: %(default)s")
    parser.add_argument(
        "--latent", type=int, default=8, help="latent channels, default: %(default)s"
    )
    parser.add_argument("--presets", nargs="+", default=list(DEMO_PRESETS), metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="N")
    parser.add_argument("--frames", type=int, default=1600, help="meshes, default: %(default)s")
    chosen = parser.parse_args(arguments)
    from polygraph.data import MeshDataConfig
    from polygraph.tasks.benchmark.compare import compare
    from polygraph.train.config import TrainConfig

    print(
        f"Training {len(chosen.presets)} autoencoders of {chosen.latent} numbers per mesh, "
        f"{chosen.steps:,} steps each, on a built-in animated animal."
    )
    result = compare(
        chosen.presets,
        MeshDataConfig(num_frames=chosen.frames),
        TrainConfig(steps=chosen.steps, schedule="cosine"),
        checked_folder("demo", chosen.out),
        seeds=chosen.seeds,
        latent_channels=chosen.latent,
    )
    print(f"\n{result.table}\n")
    print(
        "error mm: mean distance of a vertex from its true place, on test meshes that training "
        "never saw"
    )
    for path in [*result.pictures, result.folder / "table.md", result.folder / "results.json"]:
        print(f"wrote {path.resolve()}")
    return 0
