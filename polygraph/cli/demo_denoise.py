"""Train a graph-convolutional denoiser on scikit-image's photographs; before and after."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from polygraph.cli.parser import Parser, UsageError, check_least, checked_folder


def run(arguments: Sequence[str]) -> int:
    """Do what the words after the command ask for; returns the exit status."""
    parser = Parser(prog="polygraph demo-denoise", description=__doc__)
    parser.add_argument("--out", default="demo-denoise", metavar="DIR", help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=500, help="default: %(default)s")
    parser.add_argument("--preset", default="gcdn-33", help="default: %(default)s")
    parser.add_argument("--sigma", type=float, default=25.0, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    chosen = parser.parse_args(arguments)
    check_least("demo-denoise", chosen, steps=1, seed=0)
    from polygraph.tasks import denoise
    from polygraph.tasks.denoise.run import Run
    from polygraph.tasks.denoise.strip import write_strip

    out = Path(checked_folder("demo-denoise", chosen.out))
    graph = chosen.preset.startswith("gcdn")
    print(f"Training {chosen.preset} on built-in photographs, {chosen.steps:,} steps.")
    try:
        trained = denoise.train(
            "scikit-image",
            out,
            preset=chosen.preset,
            width=12,
            batch_size=4,
            patch=32,
            steps=chosen.steps,
            learning_rate=2e-3,
            val_size=96,
            model={"norm_momentum": 0.05} | ({"blocks": 1} if graph else {}),
            sigma=[chosen.sigma],
            seed=chosen.seed,
            eval_every=max(1, chosen.steps // 3),
        )
    except TypeError as error:
        raise UsageError(f"demo-denoise: {error}") from error
    assert isinstance(trained, Run)  # of pictures
    test = trained.result["test"]
    print(
        f"noisy {test['noisy_psnr']:.2f} dB, denoised {test['psnr']:.2f} dB "
        f"({trained.result['seconds']:.0f} s)"
    )
    print(f"wrote {write_strip(trained, out / 'before_after.png').resolve()}")
    return 0
