"""Scores of generators: Inception Score, FID, KID, precision, recall, by a labelled extractor."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from polygraph.data.images import ImageDataConfig, ImageDataset, open_images
from polygraph.data.known import recall
from polygraph.tasks.gan.checkpoint import checkpoint_of, load_generator
from polygraph.tasks.gan.latent import latent_vectors
from polygraph.train.checkpoint import CheckpointError
from polygraph.train.recorded import recorded_data

CLASSIFIER = "classifier"  #: folder of a run with the weights of the classifier
SELECTED = "fid"  #: of the scores, the one that selects weights
_BATCH = 100


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

    Attributes:
        extractor: the network.
        accuracy: share of the test images that the classifier gets right; None of Inception.
        real: activations of the images that train.
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
        from polygraph.metrics.image_scores import collect
        from polygraph.models.images.inception import load_inception
        from polygraph.tasks.gan.classifier import train_classifier

        self.count, self.seed = count, seed
        self.device = device or (fabric.device if fabric is not None else "cpu")
        self.accuracy: float | None = None
        if inception is not None:
            self.extractor: Any = load_inception(inception).to(self.device)
        else:
            if fabric is not None and fabric.global_rank > 0:
                fabric.barrier()  # the first process trains it, the others read it
            trained = train_classifier(dataset, folder, device=self.device)
            self.extractor, self.accuracy = trained.model, trained.accuracy
            if fabric is not None and fabric.global_rank == 0:
                fabric.barrier()
        self.dataset = dataset
        self.real = collect(self.extractor, dataset, batch_size=_BATCH, device=self.device)

    def held_out(self) -> Any:
        """Activations of the images that did not train."""
        from polygraph.metrics.image_scores import collect

        rows = self.dataset.test
        return collect(self.extractor, self.dataset, rows, batch_size=_BATCH, device=self.device)

    def activations(self, generator: nn.Module) -> Any:
        """What the extractor sees in a generator's images, in evaluation mode."""
        from polygraph.metrics.image_scores import Activations

        fake = Activations(self.extractor, self.device)
        z = latent_vectors(self.count, generator.config, self.seed)
        like = next(generator.parameters())
        with torch.no_grad():
            for rows in torch.split(z, _BATCH):
                # The images themselves and not their bytes: what is not finite is to be counted.
                fake.update(generator(rows.to(like.device, like.dtype)).float())
        return fake

    def scores(self, generator: nn.Module) -> Any:
        """`polygraph.metrics.image_scores.ImageScores` of a generator in evaluation mode."""
        from polygraph.metrics.image_scores import score

        return score(self.real, self.activations(generator))

    def __call__(self, generator: nn.Module) -> dict[str, float]:
        """The scores under their full names, and FID as ``fid``, to select by."""
        found = self.scores(generator)
        return {SELECTED: float(found.fid), **found.summary()}


@dataclass(frozen=True)
class OpenedRun:
    """A run with the images that it was trained on.

    Attributes:
        folder: of the run.
        generator: in evaluation mode, on `device`.
        meta: of its checkpoint.
        dataset: the images.
        device: a GPU, where there is one.
    """

    folder: Path
    generator: nn.Module
    meta: dict[str, Any]
    dataset: ImageDataset
    device: str

    def scorer(
        self,
        count: int,
        *,
        seed: int = 0,
        classifier: str | Path | None = None,
        inception: str | Path | None = None,
    ) -> Scorer:
        """What measures ``count`` images of it; see `score_run`.

        Raises:
            ValueError: the images have no labels, and no file of Inception is given.
        """
        if inception is None and self.dataset.labels is None:
            raise ValueError(
                f"{self.dataset.name} has no labels, of which a classifier could learn what to "
                "compare: give Inception's weights, --inception FILE"
            )
        kept = _kept_classifier(self.folder, self.meta) if classifier is None else Path(classifier)
        return Scorer(self.dataset, kept, count, seed, device=self.device, inception=inception)


def open_run(
    folder: str | Path,
    *,
    path: str | None = None,
    weights: str = "average",
    dataset: ImageDataset | None = None,
) -> OpenedRun:
    """Open a run and its data; see `score_run`.

    Raises:
        CheckpointError: the folder holds no run.
        ValueError: the data are not those that the run was trained on; both hashes are named.
    """
    folder = Path(folder)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator, meta = load_generator(checkpoint_of(folder), device, weights=weights)
    if dataset is None:
        dataset = open_images(recorded_data(ImageDataConfig, meta, folder, path, "--data PATH"))
    then = meta["identity"]["dataset_hash"]
    if dataset.content_hash != then:
        raise ValueError(
            f"{dataset.name}: its content is not what {folder} was trained on: hash "
            f"{dataset.content_hash} now, {then} then"
        )
    return OpenedRun(folder, generator, meta, dataset, device)


def score_run(
    folder: str | Path,
    count: int,
    *,
    seed: int = 0,
    path: str | None = None,
    classifier: str | Path | None = None,
    inception: str | Path | None = None,
    weights: str = "average",
    dataset: ImageDataset | None = None,
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
        dataset: the run's, opened already.

    Returns:
        `polygraph.metrics.image_scores.ImageScores`.

    Raises:
        CheckpointError: the folder holds no run.
        ValueError: the data are not those that the run was trained on; both hashes are named.
    """
    run = open_run(folder, path=path, weights=weights, dataset=dataset)
    scorer = run.scorer(count, seed=seed, classifier=classifier, inception=inception)
    return scorer.scores(run.generator)


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
