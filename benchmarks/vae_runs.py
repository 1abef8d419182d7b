"""Variational autoencoders side by side: what their likelihoods, weights and decoders are worth.

    python benchmarks/vae_runs.py images FASHION-MNIST --out results/NAME/vae_images.json
    python benchmarks/vae_runs.py meshes BODIES --out results/NAME/vae_meshes.json

``images``: one network, five objectives: σ-VAE, a variance of 1 with sums (``unit``), the mean over
pixels in the place of the sum (``mean``, which is a weight of half the number of pixels), and σ-VAE
with weights 0.1 and 4. ``--score N`` adds FID and more of N samples, by a LeNet that is trained on
the same images.

``meshes``: autoencoders and variational ones of first order and of order 2, at equal steps, and
principal components. Each is judged by reconstruction of test meshes, and by meshes that it draws:
of the prior, and of a Gaussian fitted to the codes of the training meshes.

Runs lie in ``--runs``; those that are done are read again. ``--steps`` and ``--width`` make small
ones. Rows say what they are of.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from polygraph.analysis import CodeGaussian, decode_codes, encode_meshes
from polygraph.data import ImageDataConfig, MeshDataConfig, open_images
from polygraph.data.config import open_dataset
from polygraph.metrics import ShapeScores, shape_scores, summarize
from polygraph.models import PCA, ImageVAEConfig
from polygraph.tasks import mesh, vae
from polygraph.tasks.gan.scores import Scorer
from polygraph.tasks.mesh.training import get_split, model_errors, preset_run, train_mesh
from polygraph.tasks.vae.training import VaeRunConfig, train_vae, vae_train_config
from polygraph.train.config import TrainConfig
from polygraph.train.variational import ObjectiveConfig

KEPT = ("config_hash", "dataset", "commit", "torch", "machine", "steps", "parameters")
LATENT = 16  # of meshes

Row = dict[str, Any]


def objectives(pixels: int) -> dict[str, tuple[dict[str, Any], ObjectiveConfig]]:
    """Settings of the model and of the objective, by name."""
    unit = {"likelihood": "fixed", "variance": 1.0}
    return {
        "sigma": ({}, ObjectiveConfig()),
        "unit": (unit, ObjectiveConfig()),
        "mean": (unit, ObjectiveConfig(beta=pixels / 2)),
        "sigma-beta-0.1": ({}, ObjectiveConfig(beta=0.1)),
        "sigma-beta-4": ({}, ObjectiveConfig(beta=4.0)),
    }


def energy(images: torch.Tensor) -> float:
    """Mean square of what a Laplacian sees in images ``[N, 1, H, W]`` in [-1, 1]: sharpness."""
    kernel = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])
    found = torch.nn.functional.conv2d(images.float(), kernel[None, None])
    return float(found.square().mean())


def image_rows(chosen: argparse.Namespace) -> list[Row]:
    """A row for each objective."""
    data = ImageDataConfig("fashion-mnist", chosen.data, channels=1)
    dataset = open_images(data)
    real = energy(dataset.batch(dataset.test[:1000]))
    width = chosen.width
    model = ImageVAEConfig(1, 32, (width, 2 * width, 4 * width))
    rows = []
    for name, (settings, objective) in objectives(model.size**2).items():
        length = {"steps": chosen.steps} if chosen.steps else {}
        train = vae_train_config(
            **length, batch_size=chosen.batch, seed=chosen.seed, num_threads=1, accelerator="cpu"
        )
        config = VaeRunConfig(replace(model, **settings), data, train, objective, name)
        folder = Path(chosen.runs) / f"images-{name}"
        if not (folder / "result.json").is_file():
            train_vae(config, folder, resume=True, dataset=dataset, say=print)
        run = vae.load(folder)
        drawn = run.model.sample(500, seed=0)
        row: Row = {"variant": name, **{key: run.result[key] for key in KEPT}}
        row |= {"batch_size": chosen.batch, "width": width}
        row["test"] = run.result["test"]
        row["importance"] = replace(run, dataset=dataset).evaluate(
            count=chosen.count, importance=64
        )
        codes = run.encode(dataset.images[dataset.test[:1000]])
        row["reconstruction_rmse"] = float(
            (run.model.decode(codes) - dataset.batch(dataset.test[:1000])).square().mean().sqrt()
        )
        row["energy_of_samples"], row["energy_of_test"] = energy(drawn), real
        if chosen.score:
            scorer = Scorer(dataset, Path(chosen.runs) / "classifier", chosen.score)
            row["scores"] = scorer(run.model.decoder)
        rows.append(row)
        print(
            f"{name}: ELBO {row['test']['elbo']:.1f}, KL {row['test']['kl']:.1f}, active "
            f"{row['test']['active_units']}, bits {row['test']['bits_per_dim']:.3f}, energy "
            f"{row['energy_of_samples'] / real:.2f}",
            flush=True,
        )
    return rows


def mesh_rows(chosen: argparse.Namespace) -> list[Row]:
    """A row for each network, and one for principal components."""
    data = MeshDataConfig("registered", chosen.data)
    dataset = open_dataset(data)
    split = get_split(dataset, data.split)
    train = dataset.vertices[split.train]
    test = dataset.vertices[split.test[:: max(1, len(split.test) // chosen.drawn)]]

    def scored(drawn: Any) -> ShapeScores | None:
        good = bool(np.isfinite(np.asarray(drawn)).all())
        return shape_scores(drawn, train, test, to_mm=dataset.to_mm) if good else None

    rows = [_pca_row(dataset, split, scored, chosen)]
    print(_line(rows[0]), flush=True)
    for name in ("first-order", "vae-first-order", "full-2", "vae-full-2"):
        config = preset_run(
            name,
            data,
            TrainConfig(
                steps=chosen.steps or 3000,
                batch_size=chosen.batch,
                learning_rate=chosen.rate,
                schedule="cosine",
                weight_decay=0.0,
                seed=chosen.seed,
                num_threads=1,
                accelerator="cpu",
            ),
            latent_channels=LATENT,
            normalization="shared",
            loss="distance",
        )
        folder = Path(chosen.runs) / f"meshes-{name}"
        if not (folder / "result.json").is_file():
            train_mesh(config, folder, resume=True, dataset=dataset, say=print)
        run = mesh.load(folder)
        row: Row = {"variant": name, **{key: run.result[key] for key in KEPT}}
        row["test_mm"] = run.result["test"]["mean"]
        row["batch_size"] = chosen.batch
        if run.model.config.variational:
            row["bounds"] = run.result["bounds"]["test"]
            row["sigma_mm"] = run.result["sigma_mm"]
            row["prior"] = _summary(scored(run.model.sample(chosen.drawn, seed=0)))
        gaussian = CodeGaussian.fit(encode_meshes(run.model, dataset.vertices, split.train))
        drawn = decode_codes(run.model, gaussian.sample(chosen.drawn, seed=0))
        row["codes"] = _summary(scored(drawn.astype(np.float32)))
        rows.append(row)
        print(_line(row), flush=True)
    return rows


def _pca_row(dataset: Any, split: Any, scored: Any, chosen: argparse.Namespace) -> Row:
    pca = PCA.fit(dataset.vertices, LATENT, indices=split.train)
    generator = np.random.default_rng(0)
    z = generator.standard_normal((chosen.drawn, LATENT)) * np.sqrt(pca.variance)
    errors: NDArray[np.float64] = model_errors(
        _Linear(pca), dataset.vertices, split.test, dataset.to_mm
    )
    return {
        "variant": "pca",
        "test_mm": summarize(errors).mean,
        "codes": _summary(scored(pca.decode(z).astype(np.float32))),
    }


class _Linear(torch.nn.Module):
    """Principal components as a model."""

    def __init__(self, pca: PCA) -> None:
        super().__init__()
        self.pca = pca
        self.mean = torch.zeros(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pca.reconstruct(x)


def _summary(scores: ShapeScores | None) -> dict[str, float] | None:
    return None if scores is None else scores.summary()


def _line(row: Row) -> str:
    parts = [f"{row['variant']}: test {row['test_mm']:.2f} mm"]
    for source in ("prior", "codes"):
        if row.get(source) is not None:
            found = row[source]
            parts.append(
                f"{source}: specificity {found['specificity']:.2f} (test "
                f"{found['test_specificity']:.2f}), coverage {found['coverage']:.2f}, diversity "
                f"{found['diversity']:.1f} (test {found['test_diversity']:.1f})"
            )
    return "; ".join(parts)


def main() -> None:
    """Train what is not trained, and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("subject", choices=("images", "meshes"))
    parser.add_argument("data", help="folder of Fashion-MNIST, or of meshes")
    parser.add_argument("--out", required=True, help="JSON of the rows")
    parser.add_argument("--runs", default="vae-runs", help="folder of the runs")
    parser.add_argument("--steps", type=int, help="default: 10 epochs of images, 3000 of meshes")
    parser.add_argument("--batch", type=int, help="default: 128 images, 16 meshes")
    parser.add_argument("--width", type=int, default=32, help="features of the first layer")
    parser.add_argument("--rate", type=float, default=5e-3, help="of meshes")
    parser.add_argument("--drawn", type=int, default=100, help="meshes of each score")
    parser.add_argument("--count", type=int, default=500, help="images of the tighter bound")
    parser.add_argument("--score", type=int, default=0, help="images of FID; 0: none")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    chosen.batch = chosen.batch or (128 if chosen.subject == "images" else 16)
    rows = image_rows(chosen) if chosen.subject == "images" else mesh_rows(chosen)
    Path(chosen.out).write_text(json.dumps(rows, indent=1) + "\n")
    print(f"wrote {chosen.out}")


if __name__ == "__main__":
    main()
