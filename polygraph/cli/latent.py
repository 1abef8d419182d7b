"""Walk between meshes or images, sample and draw analogies in the codes of an autoencoder."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from polygraph.cli.parser import (
    Parser,
    UsageError,
    add_data,
    add_run,
    check_least,
    checked_folder,
    given_data,
)

_MESH = "a mesh or picture, or PART:N for number N of a part of the run's data, such as test:3"


def run(arguments: Sequence[str]) -> int:
    """Do what the words after the command ask for; returns the exit status."""
    parser = Parser(prog="polygraph latent", description=__doc__)
    _add_kinds(parser)
    chosen = parser.parse_args(arguments)
    checked_folder("latent", chosen.out)
    if "seed" in chosen:
        check_least("latent", chosen, seed=0)
    sequences = _make_sequences(chosen)
    for path in sequences.write(chosen.out, picture=not chosen.no_picture, up=chosen.up):
        print(f"wrote {path.resolve()}")
    return 0


def _add_kinds(parser: argparse.ArgumentParser) -> None:
    """Add the kinds of walks and their settings to the command's parser."""
    kinds = parser.add_subparsers(dest="walk", required=True, metavar="KIND")

    def kind(name: str, words: str, meshes: Sequence[str]) -> argparse.ArgumentParser:
        sub = kinds.add_parser(name, help=words, description=words)
        for mesh in meshes:
            sub.add_argument(mesh, help=_MESH)
        add_run(sub)
        sub.add_argument("--out", default=f"latent-{name}", metavar="DIR", help="%(default)s")
        add_data(sub)
        sub.add_argument("--up", choices=("auto", "x", "y", "z"), default="auto")
        sub.add_argument("--no-picture", action="store_true", help="no picture of all")
        return sub

    walk = kind("interpolate", "Walk from one mesh to another.", "ab")
    walk.add_argument("--steps", type=int, default=9, help="default: %(default)s")
    walk = kind("geodesic", "Walk from one to another so that what is seen changes least.", "ab")
    walk.add_argument("--steps", type=int, default=9, help="default: %(default)s")
    walk = kind("extrapolate", "Walk from before one mesh to beyond another.", "ab")
    walk.add_argument("--steps", type=int, default=9, help="default: %(default)s")
    walk.add_argument("--low", type=float, default=-0.5, help="0 is a; default: %(default)s")
    walk.add_argument("--high", type=float, default=1.5, help="1 is b; default: %(default)s")
    around = kind("sample", "Draw from the prior, or a Gaussian fitted to the training codes.", "")
    around.add_argument(
        "--source",
        choices=("auto", "prior", "codes"),
        default="auto",
        help="prior: N(0, I), of variational ones; default: the prior where there is one",
    )
    around.add_argument("--count", type=int, default=17, help="default: %(default)s")
    around.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    around.add_argument(
        "--spread", type=float, default=1.0, help="times the deviation: %(default)s"
    )
    axes = kind("axes", "Walk along the widest axes of the training codes.", "")
    axes.add_argument("--count", type=int, default=3, help="axes, default: %(default)s")
    axes.add_argument("--reach", type=float, default=2.5, help="deviations, default: %(default)s")
    axes.add_argument("--steps", type=int, default=7, help="default: %(default)s")
    kind("analogy", "a is to b as c is to what is drawn.", "abc")


def _make_sequences(chosen: Any) -> Any:
    """The meshes that the parsed words ask for."""
    latent = _latent_run(chosen)
    if chosen.walk == "interpolate":
        return latent.interpolate(chosen.a, chosen.b, chosen.steps)
    if chosen.walk == "geodesic":
        return latent.geodesic(chosen.a, chosen.b, chosen.steps)
    if chosen.walk == "extrapolate":
        return latent.interpolate(
            chosen.a, chosen.b, chosen.steps, low=chosen.low, high=chosen.high
        )
    if chosen.walk == "sample":
        settings = {name: getattr(chosen, name) for name in ("seed", "spread", "source")}
        return latent.sample(chosen.count, **settings)
    if chosen.walk == "axes":
        return latent.axes(chosen.count, reach=chosen.reach, steps=chosen.steps)
    return latent.analogy(chosen.a, chosen.b, chosen.c)


def _latent_run(chosen: Any) -> Any:
    """The run with its codes: of meshes, or of images."""
    from polygraph.train.recorded import kind_of

    if kind_of(Path(chosen.run)) == "vae":
        from polygraph.tasks.vae.latent import ImageLatentRun
        from polygraph.tasks.vae.run import load_run as load_images

        for name in ("kind", "split", "to_mm"):
            if getattr(chosen, name) is not None:
                option = "--" + name.replace("_", "-")
                raise UsageError(f"latent: {option} is of meshes, and {chosen.run} is of images")
        return ImageLatentRun(load_images(chosen.run), chosen.data)
    from polygraph.tasks.mesh.latent import LatentRun
    from polygraph.tasks.mesh.run import load_run

    run = load_run(chosen.run)
    return LatentRun(run, given_data(chosen, run))
