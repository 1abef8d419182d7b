"""Train a graph-convolutional generator on built-in digits; pictures of what it draws."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from polygraph.cli.parser import Parser, UsageError, checked_folder


def run(arguments: Sequence[str]) -> int:
    """Do what the words after the command ask for; returns the exit status."""
    parser = Parser(prog="polygraph demo-gan", description=__doc__)
    parser.add_argument("--out", default="demo-gan", metavar="DIR", help="default: %(default)s")
    parser.add_argument("--steps", type=int, help="generator steps; default: the preset's")
    parser.add_argument("--preset", default="digits", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    chosen = parser.parse_args(arguments)
    from polygraph.report.image_grid import write_image_grid
    from polygraph.tasks.gan.run import sample_run
    from polygraph.tasks.gan.training import gan_run_config, train_gan

    changed: dict[str, Any] = {"seed": chosen.seed}
    if chosen.steps is not None:
        changed["steps"] = chosen.steps
    try:
        config = gan_run_config(chosen.preset, **changed)
    except ValueError as error:
        raise UsageError(f"demo-gan: {error}") from error
    print(f"Training {chosen.preset} on built-in digits, {config.train.steps:,} generator steps.")
    out = Path(checked_folder("demo-gan", chosen.out))
    result = train_gan(config, out)
    print(f"{result['seconds']:.0f} s, {result['step_ms']:.0f} ms per generator step")
    for name, steps in (("samples", None), ("interpolations", 8)):
        images = sample_run(out, 64 if steps is None else 16, interpolate=steps)
        print(f"wrote {write_image_grid(out / f'{name}.png', images.numpy(), scale=3).resolve()}")
    return 0
