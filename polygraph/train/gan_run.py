"""A run of an adversarial pair: its folder, its scores, its generator without the data."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from polygraph.data.images import ImageDataConfig, ImageDataset, open_images
from polygraph.data.known import recall, remember
from polygraph.models._state import build_with
from polygraph.models.gan import CRITICS, GENERATORS, build, config_of, family_of
from polygraph.models.graph_gan import SIZE, GraphCriticConfig, GraphGeneratorConfig
from polygraph.nn._choices import check_numbers
from polygraph.train.checkpoint import (
    CheckpointError,
    load_checkpoint,
    part_of,
    seal,
    write_json,
)
from polygraph.train.config import TrainConfig, config_hash
from polygraph.train.distributed import make_fabric, process_group
from polygraph.train.gan import GanTask, generate, interpolations, latent_vectors
from polygraph.train.gan_losses import GanConfig
from polygraph.train.gan_presets import GanPreset, get_gan_preset
from polygraph.train.loop import BEST, LAST, Progress, Trainer
from polygraph.train.provenance import provenance
from polygraph.train.recorded import recorded_data

RUN, RESULT, CLASSIFIER = "run.json", "result.json", "classifier"
SELECTED = "fid"  #: of the scores, the one that selects weights
_BATCH = 100


@dataclass(frozen=True)
class GanRunConfig:
    """Everything that decides about an adversarial pair.

    Attributes:
        generator: config of a family of `polygraph.models.gan.GENERATORS`.
        critic: config of a family of `polygraph.models.gan.CRITICS`.
        data: the images; they decide about the channels of both networks.
        gan: losses, critic steps, optimizers, average.
        train: generator steps, batch, rate, schedule, seed.
        preset: name that the settings started from; for people.
        score_images: generated images that every validation scores through a classifier that is
            trained on the same data; 0 for no scores. With them the weights of the lowest FID are
            kept too.
        classifier: folder of that classifier's weights, which several runs may share; null: the
            run's own.
    """

    generator: Any = field(default_factory=GraphGeneratorConfig)
    critic: Any = field(default_factory=GraphCriticConfig)
    data: ImageDataConfig = field(default_factory=ImageDataConfig)
    gan: GanConfig = field(default_factory=GanConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    preset: str = ""
    score_images: int = 0
    classifier: str | None = None

    def __post_init__(self) -> None:
        """Refuse settings that cannot train."""
        check_numbers("train", self)
        for name, families in (("generator", GENERATORS), ("critic", CRITICS)):
            found = getattr(self, name)
            if type(found) not in [cls for cls, _ in families.values()]:
                raise TypeError(f"train: {name} must be a config of a {name}, got {found!r}")
        if self.score_images < 0:
            raise ValueError(f"train: score_images must be 0 or more, got {self.score_images}")
        if self.data.size != SIZE:
            raise ValueError(
                f"data: size must be {SIZE}, that of the networks, got {self.data.size}"
            )

    def semantics(self) -> dict[str, Any]:
        """What decides about the weights, besides the loop's settings and the images."""
        gan = asdict(self.gan)
        del gan["compile"]
        return {
            "generator": {"family": family_of(self.generator), **asdict(self.generator)},
            "critic": {"family": family_of(self.critic), **asdict(self.critic)},
            "gan": gan,
        }

    def digest(self) -> str:
        """SHA-256 of what decides about the weights, the same on every machine."""
        data = {k: v for k, v in asdict(self.data).items() if k not in ("path", "cache_dir")}
        train = {**self.train.semantics(), "length": self.train.length()}
        return config_hash({**self.semantics(), "data": data, "train": train})


def gan_run_config(preset: str, data: ImageDataConfig | None = None, **train: Any) -> GanRunConfig:
    """The run of a preset, with other settings of `TrainConfig` where they are given."""
    found: GanPreset = get_gan_preset(preset)
    return GanRunConfig(
        found.generator,
        found.critic,
        data or ImageDataConfig(),
        found.gan,
        TrainConfig(**{**found.train, **train}),
        preset,
    )


def fit_to_images(config: GanRunConfig, dataset: ImageDataset) -> GanRunConfig:
    """The same run with networks for the channels of the images.

    Raises:
        ValueError: the images are not 32 x 32.
    """
    if dataset.size != SIZE:
        raise ValueError(f"{dataset.name}: images must be {SIZE} x {SIZE}, got {dataset.size}")
    return replace(
        config,
        generator=replace(config.generator, out_channels=dataset.channels),
        critic=replace(config.critic, in_channels=dataset.channels),
    )


def build_pair(config: GanRunConfig) -> tuple[nn.Module, nn.Module]:
    """Generator and critic initialised from the seed.

    The generator comes first and does not depend on the critic: variants of a critic begin with
    the same generator.
    """
    torch.manual_seed(config.train.seed)
    generator = build(config.generator)
    torch.manual_seed(config.train.seed + 1)
    return generator, build(config.critic)


def train_gan(
    config: GanRunConfig,
    folder: str | Path,
    *,
    resume: bool = False,
    dataset: ImageDataset | None = None,
) -> dict[str, Any]:
    """Train a pair.

    A run that was resumed ends with the same bits as one that was never stopped.

    Args:
        config: the run.
        folder: receives ``run.json``, ``last.safetensors`` (and ``best.safetensors`` with scores),
            ``log.jsonl``, ``curve.csv``, ``samples/``, ``interpolations/`` and ``result.json``.
        resume: go on from the last checkpoint when there is one.
        dataset: opened already; default: opened from ``config.data``.

    Returns:
        What ``result.json`` holds.

    Raises:
        ValueError: the data are bad, or do not fit the networks.
        CheckpointError: the folder holds another run, or one and ``resume`` is False.
        TrainingStopped: a loss, weight or feature that is not finite, a full disk, no memory. The
            last checkpoint is good.
    """
    folder = Path(folder)
    dataset = open_images(config.data) if dataset is None else dataset
    remember(config.data.kind, config.data.path, config.data.cache_dir)
    remember(CLASSIFIER, config.classifier)
    config = fit_to_images(config, dataset)
    fabric = make_fabric(config.train)
    with process_group(fabric) as owned:
        generator, critic = build_pair(config)
        identity = {
            **config.semantics(),
            "dataset_hash": dataset.content_hash,
            "split_hash": dataset.split_hash,
        }
        meta = {
            "kind": "gan",
            "config": asdict(config),
            "config_hash": config.digest(),
            "families": [family_of(config.generator), family_of(config.critic)],
            "dataset": dataset.name,
            **provenance(fabric.device),
        }
        task = GanTask(
            fabric,
            config.train,
            config.gan,
            generator,
            critic,
            dataset,
            folder,
            score=SELECTED if config.score_images else None,
        )
        trainer = Trainer(task, config.train, fabric, folder, meta=meta, identity=identity)
        owned += [task, trainer]

        def describe() -> None:
            write_json(folder / RUN, {**meta, "identity": identity})

        progress = trainer.run(
            resume=resume, describe=describe, prepare=partial(_add_scores, task, config)
        )
        result = _finish(task, progress, folder, {**meta, **identity})
        del generator, critic, task, trainer
    return result


def _add_scores(task: GanTask, config: GanRunConfig) -> None:
    """Have validations score the generator, if the run wants that; a classifier may be trained."""
    if config.score_images:
        kept = Path(config.classifier or task.folder / CLASSIFIER)
        count, seed = config.score_images, config.train.seed
        task.measure = Scorer(task.dataset, kept, count, seed, task.fabric)


def _finish(
    task: GanTask, progress: Progress, folder: Path, meta: dict[str, Any]
) -> dict[str, Any]:
    result = {
        "steps": progress.step,
        "best_step": progress.best_step,
        "parameters": sum(p.numel() for p in task.generator.parameters()),
        "critic_parameters": sum(p.numel() for p in task.critic.parameters()),
        "seconds": progress.seconds,
        "step_ms": 1000 * progress.seconds / max(1, progress.step),
        "processes": task.fabric.world_size,
        **meta,
    }
    if progress.best_step is not None:
        result[SELECTED] = progress.best_score
    result = seal(result)
    if task.fabric.global_rank == 0:
        write_json(folder / RESULT, result)
    return result


class Scorer:
    """Scores of a generator through Inception, or a classifier trained on the same images.

    Args:
        dataset: labelled images.
        folder: where the classifier's weights are kept, or come from.
        count: generated images.
        seed: of their z.
        fabric: launched Fabric, or None for one process; the first trains the classifier.
        device: where the extractor lives; default: Fabric's, or the CPU.
        inception: file of Inception's weights; no classifier is needed then.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        folder: Path,
        count: int,
        seed: int = 0,
        fabric: Any = None,
        device: torch.device | str | None = None,
        inception: str | Path | None = None,
    ) -> None:
        from polygraph.image_metrics import collect
        from polygraph.models.inception import load_inception
        from polygraph.train.classifier import train_classifier

        self.count, self.seed = count, seed
        self.device = device or (fabric.device if fabric is not None else "cpu")
        if inception is not None:
            self.extractor: Any = load_inception(inception).to(self.device)
        else:
            if fabric is not None and fabric.global_rank > 0:
                fabric.barrier()  # the first process trains it, the others read it
            self.extractor = train_classifier(dataset, folder, device=self.device).model
            if fabric is not None and fabric.global_rank == 0:
                fabric.barrier()
        self.real = collect(self.extractor, dataset, batch_size=_BATCH, device=self.device)

    def scores(self, generator: nn.Module) -> Any:
        """`polygraph.image_metrics.ImageScores` of a generator in evaluation mode."""
        from polygraph.image_metrics import Activations, score

        fake = Activations(self.extractor, self.device)
        channels = int(generator.config.latent_channels)  # type: ignore[union-attr, arg-type]
        z = latent_vectors(self.count, channels, self.seed)
        like = next(generator.parameters())
        with torch.no_grad():
            for rows in torch.split(z, _BATCH):
                # The images themselves and not their bytes: what is not finite is to be counted.
                fake.update(generator(rows.to(like.device, like.dtype)).float())
        return score(self.real, fake)

    def __call__(self, generator: nn.Module) -> dict[str, float]:
        """The scores under their full names, and FID as ``fid``, to select by."""
        found = self.scores(generator)
        return {SELECTED: float(found.fid), **found.summary()}


def load_generator(
    checkpoint: str | Path, device: torch.device | str = "cpu", *, weights: str = "average"
) -> tuple[nn.Module, dict[str, Any]]:
    """Build the generator of a checkpoint, such as ``last.safetensors`` in a run's folder.

    Args:
        checkpoint: the file.
        device: where the generator goes.
        weights: ``average`` or ``generator``: the averaged ones, or those of the last step.

    Returns:
        The generator in eval mode, and the checkpoint's description.

    Raises:
        CheckpointError: the checkpoint is unreadable, or of something else.
    """
    state, meta = load_checkpoint(checkpoint)
    try:
        config = config_of(GENERATORS, meta["families"][0], meta["config"]["generator"])
        values = part_of(state, "modules", checkpoint)[weights]
        model = build_with(lambda: build(config), config, values)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{checkpoint}: not a checkpoint of a GAN ({reason})") from error
    return model.to(device), meta


def checkpoint_of(folder: str | Path) -> Path:
    """The best weights of a run, by FID, or the last.

    Raises:
        CheckpointError: the folder holds no run.
    """
    for name in (BEST, LAST):
        if (Path(folder) / name).is_file():
            return Path(folder) / name
    raise CheckpointError(f"{folder}: no run here ({BEST} and {LAST} are missing)")


def sample_run(
    folder: str | Path,
    count: int,
    seed: int = 0,
    *,
    weights: str = "average",
    interpolate: int | None = None,
) -> Tensor:
    """Images of a run's generator, the same for the same seed.

    Args:
        folder: of the run.
        count: latent vectors.
        seed: they are drawn from.
        weights: see `load_generator`.
        interpolate: points of a walk between each two latent vectors, ends included; None: the
            images of the vectors themselves.

    Returns:
        uint8 ``[count, C, 32, 32]``, or ``[count / 2 * interpolate, ...]``.

    Raises:
        CheckpointError: the folder holds no run.
        ValueError: no images are asked for, or an odd number of ends.
    """
    if count < 1:
        raise ValueError(f"sample: count must be at least 1, got {count}")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator, meta = load_generator(checkpoint_of(folder), device, weights=weights)
    z = latent_vectors(count, int(meta["config"]["generator"]["latent_channels"]), seed)
    return generate(generator, z if interpolate is None else interpolations(z, interpolate))


def score_run(
    folder: str | Path,
    count: int,
    *,
    seed: int = 0,
    path: str | None = None,
    classifier: str | Path | None = None,
    inception: str | Path | None = None,
    weights: str = "average",
) -> Any:
    """Score a run's generator against the training images of its data set.

    Args:
        folder: of the run.
        count: generated images.
        seed: of their z.
        path: where the data lie, when not where they were. Where the run says is followed only when
            this user trained on that place on this machine (see `polygraph.data.known`).
        classifier: folder of the classifier's weights; None: the run's own, or one that this user
            named when it was trained.
        inception: file of Inception's weights, used in its place.
        weights: see `load_generator`.

    Returns:
        `polygraph.image_metrics.ImageScores`.

    Raises:
        CheckpointError: the folder holds no run.
        ValueError: the data are not those that the run was trained on; both hashes are named.
    """
    folder = Path(folder)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator, meta = load_generator(checkpoint_of(folder), device, weights=weights)
    dataset = open_images(recorded_data(ImageDataConfig, meta, folder, path, "--data PATH"))
    then = meta["identity"]["dataset_hash"]
    if dataset.content_hash != then:
        raise ValueError(
            f"{dataset.name}: its content is not what {folder} was trained on: hash "
            f"{dataset.content_hash} now, {then} then"
        )
    kept = _kept_classifier(folder, meta) if classifier is None else Path(classifier)
    scorer = Scorer(dataset, kept, count, seed, device=device, inception=inception)
    return scorer.scores(generator)


def _kept_classifier(folder: Path, meta: dict[str, Any]) -> Path:
    """Where the classifier of a run's scores is kept: never outside, but where the user said."""
    named = meta["config"].get("classifier")
    if isinstance(named, str) and recall(CLASSIFIER, named) is not None:
        return Path(named)
    kept = folder / CLASSIFIER
    target = Path(os.path.realpath(kept))
    if not target.is_relative_to(os.path.realpath(folder)):
        raise CheckpointError(
            f"{kept}: leads out of the run, to {target}: name the folder, --classifier DIR"
        )
    return kept
