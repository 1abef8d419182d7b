"""Embeddings that verify identities: faces, characters, shapes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from polygraph.tasks import Command

if TYPE_CHECKING:
    from collections.abc import Callable

    from polygraph.tasks.verify.run import Run


def command() -> Command:
    """What `polygraph train verify` calls."""
    from polygraph.tasks.verify.arguments import parse_train_verify
    from polygraph.tasks.verify.training import describe_result, train_verify

    return Command(parse_train_verify, train_verify, describe_result)


def train(
    data: Any,
    out: str | Path,
    *,
    preset: str | None = None,
    say: Callable[[str], None] | None = None,
    **settings: Any,
) -> Run:
    """Train embeddings that say whether two samples are of one identity, and measure them.

    The same as `polygraph train verify`, from Python: the same presets, progress bar, log and
    folder. Identities are divided: those that test are never seen in training. A run that was
    interrupted goes on with ``resume=True``.

    Args:
        data: a folder with a folder of pictures for each identity; an archive, or a folder of
            meshes, with its ``kind``; ``"glyphs"`` (built in); ``(images uint8 [N, C, H, W],
            identities [N])`` or ``(clouds [N, P, 3], identities [N])`` of numpy or torch; a
            `polygraph.data.ImageDataset` or a `polygraph.data.ShapeDataset` with labels.
        out: folder of the run.
        preset: the network: ``"bed/conv"`` (the default), ``"lenet"``, ... as of
            `polygraph.tasks.images`; of clouds ``"dgcnn"``.
        say: called with lines for people; None: they go to stderr.
        **settings: the words of the command line: ``loss`` (``"arcface"``, ``"cosface"``,
            ``"norm-softmax"``, ``"softmax"``), ``margin``, ``embedding_dim``, ``mirror``,
            ``epochs`` or ``steps``, ``batch_size``, ``learning_rate``, ``seed``, ``kind``,
            ``test_names``, ``test_fraction``, ``split_seed``, ``folds``, ``resume``,
            ``accelerator``, ``config``, groups as dictionaries (``augment={"flip": True}``), and
            all others of `polygraph train verify --help-all`.

    Returns:
        The run with its best weights, on the CPU.

    Raises:
        ImportError: pytorch-metric-learning is missing; the message names the extra.
        ValueError: a setting is unknown or bad, or the data are.
        CheckpointError: the folder holds a run already.
        TrainingStopped: a loss that is not finite, a full disk, no memory.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from polygraph.tasks import verify
        >>> noise, people = torch.randint(256, (80, 1, 28, 28)).byte(), torch.arange(80) % 10
        >>> run = verify.train(
        ...     (noise, people), tempfile.mkdtemp(), preset="lenet", loss="softmax", steps=2,
        ...     batch_size=8, folds=2, say=lambda line: None
        ... )
        >>> run.embed(noise[:2]).shape
        (2, 128)
        >>> run.verify(noise[:2], noise[:2]).same
        array([ True,  True])

        Clouds go the same way, by a DGCNN.

        >>> clouds = torch.randn(40, 32, 3)
        >>> run = verify.train(
        ...     (clouds, torch.arange(40) % 8), tempfile.mkdtemp(), loss="softmax", steps=2,
        ...     batch_size=4, k=4, folds=2, say=lambda line: None
        ... )
        >>> run.similarity(clouds[0], clouds[1]).shape
        (1,)
    """
    from dataclasses import replace

    from polygraph.tasks.verify.arguments import POINT_PRESET, parse_train_verify
    from polygraph.tasks.verify.run import in_memory
    from polygraph.tasks.verify.training import train_verify
    from polygraph.train.log import say_on_stderr
    from polygraph.train.words import call_words

    if isinstance(data, str | Path):
        config, folder, resume = parse_train_verify(call_words(data, out, preset, settings))
        train_verify(config, folder, resume=resume, say=say or say_on_stderr)
        return load(folder)
    samples = data[0] if isinstance(data, tuple | list) else getattr(data, "points", data)
    if preset is None and getattr(samples, "ndim", 0) == 3:
        preset = POINT_PRESET
    words = call_words(None, out, preset, {**settings, "kind": "arrays"})
    config, folder, resume = parse_train_verify(words)
    dataset = in_memory(data, config.data)
    train_verify(config, folder, resume=resume, dataset=dataset, say=say or say_on_stderr)
    return replace(load(folder), dataset=dataset)


def load(folder: str | Path, device: Any = "cpu") -> Run:
    """Load a trained embedder, with the weights that were best on validation.

    Args:
        folder: of a run.
        device: where the model goes.

    Raises:
        CheckpointError: the folder holds no run, or one of another kind.

    Example:
        >>> import tempfile
        >>> from polygraph.tasks import verify
        >>> verify.load(tempfile.mkdtemp())  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        polygraph.train.checkpoint.CheckpointError: ...: no run here (...)
    """
    from polygraph.tasks.verify.run import load_run

    return load_run(folder, device)
