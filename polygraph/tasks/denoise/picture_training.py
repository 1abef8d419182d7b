"""Training of denoisers: what the loop needs to know of them, and a run's folder.

Patches at random places of clean pictures, in one of eight ways up, with Gaussian noise that is not
clipped; the loss is the mean squared error of the noise that the network finds. The published
recipe of GCDN (batches of 12, Adam at a constant 1e-4, 400,000 steps) is a configuration,
``--config denoise-published``. The validation pictures select the weights; the test pictures are
measured once, with noise of their own seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from polygraph._arrays import array_sha256
from polygraph._checks import check_numbers
from polygraph.data.image_files import Images
from polygraph.data.known import remember
from polygraph.data.pictures import PictureDataConfig, PictureSet, open_pictures
from polygraph.models.denoiser.presets import (
    DENOISER_PRESETS,
    DENOISERS,
    build_denoiser,
    denoiser_family,
)
from polygraph.models.denoiser.tiles import denoise_tiles
from polygraph.tasks.denoise.measure import (
    as_float,
    measure_row,
    noise_of,
    summarize_rows,
)
from polygraph.train.config import TrainConfig, config_hash
from polygraph.train.distributed import gather_rows, shard
from polygraph.train.frame import run_supervised
from polygraph.train.log import Say
from polygraph.train.patch_batches import PatchBatches
from polygraph.train.supervised import SupervisedTask

DEFAULT_PRESET = "gcdn-33"
RECIPE: dict[str, Any] = {
    "steps": 6000,
    "batch_size": 8,
    "learning_rate": 1e-3,
    "schedule": "cosine",
    "weight_decay": 0.0,
    "eval_every": 500,
}  #: where it differs from the defaults of `TrainConfig`
_GENERATOR = "numpy.random.default_rng([noise_seed, place]).standard_normal, float32"


def denoise_train_config(**settings: Any) -> TrainConfig:
    """The recipe, with other ``settings`` of `TrainConfig` where they are given."""
    return TrainConfig(**{**RECIPE, **settings})


@dataclass(frozen=True)
class DenoiseRunConfig:
    """Everything that decides about a denoiser.

    Attributes:
        model: config of a family of `polygraph.models.denoiser.presets.DENOISERS`. Its channels are
            those of the pictures.
        data: clean pictures, and which of them validate and test.
        train: steps, batch, optimiser, schedule, seed.
        preset: name that the model's settings started from; for people.
        sigma: standard deviation of the noise, white being 255; or two, the least and the largest,
            between which each patch's is drawn.
        patch: height and width of the patches.
        val_size: pictures that validate are cut to this many rows and columns about their middle.
        noise_seed: of the noise that pictures are validated and tested with.
    """

    model: Any = field(default_factory=lambda: DENOISER_PRESETS[DEFAULT_PRESET])
    data: PictureDataConfig = field(default_factory=PictureDataConfig)
    train: TrainConfig = field(default_factory=denoise_train_config)
    preset: str = ""
    sigma: tuple[float, ...] = (25.0,)
    patch: int = 42
    val_size: int = 160
    noise_seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that cannot train."""
        check_numbers("train", self, ("noise_seed",))
        if type(self.model) not in [cls for cls, _ in DENOISERS.values()]:
            raise TypeError(f"train: model must be a config of a denoiser, got {self.model!r}")
        sigma = tuple(self.sigma)
        good = len(sigma) in (1, 2) and all(0 < s <= 255 and math.isfinite(s) for s in sigma)
        if not good or sigma[0] > sigma[-1]:
            raise ValueError(
                "train: sigma must be one number, or two that do not fall, above 0 and at most 255 "
                f"(white), got {list(sigma)}"
            )
        object.__setattr__(self, "sigma", sigma)
        for name in ("patch", "val_size"):
            if not 16 <= getattr(self, name) <= 4096:
                raise ValueError(
                    f"train: {name} must be from 16 to 4096, got {getattr(self, name)}"
                )
        if self.noise_seed < 0:
            raise ValueError(f"train: noise_seed must be at least 0, got {self.noise_seed}")

    @property
    def levels(self) -> tuple[float, ...]:
        """The noise that pictures are measured with: of a range its ends and its middle."""
        low, high = self.sigma[0], self.sigma[-1]
        return (low,) if low == high else (low, (low + high) / 2, high)

    def semantics(self) -> dict[str, Any]:
        """What decides about the weights, besides the loop's settings and the pictures."""
        own = {name: getattr(self, name) for name in ("patch", "val_size", "noise_seed")}
        model = {"family": denoiser_family(self.model), **asdict(self.model)}
        return {"model": model, "sigma": list(self.sigma), **own}

    def digest(self) -> str:
        """SHA-256 of what decides about the result, the same on every machine.

        Where the data lie does not count: their content has a hash of its own.
        """
        data = {k: v for k, v in asdict(self.data).items() if k not in ("path", "test_path")}
        train = {**self.train.semantics(), "length": self.train.length()}
        return config_hash({**self.semantics(), "data": data, "train": train})


class NoiseLoss(nn.Module):
    """Mean squared error of the noise that a denoiser finds, and what that is in dB."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, clean: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Of patches ``[B, C, P, P]``; the loss, and the PSNR of the whole batch, not clipped."""
        loss = functional.mse_loss(self.model(clean + noise), clean)
        return loss, -10 * loss.detach().log10()


class DenoiseTask(SupervisedTask):
    """A denoiser, its optimizer, its pictures.

    Args:
        fabric: launched Fabric.
        config: the run's; ``config.model`` is not looked at.
        model: maps noisy pictures ``[B, C, H, W]`` to clean ones, on the CPU.
        dataset: the pictures.
    """

    score = "val_score"

    def __init__(
        self, fabric: Any, config: DenoiseRunConfig, model: nn.Module, dataset: PictureSet
    ) -> None:
        train = [dataset.pictures[n] for n in dataset.parts["train"]]
        names = ("loss", "psnr")
        super().__init__(fabric, config.train, model, NoiseLoss(model), len(train), names)
        self.run, self.dataset = config, dataset
        self.batches = PatchBatches(
            train,
            config.train,
            config.patch,
            config.sigma,
            device=self.device,
            dtype=self.dtype,
            rank=fabric.global_rank,
            world=fabric.world_size,
        )

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Clean patches, and noise."""
        return self.batches(step)

    def validate(self) -> dict[str, float]:
        """PSNR and SSIM of the pictures that validate, cut to their middle."""
        found = self._measured(self.dataset.parts["val"], self.run.val_size)
        values = {f"val_{name}": found[name] for name in ("psnr", "ssim", "noisy_psnr")}
        return {**values, "val_score": -found["psnr"]}

    def measure(self, numbers: Sequence[int]) -> dict[str, Any]:
        """What `measure_pictures` gives of some pictures, whole."""
        return self._measured(numbers, None)

    def _measured(self, numbers: Sequence[int], size: int | None) -> dict[str, Any]:
        return measure_pictures(
            self.model,
            self.dataset,
            numbers,
            self.run.levels,
            self.run.noise_seed,
            size=size,
            fabric=self.fabric,
        )


def measure_pictures(
    model: nn.Module,
    dataset: PictureSet,
    numbers: Sequence[int],
    levels: Sequence[float],
    seed: int,
    *,
    size: int | None = None,
    fabric: Any = None,
) -> dict[str, Any]:
    """PSNR and SSIM of a denoiser.

    Args:
        model: the network.
        dataset: holds the pictures.
        numbers: which of them; the place in this list decides about a picture's noise.
        levels: standard deviations, white being 255.
        seed: of the noise.
        size: pictures are cut to this many rows and columns about their middle; None: whole.
        fabric: shares the pictures among its processes; None: there is one.

    Returns:
        Means over levels and pictures (``psnr``, ``psnr_8bit``, ``ssim``, ``noisy_psnr``,
        ``noisy_ssim``), ``num_pictures``, ``levels``: `summarize_rows` of each level by its name,
        and ``noise``: generator, seed and the SHA-256 of the noise of a deviation of 1.
    """
    parameter = next(model.parameters())
    places = np.arange(len(numbers), dtype=np.int64)
    mine = places if fabric is None else shard(places, fabric)
    found = {}
    for level in levels:
        rows = []
        for place in mine:
            clean = as_float(_middle(dataset.pictures[numbers[place]], size))
            noisy = clean + torch.from_numpy(noise_of(clean.shape, level, seed, int(place)))
            made = denoise_tiles(model, noisy.to(parameter.device, parameter.dtype))
            rows.append(measure_row(made.cpu().float(), noisy, clean))
        mined = np.array(rows) if rows else None
        every = mined if fabric is None else gather_rows(mined, len(numbers), fabric)
        assert every is not None
        names = [dataset.names[n] for n in numbers]
        found[f"{level:g}"] = summarize_rows(every, names)
    columns = ("psnr", "psnr_8bit", "ssim", "noisy_psnr", "noisy_ssim")
    means = {name: float(np.mean([level[name] for level in found.values()])) for name in columns}
    drawn = [
        noise_of(_middle(dataset.pictures[n], size).shape, 255.0, seed, place)
        for place, n in enumerate(numbers)
    ]
    noise = {"generator": _GENERATOR, "seed": seed, "sha256": array_sha256(*drawn)}
    return {"num_pictures": len(numbers), **means, "levels": found, "noise": noise}


def _middle(picture: Images, size: int | None) -> Images:
    if size is None:
        return picture
    height, width = picture.shape[1:]
    top, left = max(0, (height - size) // 2), max(0, (width - size) // 2)
    return picture[:, top : top + size, left : left + size]


def fit_to_pictures(config: DenoiseRunConfig, dataset: PictureSet) -> DenoiseRunConfig:
    """The configuration with the channels of the pictures.

    Raises:
        ValueError: a training picture is smaller than a patch, or a patch or another picture than
            what the network takes.
    """
    config = replace(config, model=replace(config.model, channels=dataset.channels))
    with torch.device("meta"):
        least = build_denoiser(config.model).smallest
    if config.patch < least:
        raise ValueError(
            f"train: patch must be at least {least} for this model, got {config.patch}"
        )
    for part, numbers in dataset.parts.items():
        wanted = config.patch if part == "train" else least
        for n in numbers:
            height, width = dataset.pictures[n].shape[1:]
            if min(height, width) < wanted:
                raise ValueError(
                    f"{dataset.name}: {dataset.names[n]} ({part}) must have at least {wanted} rows "
                    f"and columns, got {height} x {width}"
                )
    return config


def train_pictures(
    config: DenoiseRunConfig,
    folder: str | Path,
    *,
    resume: bool = False,
    dataset: PictureSet | None = None,
    say: Say | None = None,
) -> dict[str, Any]:
    """Train, select on the validation pictures, measure the test pictures once.

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
        `measure_pictures`, whole pictures), ``parameters``, ``seconds`` and what the run was.

    Raises:
        ValueError: the data are bad, or do not fit the model.
        CheckpointError: the folder holds another run, or one and ``resume`` is False.
        TrainingStopped: a loss that is not finite, a full disk, no memory.
    """
    folder = Path(folder)
    dataset = open_pictures(config.data) if dataset is None else dataset
    for path in (config.data.path, config.data.test_path):
        remember("pictures", path)
    config = fit_to_pictures(config, dataset)
    counts = {part: len(numbers) for part, numbers in dataset.parts.items()}

    def make(fabric: Any) -> DenoiseTask:
        torch.manual_seed(config.train.seed)
        return DenoiseTask(fabric, config, build_denoiser(config.model), dataset)

    return run_supervised(
        config,
        folder,
        make,
        kind="denoise",
        dataset=dataset,
        identity={
            "split_hash": array_sha256(
                *(np.array(dataset.parts[part], "<i8") for part in ("train", "val", "test"))
            )
        },
        meta={"family": denoiser_family(config.model), "pictures": counts},
        parts={part: dataset.parts[part] for part in ("val", "test")},
        about=(
            f"{dataset.name}: {counts['train']:,} pictures train, {counts['val']:,} validate, "
            f"{counts['test']:,} test; noise {' to '.join(f'{s:g}' for s in config.sigma)} of 255"
        ),
        resume=resume,
        say=say,
    )


def describe_pictures(result: dict[str, Any]) -> str:
    """What `train_pictures` reached, in a line."""
    test = result["test"]
    return (
        f"{result['steps']:,} steps, weights of step {result['best_step']}: "
        f"{test['psnr']:.2f} dB (8 bits {test['psnr_8bit']:.2f}), SSIM {test['ssim']:.4f} of "
        f"{test['num_pictures']:,} test pictures, noisy {test['noisy_psnr']:.2f} dB "
        f"(validation {result['val']['psnr']:.2f} dB)"
    )
