"""What a grid of mesh autoencoders is made of, and its cells: a row each."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polygraph._checks import check_choice, check_positive
from polygraph._files import file_sha256
from polygraph.data import MeshDataConfig, MeshDataset, Split, open_dataset
from polygraph.models.mesh.presets import PRESETS
from polygraph.tasks.benchmark.rows import LINEAR, MEAN_SHAPE, linear_digest
from polygraph.tasks.mesh.depth import fit_to_mesh
from polygraph.tasks.mesh.training import MeshRunConfig, get_split, preset_run, write_array
from polygraph.train.checkpoint import seal, write_json
from polygraph.train.config import TrainConfig

DEFAULT_MODELS = (
    "first-order",
    "first-order-noact",
    "first-order-spiralnet++",
    "chebyshev",
    "gat",
    "feastnet",
    "monet",
    "edgeconv",
    "ecc",
    *(f"{kind}-2{rest}" for kind in ("simple", "full", "skip") for rest in ("", "-noact")),
    *(f"full-{order}{rest}" for order in (3, 4) for rest in ("", "-noact")),
    "full-2-batchnorm",
    *LINEAR,
)
SHOWN_MESHES = 8


@dataclass(frozen=True)
class Grid:
    """What a grid is made of.

    Attributes:
        data: the data sets; of each its ``split`` is replaced by each of ``splits``.
        models: presets (see :mod:`polygraph.models.mesh.presets`), ``pca`` and ``mean-shape``;
            patterns such as ``full-*`` stand for all that they fit.
        seeds: every network is trained once per seed.
        latents: numbers per mesh of every model.
        splits: names of splits.
        train: steps, schedule and the rest; its seed is replaced.
        settings: further fields of every run, such as ``normalization`` and ``loss`` (see
            :class:`polygraph.tasks.mesh.training.MeshRunConfig`).
    """

    data: tuple[MeshDataConfig, ...]
    models: tuple[str, ...] = DEFAULT_MODELS
    seeds: tuple[int, ...] = (0,)
    latents: tuple[int, ...] = (16,)
    splits: tuple[str, ...] = ("interpolation",)
    train: TrainConfig = field(default_factory=TrainConfig)
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Expand patterns, drop what is named twice, refuse what does not exist."""
        for name in ("data", "models", "seeds", "latents", "splits"):
            values = tuple(dict.fromkeys(getattr(self, name)))
            if not values:
                raise ValueError(f"benchmark: needs at least one of {name}, got none")
            object.__setattr__(self, name, values)
        object.__setattr__(self, "models", tuple(_expanded(self.models)))
        for latent in self.latents:
            check_positive("benchmark", latents=latent)

    def run_config(
        self, data: MeshDataConfig, split: str, latent: int, model: str, seed: int
    ) -> MeshRunConfig:
        """The run of a network."""
        return preset_run(
            model,
            replace(data, split=split),
            replace(self.train, seed=seed),
            latent_channels=latent,
            **self.settings,
        )


def _expanded(names: Sequence[str]) -> list[str]:
    known = [*PRESETS, *LINEAR]
    found: list[str] = []
    for name in names:
        matching = fnmatch.filter(known, name) if set(name) & set("*?[") else [name]
        if not matching:
            raise ValueError(f"benchmark: no model fits {name!r}; known: {', '.join(known)}")
        for model in matching:
            check_choice("benchmark", "models", model, known)
        found += matching
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class Cell:
    """One row to be: a network's run, or a linear model's fit (``config`` is None)."""

    dataset: MeshDataset
    split: Split
    latent: int
    model: str
    config: MeshRunConfig | None
    samples: NDArray[np.float32]
    folder: Path

    @property
    def cost_key(self) -> str:
        """Which cells cost the same: seeds and splits do not matter."""
        recipe = "" if self.config is None else f"{self.config.loss} {self.config.train.batch_size}"
        return f"{self.dataset.content_hash[:16]} {self.model} {self.latent} {recipe}".strip()


def make_cells(grid: Grid, folder: Path, say: Callable[[str], None]) -> Iterator[Cell]:
    """All cells; whole tables of one seed come before the next seed."""
    opened: dict[str, tuple[MeshDataConfig, MeshDataset]] = {}
    for data in grid.data:
        dataset = open_dataset(replace(data, split=grid.splits[0]))
        name = _file_name(dataset.name)
        if name in opened:
            raise ValueError(f"benchmark: two data sets are called {name!r}: rename a folder")
        opened[name] = (data, dataset)
    places: list[tuple[str, MeshDataConfig, MeshDataset, Split, NDArray[np.float32]]] = []
    for name, (data, dataset) in opened.items():
        for split_name in grid.splits:
            split = get_split(dataset, split_name)
            sizes = f"{len(split.train):,} + {len(split.val):,} + {len(split.test):,}"
            say(
                f"{dataset.name}, {split_name}: {dataset.num_vertices:,} vertices, {sizes} meshes "
                "to train, choose and test"
            )
            samples = dataset.gather(_shown(split))
            places.append((name, data, dataset, split, samples))
    for seed in grid.seeds:
        for name, data, dataset, split, samples in places:
            for latent in grid.latents:
                for model in grid.models:
                    where = folder / "runs" / name / _file_name(split.name)
                    if model not in LINEAR:
                        config = grid.run_config(data, split.name, latent, model, seed)
                        config = fit_to_mesh(config, dataset)
                        place = where / f"latent-{latent}" / f"{model}-seed{seed}"
                        run = place.with_name(f"{place.name}-{config.digest()[:8]}")
                        yield Cell(dataset, split, latent, model, config, samples, run)
                        continue
                    numbers = 0 if model == MEAN_SHAPE else latent
                    if seed != grid.seeds[0] or (not numbers and latent != grid.latents[0]):
                        continue
                    digest = linear_digest(model, numbers, dataset, split)
                    run = where / f"latent-{numbers}" / f"{model}-{digest[:8]}"
                    yield Cell(dataset, split, numbers, model, None, samples, run)


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", name).strip(".-") or "data"


def _shown(split: Split) -> NDArray[np.int64]:
    """The test meshes that the report shows, from all over the split."""
    count = min(SHOWN_MESHES, len(split.test))
    chosen: NDArray[np.int64] = split.test[
        np.linspace(0, len(split.test) - 1, count).round().astype(int)
    ]
    return chosen


def write_shown(cells: Sequence[Cell], folder: Path) -> None:
    """Write the meshes that the report shows, of each data set and split once."""
    places = {(_file_name(c.dataset.name), _file_name(c.split.name)): c for c in cells}
    for (data, split), cell in places.items():
        place = folder / "meshes" / data / split
        place.mkdir(parents=True, exist_ok=True)
        write_array(place.parent / "faces.npy", cell.dataset.faces.astype(np.int32))
        write_array(place / "inputs.npy", cell.samples)
        indices = _shown(cell.split)
        frames = cell.dataset.frames or [{} for _ in range(len(cell.dataset))]
        labels = [frame_label(frames[index]) for index in indices]
        files = {p.name: file_sha256(p) for p in (place.parent / "faces.npy", place / "inputs.npy")}
        about = {
            "indices": indices.tolist(),
            "labels": labels,
            "up": cell.dataset.up,
            "files": files,
        }
        write_json(place / "samples.json", seal(about))


def frame_label(frame: Any) -> str:
    """Of which clip and which frame a mesh is, or its file: a folder without folders is no clip."""
    names = ("file",) if frame.get("clip") == "." else ("clip", "frame")
    return " ".join(str(frame[name]) for name in names if name in frame)
