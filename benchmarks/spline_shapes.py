"""Templates of a body and of shapes: what networks on meshes and point clouds look at.

    python benchmarks/spline_shapes.py --bodies BODIES --shapes SHAPES/points.npz --out results/NAME

Writes ``lens_body.png``: of a spiral autoencoder with leaky ReLUs, trained for 150 steps, which
vertices move which number of the code; and ``lens_shapes.png``: of a small DGCNN, trained for 300
steps on clouds of 256 points, which points speak for the class and which against it. Runs are kept
in ``--runs`` and taken from there the next time.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from polygraph.analysis import SplineLens
from polygraph.report.figures import save_figure
from polygraph.report.render import draw_mesh, make_view, pyplot
from polygraph.tasks import mesh, points

CODES = 4  # numbers of the code that are drawn
SHOWN = 4  # shapes that are drawn


def body(folder: Path, runs: Path, out: Path) -> None:
    """Four numbers of the code of a test body, and where they look."""
    known = runs / "body"
    settings = {"steps": 150, "batch_size": 4, "latent": 8, "model": {"activation": "leaky_relu"}}
    if (known / "result.json").is_file():
        run = mesh.load(known)
    else:
        run = mesh.train(folder, known, preset="first-order", **settings)
    splits = json.loads((folder / "splits.json").read_text())
    (row, *_) = splits["interpolation"]["test"]
    faces = np.load(folder / "faces.npy").astype(np.int64)
    x = torch.from_numpy(
        np.load(folder / "vertices.npy", mmap_mode="r")[row : row + 1].copy()
    ).double()
    model = run.model.double().eval()
    found = SplineLens(model.encode).affine(x)
    print(found, found.value[0, :CODES])
    size = found.A[0, :CODES].norm(dim=-1).numpy()
    plt = pyplot()
    vertices = x[0].numpy()
    figure, grid = plt.subplots(
        1, 1 + CODES, figsize=(2.1 * (1 + CODES), 3.4), layout="constrained"
    )
    view = make_view(vertices)
    draw_mesh(grid[0], vertices, faces, view)
    grid[0].set_title("input", fontsize=9)
    for k, axes in enumerate(grid[1:]):
        draw_mesh(axes, vertices, faces, view, values=size[k], vmax=float(size[k].max()))
        inner, b = float(found.inner[0, k]), float(found.b[0, k])
        sign = "+" if b >= 0 else "−"
        axes.set_title(f"code {k}: {inner:.2f} {sign} {abs(b):.2f}", fontsize=9)
    save_figure(plt, figure, out / "lens_body.png")


def shapes(archive: Path, runs: Path, out: Path) -> None:
    """Test clouds, their points coloured by what each adds to the largest logit."""
    known = runs / "shapes"
    with np.load(archive) as file:
        label, is_test = file["label"], file["is_test"]
        xyz = file["xyz"][:, ::4].astype(np.float32) / 32767
    if (known / "result.json").is_file():
        run = points.load(known)
    else:
        runs.mkdir(parents=True, exist_ok=True)
        np.savez(runs / "shapes.npz", xyz=xyz, label=label, is_test=is_test)
        run = points.train(
            runs / "shapes.npz", known, steps=300, batch_size=16, k=8, label_smoothing=0.0,
            model={"edge_channels": (16, 16, 32), "embedding_channels": 64, "head_channels": (32,)},
        )  # fmt: skip
    model = run.model.double().eval()
    rows = np.flatnonzero(is_test)
    with torch.no_grad():
        told = model(torch.from_numpy(xyz[rows]).double()).argmax(1).numpy()
    print(f"{(told == label[rows]).mean():.3f} of {len(rows)} test clouds right")
    rows = rows[told == label[rows]]
    _, first = np.unique(label[rows], return_index=True)
    rows = rows[np.sort(first)][:SHOWN]
    x = torch.from_numpy(xyz[rows]).double()
    found = SplineLens(model).affine(x)
    print(found)
    plt = pyplot()
    figure = plt.figure(figsize=(2.6 * SHOWN, 2.9), layout="constrained")
    for n in range(len(rows)):
        best = int(found.value[n].argmax())
        share = (found.A[n, best] * x[n]).sum(-1).numpy()
        limit = float(np.percentile(np.abs(share), 98)) or 1.0
        axes = figure.add_subplot(1, SHOWN, n + 1, projection="3d")
        right, depth, up = x[n].numpy()[:, [0, 2, 1]].T
        axes.scatter(
            right, depth, up, c=share, cmap="RdBu_r", vmin=-limit, vmax=limit, s=16,
            depthshade=False, edgecolors="#30303060", linewidths=0.2,
        )  # fmt: skip
        axes.set_axis_off()
        axes.set_box_aspect(np.ptp(np.stack([right, depth, up]), axis=1))
        b = float(found.b[n, best])
        sign = "+" if b >= 0 else "−"
        axes.set_title(
            f"class {best}: "
            f"{float(found.inner[n, best]):.1f} {sign} {abs(b):.1f}", fontsize=9,
        )  # fmt: skip
    save_figure(plt, figure, out / "lens_shapes.png")


def main() -> None:
    """Both pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--bodies", type=Path, help="folder of vertices.npy, faces.npy, splits.json"
    )
    parser.add_argument("--shapes", type=Path, help="points.npz")
    parser.add_argument("--runs", type=Path, required=True, help="folder for the trained networks")
    parser.add_argument("--out", type=Path, required=True, help="folder of the pictures")
    options = parser.parse_args()
    if options.shapes is not None:
        shapes(options.shapes, options.runs, options.out)
    if options.bodies is not None:
        body(options.bodies, options.runs, options.out)


if __name__ == "__main__":
    main()
