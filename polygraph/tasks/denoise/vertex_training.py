"""Training of denoisers of vertices: what the loop needs to know of them, and a run's folder.

Noise is Gaussian, alike in all directions, and told in a unit of each clean shape: the mean length
of its edges, of a cloud a hundredth of the diagonal of its bounding box. The loss is the mean
squared error of the noise that the network finds, in that unit. The validation shapes select the
weights; the test shapes are measured once, beside Laplacian and Taubin smoothing, whose number of
steps the validation shapes select, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from polygraph._arrays import array_sha256
from polygraph._checks import check_numbers
from polygraph.data.known import remember
from polygraph.data.vertex_sets import (
    PARTS,
    UNITS,
    VertexDataConfig,
    VertexSet,
    noise_unit,
    open_vertices,
)
from polygraph.mesh.spiral import spiral_table
from polygraph.models.denoiser.vertices import (
    VERTEX_PRESETS,
    VertexDenoiser,
    VertexDenoiserConfig,
)
from polygraph.tasks.denoise.smoothing import (
    PEERS,
    best_steps,
    neighbour_mean,
    smooth,
    vertex_error,
)
from polygraph.train.config import TrainConfig, config_hash
from polygraph.train.distributed import gather_rows, shard
from polygraph.train.frame import run_supervised
from polygraph.train.log import Say
from polygraph.train.supervised import SupervisedTask, evaluating
from polygraph.train.vertex_batches import VertexBatches

KIND = "denoise-vertices"  #: of a run, see `polygraph.train.recorded.KINDS`
DEFAULT_VERTEX_PRESET = "vertex-light"
#: kind of the data -> noise where none is asked for, in its unit
DEFAULT_SIGMA = {"mesh": (0.2,), "cloud": (1.0,)}
VERTEX_RECIPE: dict[str, Any] = {
    "steps": 2000,
    "batch_size": 4,
    "learning_rate": 1e-3,
    "schedule": "cosine",
    "weight_decay": 0.0,
    "eval_every": 250,
}  #: where it differs from the defaults of `TrainConfig`
_MOST_SIGMA = 100.0
_GENERATOR = "numpy.random.default_rng([noise_seed, place]).standard_normal"
_MEASURES = ("error", "noisy_error", *(f"{peer}_error" for peer in PEERS))


@dataclass(frozen=True)
class VertexRunConfig:
    """Everything that decides about a denoiser of vertices.

    Attributes:
        model: the network; its kind is that of the data.
        data: clean shapes, and which of them validate and test.
        train: steps, batch, optimiser, schedule, seed.
        preset: name that the model's settings started from; for people.
        sigma: standard deviation of the noise of each coordinate, in mean edge lengths of the clean
            mesh (of clouds: in hundredths of the diagonal of the bounding box); or two, the least
            and the largest, between which each shape's is drawn.
        points: of clouds: points of a patch.
        val_shapes: measure at most so many shapes when validating.
        noise_seed: of the noise that shapes are validated and tested with.
    """

    model: VertexDenoiserConfig = field(
        default_factory=lambda: VERTEX_PRESETS[DEFAULT_VERTEX_PRESET]
    )
    data: VertexDataConfig = field(default_factory=VertexDataConfig)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(**VERTEX_RECIPE))
    preset: str = ""
    sigma: tuple[float, ...] = (0.2,)
    points: int = 512
    val_shapes: int = 16
    noise_seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that cannot train."""
        check_numbers("train", self, ("noise_seed",))
        if type(self.model) is not VertexDenoiserConfig:
            raise TypeError(f"train: model must be a VertexDenoiserConfig, got {self.model!r}")
        sigma = tuple(self.sigma)
        good = len(sigma) in (1, 2) and all(0 < s <= _MOST_SIGMA for s in sigma)
        if not good or sigma[0] > sigma[-1]:
            raise ValueError(
                "train: sigma must be one number, or two that do not fall, above 0 and at most "
                f"{_MOST_SIGMA:g} ({UNITS[self.data.kind]}s), got {list(sigma)}"
            )
        object.__setattr__(self, "sigma", sigma)
        object.__setattr__(self, "model", replace(self.model, kind=self.data.kind))
        for name, most in (("points", 2**20), ("val_shapes", 2**20)):
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(
                    f"train: {name} must be from 1 to {most}, got {getattr(self, name)}"
                )
        if self.noise_seed < 0:
            raise ValueError(f"train: noise_seed must be at least 0, got {self.noise_seed}")

    @property
    def levels(self) -> tuple[float, ...]:
        """The noise that shapes are measured with: of a range its ends and its middle."""
        low, high = self.sigma[0], self.sigma[-1]
        return (low,) if low == high else (low, (low + high) / 2, high)

    def semantics(self) -> dict[str, Any]:
        """What decides about the weights, besides the loop's settings and the shapes."""
        own = {name: getattr(self, name) for name in ("points", "val_shapes", "noise_seed")}
        return {"model": asdict(self.model), "sigma": list(self.sigma), **own}

    def digest(self) -> str:
        """SHA-256 of what decides about the weights, the loop's settings among them."""
        return config_hash({**self.semantics(), "train": self.train.semantics()})


class VertexLoss(nn.Module):
    """Mean squared error of the noise that a denoiser finds, in the unit of the noise."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, clean: Tensor, noise: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
        """Of shapes ``[B, V, 3]`` and units ``[B, 1, 1]``.

        Returns:
            The loss, and the mean vertex error over that of what is noisy.
        """
        wrong = (self.model(clean + noise) - clean) / unit
        loss = functional.mse_loss(wrong, torch.zeros_like(wrong))
        length = wrong.detach().norm(dim=-1).mean() / (noise / unit).norm(dim=-1).mean()
        return loss, length


class VertexTask(SupervisedTask):
    """A denoiser of vertices, its optimizer, its shapes.

    Args:
        fabric: launched Fabric.
        config: the run's; ``config.model`` is not looked at.
        model: maps noisy vertices ``[B, V, 3]`` to clean ones, on the CPU.
        dataset: the shapes.
    """

    score = "val_score"

    def __init__(
        self, fabric: Any, config: VertexRunConfig, model: nn.Module, dataset: VertexSet
    ) -> None:
        train = dataset.parts["train"]
        names = ("loss", "ratio")
        super().__init__(fabric, config.train, model, VertexLoss(model), len(train), names)
        self.run, self.dataset = config, dataset
        self.batches = VertexBatches(
            dataset.shapes,
            train,
            config.train,
            config.sigma,
            edges=dataset.edges,
            points=config.points if dataset.kind == "cloud" else None,
            device=self.device,
            dtype=self.dtype,
            rank=fabric.global_rank,
            world=fabric.world_size,
        )

    def batch(self, step: int) -> tuple[Tensor, ...]:
        """Clean shapes, noise and its unit."""
        return self.batches(step)

    def validate(self) -> dict[str, float]:
        """Errors of the first shapes that validate; their ratio decides."""
        found = self._measured(self.dataset.parts["val"][: self.run.val_shapes], peers=False)
        values = {f"val_{name}": found[name] for name in ("error", "noisy_error", "ratio")}
        return {**values, "val_score": found["ratio"]}

    def measure(self, numbers: Sequence[int]) -> dict[str, Any]:
        """What `measure_vertices` gives of some shapes, with the peers."""
        return self._measured(numbers, peers=True)

    def _measured(self, numbers: Sequence[int], peers: bool) -> dict[str, Any]:
        validating = self.dataset.parts["val"][: self.run.val_shapes] if peers else ()
        return measure_vertices(
            self.model,
            self.dataset,
            numbers,
            self.run.levels,
            self.run.noise_seed,
            validating=validating,
            fabric=self.fabric,
        )


def noisy_shape(
    shape: NDArray[np.float32],
    edges: NDArray[np.int64] | None,
    sigma: float,
    seed: int,
    place: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A clean shape and the noisy one that it is measured with, a function of these alone.

    Args:
        shape: ``[V, 3]``.
        edges: of a mesh ``[E, 2]``; None of a cloud.
        sigma: standard deviation, in the unit of `noise_unit`.
        seed: of the run's noise.
        place: of the shape in its part.
    """
    clean = np.asarray(shape, np.float64)
    drawn = np.random.default_rng([seed, place]).standard_normal(clean.shape)
    return clean, clean + noise_unit(clean, edges) * sigma * drawn


def denoise_vertices(model: nn.Module, noisy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Vertices ``[V, 3]`` without their noise, as precise as given: the noise alone is rounded."""
    parameter = next(model.parameters())
    middle = noisy.mean(0)
    y = torch.from_numpy(noisy - middle).to(parameter.device, parameter.dtype)
    with evaluating(model):
        noise: Any = model.noise(y[None])[0]  # type: ignore[operator]
    found: NDArray[np.float64] = noisy - noise.double().cpu().numpy()
    return found


def measure_vertices(
    model: nn.Module,
    dataset: VertexSet,
    numbers: Sequence[int],
    levels: Sequence[float],
    seed: int,
    *,
    validating: Sequence[int] = (),
    fabric: Any = None,
) -> dict[str, Any]:
    """Mean distances of vertices from where they belong, in the unit of the files.

    Args:
        model: the network.
        dataset: holds the shapes.
        numbers: which of them; the place in this list decides about a shape's noise.
        levels: standard deviations, in the unit of the noise.
        seed: of the noise.
        validating: shapes with which the number of steps of the peers is chosen; none: without
            peers.
        fabric: shares the shapes among its processes; None: there is one.

    Returns:
        Means over levels and shapes: ``error``, ``noisy_error``, their quotient ``ratio``, and with
        peers ``laplacian_error`` and ``taubin_error``; ``num_shapes``; ``levels``: the same of each
        level, with ``steps`` of the peers; ``unit`` of the noise in words, and ``noise``:
        generator and seed.
    """
    places = np.arange(len(numbers), dtype=np.int64)
    mine = places if fabric is None else shard(places, fabric)
    edges, found = dataset.edges, {}
    for level in levels:
        steps: dict[str, int] = {}
        if validating:
            pairs = [
                noisy_shape(dataset.shapes[n], edges, level, seed + 1, place)
                for place, n in enumerate(validating)
            ]
            steps = best_steps([y for _, y in pairs], [x for x, _ in pairs], edges)
        rows = []
        for place in mine:
            shape = dataset.shapes[numbers[place]]
            clean, noisy = noisy_shape(shape, edges, level, seed, int(place))
            row = [vertex_error(denoise_vertices(model, noisy), clean), vertex_error(noisy, clean)]
            if steps:
                mean = neighbour_mean(noisy, edges)
                for peer, factors in PEERS.items():
                    made = smooth(noisy, mean, factors, steps[peer])
                    row.append(vertex_error(made, clean))
            rows.append(row)
        mined = np.array(rows) if rows else None
        every = mined if fabric is None else gather_rows(mined, len(numbers), fabric)
        assert every is not None
        means = every.mean(0).tolist()
        found[f"{level:g}"] = {
            **dict(zip(_MEASURES, means, strict=False)),
            "ratio": means[0] / means[1],
            **({"steps": steps} if steps else {}),
        }
    first = next(iter(found.values()))
    names = [name for name in first if name != "steps"]
    means = {name: float(np.mean([level[name] for level in found.values()])) for name in names}
    means["ratio"] = means["error"] / means["noisy_error"]
    return {
        "num_shapes": len(numbers),
        **means,
        "levels": found,
        "unit": UNITS[dataset.kind],
        "noise": {"generator": _GENERATOR, "seed": seed},
    }


def make_vertex_denoiser(config: VertexDenoiserConfig, dataset: VertexSet) -> VertexDenoiser:
    """The network of a config, on the topology of the meshes where they are meshes."""
    if dataset.template is None:
        return VertexDenoiser(config)
    spirals = spiral_table(dataset.template, dataset.faces, hops=2, length=config.spiral_length)
    return VertexDenoiser(config, spirals, np.array(dataset.faces, np.int64))


def check_vertices_fit(config: VertexRunConfig, dataset: VertexSet) -> None:
    """Refuse shapes that are smaller than what the network sees.

    Raises:
        ValueError: names the shape.
    """
    least = config.model.smallest
    if dataset.kind == "cloud" and config.points < least:
        raise ValueError(
            f"train: points must be at least {least} for this model, got {config.points}"
        )
    for part in PARTS:
        wanted = config.points if dataset.kind == "cloud" and part == "train" else least
        for n in dataset.parts[part]:
            if len(dataset.shapes[n]) < wanted:
                raise ValueError(
                    f"{dataset.name}: {dataset.label(n)} ({part}) must have at least {wanted} "
                    f"vertices, got {len(dataset.shapes[n])}"
                )


def train_vertices(
    config: VertexRunConfig,
    folder: str | Path,
    *,
    resume: bool = False,
    dataset: VertexSet | None = None,
    say: Say | None = None,
) -> dict[str, Any]:
    """Train, select on the validation shapes, measure the test shapes once, beside the peers.

    A run that was resumed ends with the same bits as one that was never stopped.

    Args:
        config: the run.
        folder: receives ``run.json``, ``last.safetensors``, ``best.safetensors``, ``log.jsonl``,
            ``curve.csv`` and ``result.json``; enough to use the denoiser without the data.
        resume: go on from the last checkpoint when there is one.
        dataset: opened already; default: opened from ``config.data``.
        say: called with lines for people: what is trained on, and what goes wrong.

    Returns:
        What ``result.json`` holds, the same on every process: ``test`` and ``val`` (of
        `measure_vertices`), ``parameters``, ``seconds`` and what the run was.

    Raises:
        ValueError: the data are bad, or do not fit the model.
        CheckpointError: the folder holds another run, or one and ``resume`` is False.
        TrainingStopped: a loss that is not finite, a full disk, no memory.
    """
    folder = Path(folder)
    shapes = open_vertices(config.data) if dataset is None else dataset
    remember(config.data.kind, config.data.path, config.data.cache_dir)
    check_vertices_fit(config, shapes)
    counts = {part: len(shapes.parts[part]) for part in PARTS}

    def make(fabric: Any) -> VertexTask:
        torch.manual_seed(config.train.seed)
        return VertexTask(fabric, config, make_vertex_denoiser(config.model, shapes), shapes)

    what = "meshes" if shapes.kind == "mesh" else "clouds"
    return run_supervised(
        config,
        folder,
        make,
        kind=KIND,
        dataset=shapes,
        identity={
            "split_hash": array_sha256(*(np.array(shapes.parts[part], "<i8") for part in PARTS))
        },
        meta={"family": "vertices", "shapes": counts},
        parts={part: shapes.parts[part] for part in ("val", "test")},
        about=(
            f"{shapes.name}: {counts['train']:,} {what} train, {counts['val']:,} validate, "
            f"{counts['test']:,} test; noise {' to '.join(f'{s:g}' for s in config.sigma)} "
            f"({UNITS[shapes.kind]})"
        ),
        resume=resume,
        say=say,
    )


def describe_vertices(result: dict[str, Any]) -> str:
    """What `train_vertices` reached, in a line."""
    test = result["test"]
    return (
        f"{result['steps']:,} steps, weights of step {result['best_step']}: mean vertex error "
        f"{test['error']:.4g} of {test['num_shapes']:,} test shapes, {test['ratio']:.1%} of the "
        f"noisy {test['noisy_error']:.4g}; Laplacian smoothing {test['laplacian_error']:.4g}, "
        f"Taubin {test['taubin_error']:.4g} (validation {result['val']['ratio']:.1%})"
    )
