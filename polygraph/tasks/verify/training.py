"""Training of embeddings: the run and its folder.

A head tells the training identities apart (`polygraph.tasks.verify.heads`) and is thrown away; the
embeddings are measured on identities that training has not seen. Recipe: Adam from 1e-3 along a
cosine to 0, batches of 64 for 40 epochs. The weights with the smallest equal error rate on the
identities that validate are taken, and the test identities are measured once.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from polygraph.data.identities import IdentityDataset, open_identities
from polygraph.data.images import ImageDataset
from polygraph.data.known import remember
from polygraph.data.pairs import PairList, make_pairs
from polygraph.tasks.verify.config import VerifyRunConfig
from polygraph.tasks.verify.embedder import (
    Embedder,
    embedder_family,
    embedding_fields,
    fitted,
    is_of_points,
)
from polygraph.tasks.verify.heads import make_head
from polygraph.tasks.verify.learning import Learner, VerifyTask
from polygraph.train.frame import run_supervised
from polygraph.train.log import Say


def fit_to_data(config: VerifyRunConfig, dataset: IdentityDataset) -> VerifyRunConfig:
    """The same run with a network for these samples and this embedding.

    Raises:
        ValueError: the model takes other samples, or says another size.
    """
    points = not isinstance(dataset, ImageDataset)
    if is_of_points(config.model) != points:
        wanted, got = ("point clouds", "images") if points else ("images", "point clouds")
        raise ValueError(f"model: must take {wanted}, those of {dataset.name}, and takes {got}")
    found = embedding_fields(config.model, config.embedding_dim)
    if isinstance(dataset, ImageDataset):
        found |= {"in_channels": dataset.channels, "size": dataset.size}
    elif config.model.k > dataset.points.shape[1]:
        raise ValueError(
            f"model: k must be at most {dataset.points.shape[1]}, the points of a cloud of "
            f"{dataset.name}, got {config.model.k}"
        )
    what = f"{dataset.name} and embedding_dim {config.embedding_dim}"
    return replace(config, model=fitted(config.model, found, what, config.preset))


def build_learner(config: VerifyRunConfig, num_identities: int) -> Learner:
    """An embedder and a head for so many training identities, initialised from the seed."""
    torch.manual_seed(config.train.seed)
    embedder = Embedder(config.model)
    head = make_head(
        config.loss,
        config.embedding_dim,
        num_identities,
        margin=config.margin,
        logit_scale=config.logit_scale,
    )
    return Learner(embedder, head)


def draw_pairs(config: VerifyRunConfig, dataset: IdentityDataset) -> dict[str, PairList]:
    """The pairs that validate, in one fold, and those that test.

    Raises:
        ValueError: there are no genuine pairs, or fewer pairs than folds.
    """
    count = config.folds * config.pairs_per_fold
    settings = {"val": (1, count), "test": (config.folds, config.pairs_per_fold)}
    found = {}
    for part, (folds, per_fold) in settings.items():
        try:
            found[part] = make_pairs(
                dataset.labels,
                getattr(dataset, part),
                folds=folds,
                per_fold=per_fold,
                seed=config.pair_seed,
            )
        except ValueError as error:
            raise ValueError(f"{dataset.name}: {part}: {error}") from error
    return found


def describe_data(dataset: IdentityDataset, pairs: dict[str, PairList]) -> str:
    """What is trained on, in a line for people."""
    assert dataset.labels is not None
    counts = []
    for part, verb in (("train", "train"), ("val", "validate"), ("test", "test")):
        rows = getattr(dataset, part)
        counts.append(f"{len(rows):,} of {len(np.unique(dataset.labels[rows]))} {verb}")
    test = pairs["test"]
    shared = "" if test.disjoint else ", which share identities"
    return (
        f"{dataset.name}: samples of identities: {', '.join(counts)}; {len(test):,} test pairs in "
        f"{test.num_folds} folds{shared}, sha256 {test.sha256[:12]}"
    )


def train_verify(
    config: VerifyRunConfig,
    folder: str | Path,
    *,
    resume: bool = False,
    dataset: IdentityDataset | None = None,
    say: Say | None = None,
) -> dict[str, Any]:
    """Train, select on validation identities, measure the test identities once.

    A run that was resumed ends with the same bits as one that was never stopped. With several
    processes each takes BatchNorm's statistics from its own part of a batch, and the first one's
    running statistics count.

    Args:
        config: the run.
        folder: receives ``run.json``, ``last.safetensors``, ``best.safetensors``, ``log.jsonl``,
            ``curve.csv`` and ``result.json``; enough to use the embedder without the data.
        resume: go on from the last checkpoint when there is one.
        dataset: opened already, its identities in parts that share none (see
            `polygraph.data.identities.divided`); default: opened from ``config.data``.
        say: called with lines for people: what is trained on, and what goes wrong.

    Returns:
        What ``result.json`` holds, the same on every process: ``test`` and ``val`` (of
        `VerifyTask.measure`), ``parameters``, ``seconds``, ``seconds_per_epoch`` and what the run
        was.

    Raises:
        ImportError: pytorch-metric-learning is missing; the message names the extra.
        ValueError: the data are bad, or do not fit the model.
        CheckpointError: the folder holds another run, or one and ``resume`` is False.
        TrainingStopped: a loss that is not finite, a full disk, no memory.
    """
    dataset = open_identities(config.data) if dataset is None else dataset
    remember(config.data.kind, config.data.path, config.data.cache_dir)
    config = fit_to_data(config, dataset)
    pairs = draw_pairs(config, dataset)
    assert dataset.labels is not None
    known = np.unique(dataset.labels[dataset.train])
    meta: dict[str, Any] = {
        "family": embedder_family(config.model),
        "identities": [dataset.classes[n] for n in known],
    }
    if not isinstance(dataset, ImageDataset):
        meta |= {"origin": list(dataset.origin), "points": dataset.points.shape[1]}
    return run_supervised(
        config,
        Path(folder),
        lambda fabric: VerifyTask(
            fabric, config, build_learner(config, len(known)), dataset, pairs
        ),
        kind="verify",
        dataset=dataset,
        identity={"split_hash": dataset.split_hash, "val_pairs_hash": pairs["val"].sha256},
        meta=meta,
        parts={"val": "val", "test": "test"},
        about=describe_data(dataset, pairs),
        resume=resume,
        say=say,
    )


def describe_result(result: dict[str, Any]) -> str:
    """What `train_verify` reached, in a line."""
    test = result["test"]
    pairs, searches = test["pairs"], test["identification"]
    found = "" if searches is None else f", rank-1 {searches['rank1']:.1%}"
    return (
        f"{result['steps']:,} steps, weights of step {result['best_step']}: verification "
        f"{pairs['accuracy']:.1%} ± {pairs['accuracy_std']:.1%}, equal error rate "
        f"{pairs['eer']:.1%}, AUC {pairs['auc']:.3f}{found} of {test['num_identities']} identities "
        f"never seen"
    )
