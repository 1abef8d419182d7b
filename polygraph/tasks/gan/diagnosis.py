"""A finished run's scores, and whether its networks use their non-local layers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

from polygraph.analysis.nonlocal_use import ABLATIONS, ablated, ablations_of, nonlocal_layers
from polygraph.data.images import ImageDataset
from polygraph.tasks.gan.checkpoint import checkpoint_of, load_critic, load_generator
from polygraph.tasks.gan.latent import latent_vectors
from polygraph.tasks.gan.losses import GanConfig
from polygraph.tasks.gan.nonlocal_use import NetworkUse, use_of_pair
from polygraph.tasks.gan.scores import OpenedRun, open_run
from polygraph.train.checkpoint import CheckpointError

PICTURE = "neighbours.png"  #: in a run's folder: which pixels its generator joins
_PICTURED = 4
_IMAGES = 64  # that norms and places are of
_LARGEST_BATCH = 64  # that gradients are of


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose_run` found.

    Attributes:
        scores: `polygraph.metrics.image_scores.ImageScores` of the generator.
        accuracy: of the classifier that scores are taken through; None of Inception.
        layers: how each non-local layer is used; empty where there are none.
        ablations: scores of the same z without the non-local part, or with another one, by the
            names of `polygraph.analysis.ABLATIONS`.
        note: what could not be found, and why; empty where all was.
        seconds: that scores, layers and ablations took.
    """

    scores: Any
    accuracy: float | None
    layers: list[NetworkUse]
    ablations: dict[str, Any]
    note: str
    seconds: tuple[float, float, float]

    def summary(self) -> dict[str, Any]:
        """The scores under their full names, ``layers`` and ``ablations``, ready for JSON."""
        found: dict[str, Any] = self.scores.summary()
        if self.accuracy is not None:
            found["extractor_accuracy"] = self.accuracy
        if self.layers:
            found["layers"] = [use.summary() for use in self.layers]
            found["ablations"] = {kind: made.summary() for kind, made in self.ablations.items()}
        return found

    def __str__(self) -> str:
        """Tables for people."""
        lines = [str(self.scores)]
        if self.accuracy is not None:
            lines.append(f"the extractor gets {self.accuracy:.1%} of the test images right")
        if self.layers:
            lines += ["", *_table_of_layers(self.layers)]
        if self.ablations:
            lines += ["", *_table_of_ablations(self.scores, self.ablations)]
        if self.note:
            lines += ["", self.note]
        if self.layers:
            scores, layers, ablations = self.seconds
            spent = f", ablations {ablations:.0f} s" if self.ablations else ""
            lines += ["", f"scores took {scores:.0f} s, layers {layers:.0f} s{spent}"]
        return "\n".join(lines)


def diagnose_run(
    folder: str | Path,
    count: int,
    *,
    seed: int = 0,
    path: str | None = None,
    classifier: str | Path | None = None,
    inception: str | Path | None = None,
    weights: str = "average",
    dataset: ImageDataset | None = None,
    ablations: bool = True,
) -> Diagnosis:
    """Score a run's generator, and say whether its networks use their non-local layers.

    Gradients are of the generator of the last step, which is the one that trains; all else is of
    the weights that are asked for.

    Args:
        folder: of the run.
        count: generated images of every score.
        seed: of their z, and of random neighbors.
        path: see `score_run`; so are the next four.
        classifier: folder of the classifier's weights.
        inception: file of Inception's weights.
        weights: ``average`` or ``generator``.
        dataset: the run's, opened already.
        ablations: score also without the non-local part and with other neighbors, each of which
            takes as long as the scores.

    Raises:
        CheckpointError: the folder holds no run.
        ValueError: the data are not those that the run was trained on; both hashes are named.
    """
    clock = [time.perf_counter()]
    run = open_run(folder, path=path, weights=weights, dataset=dataset)
    scorer = run.scorer(count, seed=seed, classifier=classifier, inception=inception)
    scores = scorer.scores(run.generator)
    clock.append(time.perf_counter())
    layers, note = use_of_run(run, seed=seed)
    clock.append(time.perf_counter())
    changed = {}
    for kind in ablations_of(run.generator) if ablations else ():
        with ablated(run.generator, kind, seed=seed):
            changed[kind] = scorer.scores(run.generator)
    clock.append(time.perf_counter())
    first, second, third = (after - before for before, after in pairwise(clock))
    return Diagnosis(scores, scorer.accuracy, layers, changed, note, (first, second, third))


def use_of_run(run: OpenedRun, *, seed: int = 0) -> tuple[list[NetworkUse], str]:
    """How the non-local layers of a run are used, and what could not be told."""
    checkpoint, note, critic = checkpoint_of(run.folder), "", None
    try:
        critic, _ = load_critic(checkpoint, run.device)
    except CheckpointError as error:
        note = f"no gradients, the critic cannot be read: {error}"
    generator, _ = load_generator(checkpoint, run.device, weights="generator")
    try:
        settings = run.meta["config"]
        known = {field.name for field in fields(GanConfig)}
        config = GanConfig(**{key: v for key, v in settings["gan"].items() if key in known})
        batch_size = int(settings["train"]["batch_size"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{run.folder}: the run's settings: {error}") from error
    layers = use_of_pair(
        generator,
        critic,
        run.generator,
        config,
        run.dataset,
        batch_size=max(1, min(_LARGEST_BATCH, batch_size)),
        seed=seed,
        images=_IMAGES,
    )
    return layers, note if layers else ""


def write_neighbors(
    folder: str | Path, path: str | Path | None = None, *, seed: int = 0, weights: str = "average"
) -> Path | None:
    """Draw which pixels a run's generator joins; see `polygraph.report.neighbor_picture`.

    Args:
        folder: of the run.
        path: a PNG file; None: ``neighbours.png`` in the folder.
        seed: of z, as of `Run.sample`: the first images.
        weights: ``average`` or ``generator``.

    Returns:
        The file; None where the generator has no such layers, and nothing is written.

    Raises:
        ValueError: the name does not end in .png.
        OSError: the file cannot be written.
    """
    from polygraph.report.neighbor_picture import write_neighbor_picture

    generator, _ = load_generator(checkpoint_of(Path(folder)), weights=weights)
    if not nonlocal_layers(generator):
        return None
    z = latent_vectors(_PICTURED, generator.config, seed)
    z = z.to(next(generator.parameters()).dtype)
    return write_neighbor_picture(Path(folder) / PICTURE if path is None else path, generator, z)


# ---- tables ----


def _table_of_layers(layers: list[NetworkUse]) -> list[str]:
    """Numbers of each layer, those of places beside chance."""
    rows: list[tuple[str, ...]] = [
        (
            *("layer", "kind", "NL / L", "varying", "grad NL", "grad L"),
            *("distance", "in 5 x 5", "entropy, bits"),
        )
    ]
    for use in layers:
        found, chance = use.layer.places, use.layer.chance
        gradients = (use.nonlocal_gradient, use.local_gradient)
        rows.append(
            (
                use.label,
                use.layer.kind,
                f"{use.layer.ratio:.3f}",
                f"{use.layer.varying:.3f}",
                *("-" if norm is None else f"{norm:.2e}" for norm in gradients),
                f"{found.distance:.2f} ({chance.distance:.2f})",
                f"{found.near:.1%} ({chance.near:.1%})",
                f"{found.entropy:.2f} ({chance.entropy:.2f})",
            )
        )
    return [
        "NL / L: norm of the non-local part over the local one's; varying: without feature means;",
        "grad: of the weights of both parts; neighbours: distance in pixels, share within 5 x 5,",
        "entropy of the offsets; in brackets what they would be by chance",
        *_aligned(rows),
    ]


def _table_of_ablations(scores: Any, ablations: dict[str, Any]) -> list[str]:
    """Scores with the change to those of the whole network."""
    rows = [("the same z with", "IS", "FID", "KID")]
    for kind, made in ablations.items():
        rows.append(
            (
                ABLATIONS[kind],
                f"{made.is_mean:.3f} ({made.is_mean - scores.is_mean:+.3f})",
                f"{made.fid:.3f} ({made.fid - scores.fid:+.3f})",
                f"{made.kid_mean:.4f} ({made.kid_mean - scores.kid_mean:+.4f})",
            )
        )
    return _aligned(rows)


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
