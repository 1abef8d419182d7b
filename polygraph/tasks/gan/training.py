"""Training of adversarial pairs: the configuration of a run, its networks and its folder."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from polygraph._checks import check_numbers
from polygraph.data.images import ImageDataConfig, ImageDataset, open_images
from polygraph.data.known import remember
from polygraph.models.images.families import CRITICS, GENERATORS, build, family_of
from polygraph.models.images.graph_gan import GraphCriticConfig, GraphGeneratorConfig
from polygraph.models.images.growing_gan import Growing
from polygraph.models.images.sizes import at_size
from polygraph.tasks.gan.losses import GanConfig
from polygraph.tasks.gan.pair import GanTask
from polygraph.tasks.gan.presets import GanPreset, get_gan_preset
from polygraph.tasks.gan.scores import CLASSIFIER, SELECTED, Scorer
from polygraph.train.checkpoint import seal, write_json
from polygraph.train.config import TrainConfig, config_hash
from polygraph.train.distributed import make_fabric, process_group
from polygraph.train.log import Say
from polygraph.train.loop import Progress, Trainer
from polygraph.train.provenance import provenance

RUN, RESULT = "run.json", "result.json"


@dataclass(frozen=True)
class GanRunConfig:
    """Everything that decides about an adversarial pair.

    Attributes:
        generator: config of a family of `polygraph.models.images.families.GENERATORS`.
        critic: config of a family of `polygraph.models.images.families.CRITICS`.
        data: the images; they decide about the channels and the size of both networks.
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
        _check_pair(self.train)
        sizes = self.generator.size, self.critic.size, self.data.size
        if len({*sizes}) > 1:
            raise ValueError(
                "train: size must be one for the generator, the critic and the data, got {}, {} "
                "and {}".format(*sizes)
            )

    def semantics(self) -> dict[str, Any]:
        """What decides about the weights, besides the loop's settings and the images.

        Sizes of the networks are those of the images, and are not repeated.
        """
        gan = asdict(self.gan)
        del gan["compile"]
        found: dict[str, Any] = {"gan": gan}
        for name, network in (("generator", self.generator), ("critic", self.critic)):
            found[name] = {"family": family_of(network), **asdict(network)}
            del found[name]["size"]
        return found

    def digest(self) -> str:
        """SHA-256 of what decides about the weights, the same on every machine."""
        data = {k: v for k, v in asdict(self.data).items() if k not in ("path", "cache_dir")}
        train = {**self.train.semantics(), "length": self.train.length()}
        return config_hash({**self.semantics(), "data": data, "train": train})


_OPTIMIZER = ("optimizer", "decay_all", "momentum", "nesterov", "beta1", "beta2")


def _check_pair(train: TrainConfig) -> None:
    """Refuse settings of the loop that a pair, with two losses and optimizers, does not look at."""
    default = TrainConfig()
    for name in _OPTIMIZER:
        value = getattr(train, name)
        if value != getattr(default, name):
            raise ValueError(
                f"train: {name} is not for a pair, whose optimizers are set in gan, got {value!r}"
            )
    if train.precision == "16-mixed":
        raise ValueError(
            "train: precision 16-mixed scales one loss, a pair has two: use bf16-mixed"
        )
    if train.schedule == "onecycle" and train.cycle_momentum:
        raise ValueError("train: cycle_momentum must be false for a pair, got true")


def gan_run_config(preset: str, data: ImageDataConfig | None = None, **train: Any) -> GanRunConfig:
    """The run of a preset, with other settings of `TrainConfig` where they are given.

    Args:
        preset: its name.
        data: the images; None: built-in digits in the size of the preset's networks.
        **train: settings.
    """
    found: GanPreset = get_gan_preset(preset)
    data = data or ImageDataConfig(size=found.generator.size)
    return GanRunConfig(
        at_size(found.generator, data.size),
        at_size(found.critic, data.size),
        data,
        found.gan,
        TrainConfig(**{**found.train, **train}),
        preset,
    )


def fit_to_images(config: GanRunConfig, dataset: ImageDataset) -> GanRunConfig:
    """The same run with networks for the channels of the images.

    Raises:
        ValueError: the images have another size than the networks.
    """
    size = config.data.size
    if dataset.size != size:
        raise ValueError(f"{dataset.name}: images must be {size} x {size}, got {dataset.size}")
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
    say: Say | None = None,
) -> dict[str, Any]:
    """Train a pair.

    A run that was resumed ends with the same bits as one that was never stopped.

    Args:
        config: the run.
        folder: receives ``run.json``, ``last.safetensors`` (and ``best.safetensors`` with scores),
            ``log.jsonl``, ``curve.csv``, ``samples/``, ``interpolations/``, ``growth/`` of a
            generator that grows, and ``result.json``.
        resume: go on from the last checkpoint when there is one.
        dataset: opened already; default: opened from ``config.data``.
        say: called with lines for people: what is trained on, and what goes wrong.

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
    if say is not None and fabric.global_rank == 0:
        say(
            f"{dataset.name}: {len(dataset):,} images of {dataset.channels} x {dataset.size} x "
            f"{dataset.size}: {len(dataset.train):,} train, {len(dataset.test):,} are held out"
        )
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
        trainer = Trainer(task, config.train, fabric, folder, meta=meta, identity=identity, say=say)
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
        **progress.columns(),
        "parameters": sum(p.numel() for p in task.generator.parameters()),
        "critic_parameters": sum(p.numel() for p in task.critic.parameters()),
        "processes": task.fabric.world_size,
        **meta,
    }
    if progress.best_step is not None:
        result[SELECTED] = progress.best_score
    result = seal(result)
    if task.fabric.global_rank == 0:
        if isinstance(task.average, Growing) and float(task.average.growth) == len(
            task.average.sizes
        ):
            task.show_size(task.average.sizes[-1])
        write_json(folder / RESULT, result)
    return result


def describe_result(result: dict[str, Any]) -> str:
    """What `train_gan` reached, in a line."""
    best = ""
    if result["best_step"] is not None:
        best = f", lowest FID {result['fid']:.2f} at step {result['best_step']}"
    return f"{result['steps']:,} generator steps, {result['step_ms']:.0f} ms each{best}"
