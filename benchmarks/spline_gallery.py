"""Templates and regions of two small networks that are trained on MNIST in a minute.

    python benchmarks/spline_gallery.py MNIST --out results/NAME

Writes ``lens_templates.png`` (a CNN at three test images) and ``lens_plane.png`` (a perceptron in
the plane through them), and prints accuracies, residuals and a walk.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

from polygraph.analysis import SplineLens
from polygraph.data import ImageDataConfig, open_images
from polygraph.data.images import to_float
from polygraph.report.lens_pictures import plane_through, slice_figure, template_figure, top_names

SHOWN = (0, 3, 4)  # classes, of each the first test image


def fit(net: nn.Module, x: Tensor, y: Tensor, epochs: int) -> nn.Module:
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(100):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
    return net.eval().double()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mnist", help="folder of MNIST's files")
    parser.add_argument("--out", type=Path, required=True, help="folder")
    options = parser.parse_args()
    torch.manual_seed(0)
    data = open_images(ImageDataConfig(kind="mnist", path=options.mnist))
    assert data.labels is not None

    def part(indices) -> tuple[Tensor, Tensor]:
        pixels = to_float(torch.from_numpy(data.images[indices].copy()))
        return pixels, torch.from_numpy(data.labels[indices])

    train, (x, y) = part(data.train[:12_000]), part(data.test[:2_000])
    perceptron = nn.Sequential(
        nn.Flatten(), nn.Linear(1024, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(),
        nn.Linear(24, 10),
    )  # fmt: skip
    cnn = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(576, 10),
    )  # fmt: skip
    x, names = x.double(), [str(k) for k in range(10)]
    for net, epochs in ((perceptron, 4), (cnn, 2)):
        right = fit(net, *train, epochs)(x).argmax(1) == y
        print(f"{float(right.double().mean()):.3f} of {len(y):,} test images right")
    chosen = x[[int((y == k).nonzero()[0]) for k in SHOWN]]
    found = SplineLens(cnn).affine(chosen)
    for row, k in enumerate(SHOWN):
        print(f"a {k}: {'; '.join(top_names(found, names, row))}")
    print(found, SplineLens(cnn).walk(*chosen[:2]))
    template_figure(options.out / "lens_templates.png", chosen, found)
    plane = SplineLens(perceptron).slice(*plane_through(*chosen))
    corners = [(-0.5, -0.5), (0.5, -0.5), (-0.5, 0.5)]
    points = [(*at, str(k)) for at, k in zip(corners, SHOWN, strict=True)]
    slice_figure(options.out / "lens_plane.png", plane, classes=names, points=points)
    print(plane)


if __name__ == "__main__":
    main()
