"""A picture of dictionaries that were learned on a moving mesh, of spiral convolutions.

    python benchmarks/sparse_coding_pictures.py --out results/NAME

Writes ``sparse_atoms_mesh.png``. Signals are the built-in creature's vertices less their mean over
its frames; two spiral convolutions with atoms of norm 1 at most, three unfoldings of FISTA,
thresholds that stay, 80 steps of Adam on the reconstruction. Those of images are drawn by
`polygraph atoms`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import nn

from polygraph.data import make_creature
from polygraph.mesh import spiral_table
from polygraph.models import MultiLayerSparseCoder
from polygraph.nn import SpiralConv
from polygraph.report.atom_pictures import mesh_atom_figure

FRAMES, BATCH, STEPS, RATE = 64, 6, 80, 1e-2
CHANNELS, UNFOLDINGS, THRESHOLD = (12, 16), 3, 0.1


def learn(x: torch.Tensor, table: np.ndarray) -> MultiLayerSparseCoder:
    """Dictionaries by unrolled gradients of ``½ |x - D₁ D₂ Γ|²``, the mean over the frames."""
    torch.manual_seed(0)
    layers = [SpiralConv(3, CHANNELS[0], table), SpiralConv(*CHANNELS, table)]
    for layer in layers:
        nn.init.constant_(layer.bias, -THRESHOLD)  # type: ignore[arg-type]
        layer.bias.requires_grad_(False)  # type: ignore[union-attr]
    coder = MultiLayerSparseCoder(layers, x.shape[1:], UNFOLDINGS, "fista")
    optimizer = torch.optim.Adam([layer.weight for layer in layers], RATE)
    generator = torch.Generator().manual_seed(0)
    for step in range(STEPS):
        rows = torch.randperm(len(x), generator=generator)[:BATCH]
        code = coder(x[rows])
        rest = (x[rows] - coder.decode(code)).square().sum((1, 2)).mean() / 2
        optimizer.zero_grad()
        rest.backward()
        optimizer.step()
        with torch.no_grad():  # or codes shrink, atoms grow, and no threshold matters
            for layer in layers:
                layer.weight /= layer.weight.norm(dim=1, keepdim=True).clamp(min=1)
        if step % 20 == 0 or step == STEPS - 1:
            share = float(2 * rest.detach()) / float(x[rows].square().sum((1, 2)).mean())
            used = float((code > 0).float().mean())
            print(f"step {step}: {share:.3f} of the signal is left, {used:.3f} of the code is used")
    return coder.eval()


def main() -> None:
    """Learn, and draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the picture")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = make_creature(num_frames=FRAMES)
    shapes = np.asarray(data.vertices, np.float64)
    rest = shapes - shapes.mean(0)
    x = torch.from_numpy((rest / rest.std()).astype(np.float32))
    coder = learn(x, spiral_table(shapes[0], data.faces))
    place = int(shapes[0][:, 1].argmax())
    path = mesh_atom_figure(
        options.out / "sparse_atoms_mesh.png", coder, shapes[0], data.faces, shown=4,
        places=[place, place],
    )  # fmt: skip
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
