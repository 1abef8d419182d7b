"""Neighbours by the partition distance at every layer of a small CNN, trained and untrained.

    python benchmarks/codes_runs.py CIFAR10 --out results/NAME

Writes ``codes.json``, a row for each network and layer: of 500 test images the share of their class
among the 15 nearest of 5,000 training images, the distance of these in pixels, how many of them
are among the 15 nearest in pixels, and how many regions of the layer the training images occupy.
And ``codes_neighbours.png``: the neighbours of some test images, after figure 4 of Balestriero and
Baraniuk, ICML 2018. The last layer chooses nothing: there, logits are compared by their distance.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from small_cnn import Part, accuracy, fit, open_parts, write_rows
from torch import Tensor, nn

from polygraph.analysis import PackedCodes, SplineLens, code_neighbors, pack_codes, region_counts
from polygraph.models import SplineCNN, SplineCNNConfig
from polygraph.report.figures import save_figure
from polygraph.report.render import pyplot

BANK, QUERIES, EPOCHS, K = 5000, 500, 8, 15
NETWORKS = {  # whether there is BatchNorm, epochs
    "trained": (False, EPOCHS),
    "untrained": (False, 0),
    "batchnorm": (True, EPOCHS),
}
SHOWN = (1, 4)  # test images of the picture, of which classes are easy and hard
OUTPUT = "logits"


def packed(lens: SplineLens, x: Tensor) -> PackedCodes:
    return PackedCodes.cat([pack_codes(lens.codes(part)) for part in x.split(250)])


def nearest(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The `K` rows of x that are nearest to each row of y, by distance, and all distances."""
    apart = torch.cdist(y.flatten(1), x.flatten(1))
    return apart.topk(K, largest=False).indices, apart


@torch.no_grad()
def measure(name: str, model: nn.Module, bank: Part, queries: Part) -> tuple[list[Any], list[Any]]:
    """Rows of the layers, and their lists of neighbours."""
    lens = SplineLens(model)
    codes, asked = packed(lens, bank[0]), packed(lens, queries[0])
    by_pixel, apart = nearest(bank[0], queries[0])
    outputs = [torch.cat([model(p) for p in x.split(250)]) for x, _ in (bank, queries)]
    rows, lists = [], []
    for layer in [*codes.sites, OUTPUT]:
        start = time.perf_counter()
        if layer == OUTPUT:
            index, counts = nearest(*outputs)[0], None
        else:
            index = code_neighbors(asked, codes, K, [layer])[0]
            counts = region_counts(codes, [layer])
        seconds = time.perf_counter() - start
        same = (bank[1][index] == queries[1][:, None]).double().mean()
        shared = (index[:, :, None] == by_pixel[:, None]).any(2).double().mean()
        rows.append({
            "network": name, "layer": layer, "seed": 0, "purity": round(float(same), 4),
            "pixel_distance": round(float(apart.gather(1, index).mean()), 3),
            "pixel_overlap": round(float(shared), 4),
            "choices": None if counts is None else codes.entries[layer],
            "occupied": None if counts is None else counts.occupied,
            "lonely": None if counts is None else counts.lonely,
            "seconds": round(seconds, 2),
        })  # fmt: skip
        print(rows[-1], flush=True)
        lists.append(index)
    whole = region_counts(codes)
    for row in rows:
        row |= {"occupied_network": whole.occupied, "lonely_network": whole.lonely}
    same = (bank[1][by_pixel] == queries[1][:, None]).double().mean()
    pixel = {"purity": round(float(same), 4)}
    pixel["pixel_distance"] = round(float(apart.gather(1, by_pixel).mean()), 3)
    rows.append({"network": name, "layer": "pixels", "seed": 0, **pixel})
    return rows, lists


def picture(path: Path, bank: Part, queries: Part, lists: list[Any], layers: list[str]) -> None:
    """Of each test image its neighbours, a row for each layer."""
    plt = pyplot()
    high, wide = len(layers), K + 1
    figure, all_axes = plt.subplots(
        len(SHOWN) * high, wide, figsize=(0.62 * wide + 1, 0.66 * high * len(SHOWN)),
        gridspec_kw={"wspace": 0.04, "hspace": 0.04},
    )  # fmt: skip

    def show(axes: Any, image: Tensor, frame: str | None) -> None:
        low, top = image.min(), image.max()
        axes.imshow(((image - low) / (top - low)).permute(1, 2, 0).numpy())
        axes.set(xticks=[], yticks=[])
        for spine in axes.spines.values():
            spine.set(visible=frame is not None, color=frame, linewidth=2)

    for block, query in enumerate(SHOWN):
        for line, (layer, index) in enumerate(zip(layers, lists, strict=True)):
            axes = all_axes[block * high + line]
            show(axes[0], queries[0][query], None)
            axes[0].set_ylabel(layer, rotation=0, ha="right", va="center", fontsize=8)
            for place, n in enumerate(index[query].tolist(), 1):
                right = bank[1][n] == queries[1][query]
                show(axes[place], bank[0][n], "#009e73" if right else None)
    save_figure(plt, figure, path)
    with Image.open(path) as drawn:  # a third of the bytes
        drawn.convert("RGB").quantize(200).save(path, optimize=True)


def main() -> None:
    """All networks, from one seed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("cifar10", help="folder of CIFAR-10's binary files")
    parser.add_argument("--out", type=Path, required=True, help="folder")
    options = parser.parse_args()
    torch.set_num_threads(1)
    bank, queries = open_parts("cifar10", options.cifar10, BANK, QUERIES)
    rows = []
    for name, (norm, epochs) in NETWORKS.items():
        torch.manual_seed(0)
        model = fit(SplineCNN(SplineCNNConfig(batch_norm=norm)), bank, epochs)
        scores = {
            "train_accuracy": accuracy(model, bank),
            "test_accuracy": accuracy(model, queries),
        }
        print(name, scores, flush=True)
        found, lists = measure(name, model, bank, queries)
        rows += [{**row, **scores, "epochs": epochs} for row in found]
        if name == "trained":
            layers = ["ReLU 1", "pool 1", "ReLU 2", "pool 2", "ReLU 3", "logits"]
            picture(options.out / "codes_neighbours.png", bank, queries, lists, layers)
    write_rows(options.out / "codes.json", rows)


if __name__ == "__main__":
    main()
