"""Yardsticks of denoising: what is known of the pictures, the noise and the measure, once more.

    python benchmarks/denoise_yardsticks.py DATA/denoise --sigma 25 --out results/NAME/known.json

DATA holds ``BSD68`` and ``Set12`` (grey PNG) and, where there are any, ``dncnn/sigma25.mat``, the
authors' weights of DnCNN-S. Noisy pictures must read 24.61, 20.17 and 14.15 dB at 15, 25 and 50;
published on BSD68 at 25 are BM3D 28.57 and DnCNN 29.23 dB. Other denoisers are scikit-image's, and
BM3D where its package, which is free for non-commercial use alone, is installed.

``--runs`` adds runs of `polygraph train denoise`, measured on the same noise.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import provenance
from torch import Tensor, nn

from polygraph.data.pictures import read_pixels
from polygraph.models import denoise_tiles
from polygraph.tasks.denoise.measure import (
    COLUMNS,
    as_float,
    measure_row,
    noise_of,
    summarize_rows,
)
from polygraph.tasks.denoise.run import load_run

Denoise = Callable[[Tensor], Tensor]


def by_array(call: Callable[[Any], Any]) -> Denoise:
    """A function of arrays ``[H, W]`` as one of tensors ``[1, H, W]``."""
    return lambda noisy: torch.from_numpy(np.asarray(call(noisy[0].numpy()), np.float32))[None]


def classical(sigma: float) -> Iterator[tuple[str, Denoise]]:
    """Denoisers that know the noise and nothing of other pictures."""
    unit = sigma / 255
    yield "noisy", lambda noisy: noisy
    try:
        from skimage import restoration
    except ImportError:
        print("scikit-image is not installed: no non-local means, total variation or wavelets")
    else:
        # As its documentation has them: patches of 5 within 6 pixels, h of 0.6 of the deviation.
        yield (
            "non-local means",
            by_array(
                lambda a: restoration.denoise_nl_means(
                    a, patch_size=5, patch_distance=6, h=0.6 * unit, sigma=unit, fast_mode=True
                )
            ),
        )
        yield (
            "total variation",
            by_array(lambda a: restoration.denoise_tv_chambolle(a, weight=1.2 * unit)),
        )
        yield (
            "wavelets",
            by_array(
                lambda a: restoration.denoise_wavelet(
                    a, sigma=unit, rescale_sigma=False, wavelet="db2"
                )
            ),
        )
    try:
        import bm3d
    except ImportError:
        print("bm3d is not installed: no BM3D")
    else:
        yield "BM3D", by_array(lambda a: bm3d.bm3d(a, unit))


class Published(nn.Module):
    """DnCNN-S with the authors' weights, whose batch normalisation is part of the convolutions."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        import h5py  # the files are MATLAB's version 7.3

        layers: list[nn.Module] = []
        with h5py.File(path) as file:
            for (reference,) in file["net/layers"]:
                layer = file[reference]
                if bytes(layer["type"][:].ravel().tolist()) != b"conv":
                    layers.append(nn.ReLU())
                    continue
                weight, bias = (file[part][()].astype(np.float32) for (part,) in layer["weights"])
                weight = weight if weight.ndim == 4 else weight[None]  # a last size of 1 is lost
                conv = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1)
                conv.weight.data = torch.from_numpy(weight.swapaxes(2, 3).copy())
                conv.bias.data = torch.from_numpy(bias.ravel())
                layers.append(conv)
        self.layers = nn.Sequential(*layers)

    def forward(self, y: Tensor) -> Tensor:
        return y - self.layers(y)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--sigma", type=float, default=25)
    parser.add_argument("--sets", nargs="+", default=["BSD68", "Set12"])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these denoisers alone")
    parser.add_argument("--runs", nargs="+", type=Path, default=[])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    denoisers = dict(classical(chosen.sigma))
    weights = chosen.data / f"dncnn/sigma{chosen.sigma:g}.mat"
    if weights.is_file():
        published = Published(weights).eval()
        denoisers["DnCNN, authors' weights"] = lambda noisy: denoise_tiles(published, noisy)
    for folder in chosen.runs:
        model = load_run(folder).model
        denoisers[folder.name] = lambda noisy, model=model: denoise_tiles(model, noisy)
    rows = []
    for name in chosen.sets:
        files = sorted((chosen.data / name).glob("*.png"))
        pictures = [as_float(read_pixels(file, 1)) for file in files]
        for denoiser, call in denoisers.items():
            if chosen.only and denoiser not in chosen.only:
                continue
            start, measured = time.process_time(), []
            for place, clean in enumerate(pictures):
                noise = noise_of(clean.shape, chosen.sigma, chosen.seed, place)
                noisy = clean + torch.from_numpy(noise)
                measured.append(measure_row(call(noisy), noisy, clean))
            found = summarize_rows(np.array(measured), [file.name for file in files])
            each = found.pop("per_picture")
            row = {"set": name, "denoiser": denoiser, "sigma": chosen.sigma, "seed": chosen.seed}
            row |= found | {"processor_seconds": round(time.process_time() - start, 1)}
            row["per_picture_psnr"] = [round(each[file.name]["psnr"], 3) for file in files]
            rows.append(row | provenance("cpu"))
            means = ", ".join(f"{column} {found[column]:.3f}" for column in COLUMNS)
            print(f"{name}, {denoiser}: {means}", flush=True)
            if chosen.out is not None:
                chosen.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
