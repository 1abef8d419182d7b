"""Show meshes, sequences, point clouds and their k-NN graphs in a window."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

from polygraph.cli.parser import Parser, UsageError


def run(arguments: Sequence[str]) -> int:
    """Do what the words after the command ask for; returns the exit status."""
    parser = Parser(prog="polygraph view", description=__doc__)
    _add_settings(parser)
    chosen = parser.parse_args(arguments)
    if chosen.fps <= 0 or chosen.to_mm <= 0 or (chosen.vmax is not None and chosen.vmax <= 0):
        raise UsageError("view: fps, to-mm and vmax must be positive")
    for line in _show(chosen):
        print(line)
    return 0


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """Add the command's settings to its parser."""
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="meshes (.ply .obj .off .stl), clouds (.pcd .xyz .ply), or folders of them, which are "
        "played; several stand side by side",
    )
    parser.add_argument("--reference", metavar="PATH", help="colour by the distance from it")
    parser.add_argument(
        "--run", metavar="DIR", help="a trained model: show each mesh and its reconstruction"
    )
    parser.add_argument("--to-mm", type=float, default=1000.0, help="per unit, default: 1000")
    parser.add_argument("--vmax", type=float, help="end of the colour scale in mm")
    parser.add_argument("--knn", type=int, default=0, metavar="K", help="draw clouds' k-NN graphs")
    parser.add_argument(
        "--sample", type=int, default=0, metavar="N", help="turn meshes into clouds of N points"
    )
    parser.add_argument("--seed", type=int, default=0, help="of --sample")
    parser.add_argument("--fps", type=float, default=12.0, help="default: %(default)s")
    parser.add_argument(
        "--up",
        choices=("auto", "x", "y", "z"),
        default="auto",
        help="axis that points up; auto: as the run says, else guessed from the first shape",
    )
    parser.add_argument("--screenshot", metavar="PNG", help="write a picture and leave")


def _show(chosen: Any) -> Iterator[str]:
    """Open the window; yields lines for people."""
    from polygraph.mesh.cloud import import_open3d
    from polygraph.mesh.up import guess_up, known_up
    from polygraph.report.viewer import HELP, Window, color_items, lay_out, load_items

    import_open3d()  # its absence is said before anything long is read
    items = load_items(chosen.paths, knn=chosen.knn, sample=chosen.sample, seed=chosen.seed)
    up = chosen.up
    if chosen.run is not None:
        items, top, said = _reconstructed(items, chosen)
        up = known_up(up, said)
        yield f"vertex error from 0 to {top:.2f} mm and more"
    elif chosen.reference is not None:
        (reference,) = load_items([chosen.reference])
        items, top = color_items(items, reference, to_mm=chosen.to_mm, vmax=chosen.vmax)
        yield f"vertex error from 0 to {top:.2f} mm and more"
    window = Window(
        lay_out(items), fps=chosen.fps, up=known_up(up, guess_up(items[0].frames[0].points))
    )
    if chosen.screenshot is not None:
        path = window.screenshot(chosen.screenshot)
        window.close()
        yield f"wrote {path.resolve()}"
        return
    print(HELP)
    window.run()


def _reconstructed(items: list[Any], chosen: Any) -> tuple[list[Any], float, Any]:
    """Every mesh and, beside it, what a trained model makes of it, coloured by error.

    Also the end of the scale in mm, and the axis that points up, as the run says.
    """
    import numpy as np
    import torch

    from polygraph.mesh.io import MeshError
    from polygraph.report.viewer import Frame, Item, color_items
    from polygraph.tasks.mesh.run import check_topology, load_run

    run = load_run(chosen.run)
    pairs = []
    for item in items:
        frames = []
        for frame in item.frames:
            if frame.faces is None:
                raise MeshError(f"view: {item.name} is a point cloud; a run takes meshes")
            check_topology(run, len(frame.points), frame.faces, item.name)
            points = run.relative(np.asarray(frame.points), item.name)
            with torch.no_grad():
                made = run.model(torch.from_numpy(points[None]).to(run.model.mean))
            frames.append(Frame(run.absolute(made.double())[0], frame.faces))
        pairs.append((item, Item(f"{item.name}, reconstructed", frames)))
    errors = []
    top = chosen.vmax
    for item, made in pairs:
        (painted,), top = color_items([made], item, to_mm=run.meta["to_mm"], vmax=top)
        errors += [item, painted]
    return errors, float(top), run.model.up
