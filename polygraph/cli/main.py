"""The command line. A command imports what it needs when it runs: help and doctor always work.

Errors are one line on stderr. Exit status: 0 done, 1 the work failed, 2 the command was wrong.
POLYGRAPH_DEBUG=1 shows tracebacks.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import polygraph

DEMO_PRESETS = ("first-order", "simple-2", "full-2", "full-2-noact")
DEMO_STEPS = 1400
_MOST_WORDS = 1000  # characters of an error


class UsageError(Exception):
    """The command line is wrong."""


class Parser(argparse.ArgumentParser):
    """argparse that raises instead of printing its usage and leaving."""

    def error(self, message: str) -> NoReturn:
        """Raise the message as a usage error of this command."""
        raise UsageError(f"{message} (see {self.prog} --help)")


def _nearest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"


def doctor(arguments: Sequence[str]) -> int:
    """Print what was found: torch, CUDA, instruction set, extras."""
    Parser(prog="polygraph doctor", description=doctor.__doc__).parse_args(arguments)
    from polygraph.cli import doctor as found

    lines, working = found.report()
    print("\n".join(lines))
    return 0 if working else 1


def _is_first() -> bool:
    """Whether this process is the one that prints."""
    return int(os.environ.get("RANK", "0")) == 0


def _train_mesh(arguments: Sequence[str]) -> None:
    from polygraph.train.arguments import parse_train_mesh

    config, out, resume = _settings("train mesh", parse_train_mesh, arguments)
    from polygraph.tasks.mesh.training import train_mesh

    result = train_mesh(config, out, resume=resume)
    if _is_first():
        test, val = result["test"], result["val"]
        print(
            f"{result['steps']:,} steps, weights of step {result['best_step']}: vertex error on "
            f"test {test['mean']:.3f} mm mean, {test['std']:.3f} std, {test['median']:.3f} median "
            f"(validation {val['mean']:.3f})\n{Path(out).resolve()}"
        )


def _train_points(arguments: Sequence[str]) -> None:
    from polygraph.train.arguments import parse_train_points

    config, out, resume = _settings("train points", parse_train_points, arguments)
    from polygraph.tasks.points.training import train_points

    result = train_points(config, out, resume=resume)
    if _is_first():
        test, val = result["test"], result["val"]
        print(
            f"{result['steps']:,} steps, weights of step {result['best_step']}: "
            f"{test['accuracy']:.1%} of {test['num_samples']} test shapes right, "
            f"{test['mean_class_accuracy']:.1%} mean of {len(test['per_class'])} classes "
            f"(validation {val['accuracy']:.1%})\n{Path(out).resolve()}"
        )


def _settings(
    name: str, parse: Callable[[Sequence[str]], tuple[Any, str, bool]], arguments: Sequence[str]
) -> tuple[Any, str, bool]:
    try:
        config, out, resume = parse(arguments)
    except (ValueError, TypeError) as error:
        raise UsageError(f"{name}: {error}") from error
    return config, _folder(name, out), resume


def _folder(command: str, out: str) -> str:
    """The folder to write to, if it is one: no name is not the current folder."""
    if not str(out).strip():
        raise UsageError(f"{command}: --out must name a folder, got {out!r}")
    return out


def _train_gan(arguments: Sequence[str]) -> None:
    from polygraph.tasks.images.arguments import parse_train_gan

    config, out, resume = _settings("train gan", parse_train_gan, arguments)
    from polygraph.tasks.images.training import train_gan

    result = train_gan(config, out, resume=resume)
    if _is_first():
        best = ""
        if result["best_step"] is not None:
            best = f", lowest FID {result['fid']:.2f} at step {result['best_step']}"
        print(
            f"{result['steps']:,} generator steps, {result['step_ms']:.0f} ms each{best}\n"
            f"{Path(out).resolve()}"
        )


TRAINED: dict[str, Callable[[Sequence[str]], None]] = {
    "gan": _train_gan,
    "mesh": _train_mesh,
    "points": _train_points,
}


def train(arguments: Sequence[str]) -> int:
    """Train a model; `polygraph train KIND --help` lists the settings of a kind."""
    if not arguments or arguments[0] in ("-h", "--help"):
        usage = [f"polygraph train {kind} [settings]" for kind in TRAINED]
        print("usage: " + "\n       ".join(usage) + f"\n\n{train.__doc__}")
        return 0 if arguments else 2
    kind = arguments[0]
    if kind not in TRAINED:
        raise UsageError(f"train: unknown kind of model {kind!r}{_nearest(kind, list(TRAINED))}")
    TRAINED[kind](arguments[1:])
    return 0


def _add_run(parser: Parser) -> None:
    parser.add_argument("--run", required=True, metavar="DIR", help="folder of a trained model")


def evaluate(arguments: Sequence[str]) -> int:
    """Measure a trained model's vertex error in mm."""
    parser = Parser(prog="polygraph evaluate", description=evaluate.__doc__)
    _add_run(parser)
    parser.add_argument("--part", choices=("train", "val", "test"), default="test")
    parser.add_argument("--kind", default="registered", help="kind of the data at --data")
    parser.add_argument("--data", metavar="PATH", help="other data of the same template")
    parser.add_argument("--split", default="interpolation", help="split of the data at --data")
    parser.add_argument("--to-mm", type=float, help="millimetres per unit of the data at --data")
    parser.add_argument("--json", action="store_true", help="print JSON")
    chosen = parser.parse_args(arguments)
    from polygraph.data import MeshDataConfig
    from polygraph.tasks.mesh.run import evaluate_run, load_run

    data = None
    if chosen.data is not None:
        data = MeshDataConfig(chosen.kind, chosen.data, chosen.split, to_mm=chosen.to_mm)
    result = evaluate_run(load_run(chosen.run), part=chosen.part, data=data)
    if chosen.json:
        print(json.dumps({**result.summary(), "per_vertex": result.per_vertex.tolist()}))
    else:
        print(f"{chosen.part}: {result.num_samples} meshes, {result}")
    return 0


def reconstruct(arguments: Sequence[str]) -> int:
    """Send a mesh file through a trained autoencoder."""
    parser = Parser(prog="polygraph reconstruct", description=reconstruct.__doc__)
    parser.add_argument("source", metavar="in.ply", help=".ply, .obj, .off or .stl")
    parser.add_argument("target", metavar="out.ply", help="where the reconstruction goes")
    _add_run(parser)
    chosen = parser.parse_args(arguments)
    from polygraph.tasks.mesh.run import load_run, reconstruct_file

    errors = reconstruct_file(load_run(chosen.run), chosen.source, chosen.target)
    print(
        f"{chosen.target}: {errors.mean():.3f} mm from the input on average, "
        f"{errors.max():.3f} at most"
    )
    return 0


def export(arguments: Sequence[str]) -> int:
    """Write a trained autoencoder as a pretrained folder (safetensors, JSON, model card)."""
    parser = Parser(prog="polygraph export", description=export.__doc__)
    _add_run(parser)
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    chosen = parser.parse_args(arguments)
    from polygraph.tasks.mesh.run import export_run, load_run

    out = _folder("export", chosen.out)
    print(f"wrote {export_run(load_run(chosen.run), out).resolve()}")
    return 0


def latent(arguments: Sequence[str]) -> int:
    """Walk between meshes, sample and draw analogies in the codes of a trained autoencoder."""
    from polygraph.cli.latent import add_kinds, make_sequences

    parser = Parser(prog="polygraph latent", description=latent.__doc__)
    add_kinds(parser)
    chosen = parser.parse_args(arguments)
    _folder("latent", chosen.out)
    if "seed" in chosen:
        _check_least("latent", chosen, seed=0)
    sequences = make_sequences(chosen)
    for path in sequences.write(chosen.out, picture=not chosen.no_picture, up=chosen.up):
        print(f"wrote {path.resolve()}")
    return 0


def report(arguments: Sequence[str]) -> int:
    """Write the report of a grid of mesh autoencoders: one HTML file, and charts as pictures."""
    parser = Parser(prog="polygraph report", description=report.__doc__)
    parser.add_argument(
        "grid",
        metavar="GRID",
        help="folder of `polygraph benchmark mesh`; or its results.json: then without meshes",
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


def view(arguments: Sequence[str]) -> int:
    """Show meshes, sequences, point clouds and their k-NN graphs in a window."""
    from polygraph.cli.view import add_settings, show

    parser = Parser(prog="polygraph view", description=view.__doc__)
    add_settings(parser)
    chosen = parser.parse_args(arguments)
    if chosen.fps <= 0 or chosen.to_mm <= 0 or (chosen.vmax is not None and chosen.vmax <= 0):
        raise UsageError("view: fps, to-mm and vmax must be positive")
    for line in show(chosen):
        print(line)
    return 0


def _check_least(command: str, chosen: argparse.Namespace, **least: int) -> None:
    for name, low in least.items():
        if getattr(chosen, name) < low:
            raise UsageError(
                f"{command}: {name} must be at least {low}, got {getattr(chosen, name)}"
            )
        if name == "seed" and chosen.seed >= 2**63:
            raise UsageError(f"{command}: seed must be in [0, 2^63), got {chosen.seed}")


def sample(arguments: Sequence[str]) -> int:
    """Draw images with a trained generator, or walk between them."""
    parser = Parser(prog="polygraph sample", description=sample.__doc__)
    _add_run(parser)
    parser.add_argument("--out", default="samples.png", metavar="PNG", help="default: %(default)s")
    parser.add_argument("--count", type=int, default=64, help="images, default: %(default)s")
    parser.add_argument("--columns", type=int, default=8, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--weights", choices=("average", "generator"), default="average")
    parser.add_argument(
        "--interpolate", action="store_true", help="each row is a walk between two images"
    )
    parser.add_argument("--scale", type=int, default=2, help="pixels per pixel")
    chosen = parser.parse_args(arguments)
    _check_least("sample", chosen, count=1, columns=1 + chosen.interpolate, scale=1, seed=0)
    from polygraph.report.image_grid import write_grid
    from polygraph.tasks.images.training import sample_run

    steps = chosen.columns if chosen.interpolate else None
    images = sample_run(
        chosen.run, chosen.count, chosen.seed, weights=chosen.weights, interpolate=steps
    )
    path = write_grid(chosen.out, images.numpy(), chosen.columns, scale=chosen.scale)
    print(f"wrote {path.resolve()}")
    return 0


def score(arguments: Sequence[str]) -> int:
    """Score a trained generator: Inception Score, FID, KID, precision, recall."""
    parser = Parser(prog="polygraph score", description=score.__doc__)
    _add_run(parser)
    parser.add_argument("--count", type=int, default=10_000, help="images, default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--weights", choices=("average", "generator"), default="average")
    parser.add_argument("--data", metavar="PATH", help="where the data lie now")
    parser.add_argument(
        "--inception",
        metavar="FILE",
        help="Inception's weights; default: a classifier trained on the run's own data",
    )
    parser.add_argument("--classifier", metavar="DIR", help="folder of that classifier's weights")
    parser.add_argument("--json", action="store_true", help="print JSON")
    chosen = parser.parse_args(arguments)
    _check_least("score", chosen, count=10, seed=0)  # the ten parts of Inception Score
    from polygraph.tasks.images.training import score_run

    found = score_run(
        chosen.run,
        chosen.count,
        seed=chosen.seed,
        path=chosen.data,
        classifier=chosen.classifier,
        inception=chosen.inception,
        weights=chosen.weights,
    )
    print(json.dumps(found.summary()) if chosen.json else found)
    return 0


def demo_gan(arguments: Sequence[str]) -> int:
    """Train a graph-convolutional generator on built-in digits; pictures of what it draws."""
    parser = Parser(prog="polygraph demo-gan", description=demo_gan.__doc__)
    parser.add_argument("--out", default="demo-gan", metavar="DIR", help="default: %(default)s")
    parser.add_argument("--steps", type=int, help="generator steps; default: the preset's")
    parser.add_argument("--preset", default="digits", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    chosen = parser.parse_args(arguments)
    from polygraph.report.image_grid import write_grid
    from polygraph.tasks.images.training import gan_run_config, sample_run, train_gan

    changed: dict[str, Any] = {"seed": chosen.seed}
    if chosen.steps is not None:
        changed["steps"] = chosen.steps
    try:
        config = gan_run_config(chosen.preset, **changed)
    except ValueError as error:
        raise UsageError(f"demo-gan: {error}") from error
    print(f"Training {chosen.preset} on built-in digits, {config.train.steps:,} generator steps.")
    out = Path(_folder("demo-gan", chosen.out))
    result = train_gan(config, out)
    print(f"{result['seconds']:.0f} s, {result['step_ms']:.0f} ms per generator step")
    for name, steps in (("samples", None), ("interpolations", 8)):
        images = sample_run(out, 64 if steps is None else 16, interpolate=steps)
        print(f"wrote {write_grid(out / f'{name}.png', images.numpy(), scale=3).resolve()}")
    return 0


def demo(arguments: Sequence[str]) -> int:
    """Train first-order and polynomial autoencoders on the built-in animal; table and pictures."""
    parser = Parser(prog="polygraph demo", description=demo.__doc__)
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
        _folder("demo", chosen.out),
        seeds=chosen.seeds,
        latent_channels=chosen.latent,
        up="z",
    )
    print(f"\n{result.table}\n")
    print(
        "error mm: mean distance of a vertex from its true place, on test meshes that training "
        "never saw"
    )
    for path in [*result.pictures, result.folder / "table.md", result.folder / "results.json"]:
        print(f"wrote {path.resolve()}")
    return 0


def benchmark(arguments: Sequence[str]) -> int:
    """Train a grid of mesh autoencoders, all competitors alike; a table, rows as JSON."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"usage: polygraph benchmark mesh [settings]\n\n{benchmark.__doc__}")
        return 0 if arguments else 2
    if arguments[0] != "mesh":
        raise UsageError(
            f"benchmark: unknown kind {arguments[0]!r}{_nearest(arguments[0], ['mesh'])}"
        )
    return _benchmark_mesh(arguments[1:])


def _benchmark_mesh(arguments: Sequence[str]) -> int:
    from polygraph.tasks.benchmark.arguments import parse_benchmark_mesh
    from polygraph.tasks.benchmark.grid import run_grid

    try:
        grid, out, finished = parse_benchmark_mesh(arguments)
    except ValueError as error:
        raise UsageError(f"benchmark mesh: {error}") from error
    result = run_grid(grid, out, finished=finished)
    print(f"\n{result.table}\n")
    for name in ("results.json", "table.md"):
        print(f"wrote {(result.folder / name).resolve()}")
    return 0


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "demo": demo,
    "demo-gan": demo_gan,
    "train": train,
    "benchmark": benchmark,
    "sample": sample,
    "score": score,
    "evaluate": evaluate,
    "reconstruct": reconstruct,
    "latent": latent,
    "export": export,
    "report": report,
    "view": view,
    "doctor": doctor,
}


def _help() -> str:
    lines = ["usage: polygraph COMMAND ...", "", (polygraph.__doc__ or "").strip(), ""]
    for name, command in COMMANDS.items():
        lines.append(f"  {name:12} {(command.__doc__ or '').splitlines()[0]}")
    lines += [
        "",
        "  --version    print the version",
        "  --help       after a command: its settings",
    ]
    return "\n".join(lines)


def _run(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return 0 if arguments else 2
    name = arguments[0]
    if name == "--version":
        print(f"polygraph {polygraph.__version__}")
        return 0
    if name not in COMMANDS:
        raise UsageError(f"unknown command {name!r}{_nearest(name, list(COMMANDS))}")
    return COMMANDS[name](arguments[1:])


def describe(error: BaseException) -> str:
    """An error in one line; a missing package names the extra that brings it."""
    text = " ".join(str(error).split())
    if len(text) > _MOST_WORDS:  # a value from a file is part of it, which may be of any size
        text = f"{text[:_MOST_WORDS]} ... ({len(text)} characters)"
    if isinstance(error, ModuleNotFoundError) and error.name:
        from polygraph.cli.doctor import extra_of

        extra = extra_of(error.name)
        if extra is not None:
            return f"{error.name.split('.')[0]} is not installed: pip install 'polygraph[{extra}]'"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    expected = isinstance(error, ValueError | OSError | ImportError | RuntimeError)
    return text if expected and text else f"{type(error).__name__}: {text}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: words after ``polygraph``; default from the command line.

    Returns:
        The exit status.
    """
    arguments: Sequence[Any] = sys.argv[1:] if argv is None else argv
    try:
        return _run([str(argument) for argument in arguments])
    except KeyboardInterrupt:
        print(
            "polygraph: interrupted; a training run goes on from its last checkpoint with --resume",
            file=sys.stderr,
        )
        return 130
    except (
        BrokenPipeError
    ):  # the reader of our output has gone: nothing to say, nobody to say it to
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if os.environ.get("POLYGRAPH_DEBUG") == "1":
            raise
        print(f"polygraph: {describe(error)}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1


if __name__ == "__main__":
    raise SystemExit(main())
