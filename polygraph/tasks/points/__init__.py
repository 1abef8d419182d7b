"""Classifiers and segmenters of point clouds (DGCNN)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from polygraph.tasks import Command

if TYPE_CHECKING:
    from collections.abc import Callable

    from polygraph.tasks.points.run import Run


def command() -> Command:
    """What `polygraph train points` calls."""
    from polygraph.tasks.points.arguments import parse_train_points
    from polygraph.tasks.points.training import describe_result, train_points

    return Command(parse_train_points, train_points, describe_result)


def train(
    data: Any,
    out: str | Path,
    *,
    say: Callable[[str], None] | None = None,
    **settings: Any,
) -> Run:
    """Train a DGCNN, select its weights on validation, measure the test clouds once.

    The same as `polygraph train points`, from Python: the same recipe (250 epochs), progress bar,
    log and folder. A run that was interrupted goes on with ``resume=True``.

    Args:
        data: an ``.npz`` archive (see `polygraph.data.shapes`), ``"shapes"`` or ``"objects"``
            (built in; the points of objects have parts), ``(points [S, N, 3], labels [S])`` or
            ``(points, labels, parts [S, N])`` of numpy or torch, or a
            `polygraph.data.ShapeDataset`.
        out: folder of the run.
        say: called with lines for people; None: they go to stderr.
        **settings: the words of the command line: ``task`` (``"classify"``, or ``"segment"``, which
            labels every point and needs parts), ``epochs`` or ``steps``, ``batch_size``, ``k``
            (neighbours: 20, to segment 40), ``learning_rate``, ``seed``, ``resume``,
            ``accelerator``, ``config`` (``"points-sgd"``), groups as dictionaries
            (``model={"dropout": 0.3}``), and all others of `polygraph train points --help-all`.

    Returns:
        The run with its best weights, on the CPU.

    Raises:
        ValueError: a setting is unknown or bad, or the data are.
        CheckpointError: the folder holds a run already.
        TrainingStopped: a loss that is not finite, a full disk, no memory.

    Example:
        >>> import tempfile
        >>> from polygraph.tasks import points
        >>> run = points.train(
        ...     "shapes", tempfile.mkdtemp(), steps=2, batch_size=4, k=8, say=lambda line: None
        ... )
        >>> run.classes
        ('sphere', 'box', 'cylinder', 'cone', 'torus')
        >>> import torch
        >>> run.predict(torch.randn(3, 100, 3)).shape
        (3,)

        Every point of mugs, tables, lamps and rockets; the network is told which of them it sees.

        >>> run = points.train(
        ...     "objects", tempfile.mkdtemp(), task="segment", steps=2, batch_size=4, k=8,
        ...     model={"embedding_channels": 32}, say=lambda line: None
        ... )
        >>> run.predict(torch.randn(3, 100, 3), ["mug", "mug", "lamp"]).shape
        (3, 100)
    """
    from dataclasses import replace

    from polygraph.data.shapes import ARRAYS
    from polygraph.tasks.points.arguments import parse_train_points
    from polygraph.tasks.points.run import in_memory, is_in_memory
    from polygraph.tasks.points.training import train_points
    from polygraph.train.log import say_on_stderr
    from polygraph.train.words import call_words

    dataset = in_memory(data) if is_in_memory(data) else None
    words = call_words(data if dataset is None else ARRAYS, out, None, settings)
    config, folder, resume = parse_train_points(words)
    train_points(config, folder, resume=resume, dataset=dataset, say=say or say_on_stderr)
    return replace(load(folder), dataset=dataset)


def load(folder: str | Path, device: Any = "cpu") -> Run:
    """Load a trained network of point clouds, with the weights that were best on validation.

    Args:
        folder: of a run.
        device: where the model goes.

    Raises:
        CheckpointError: the folder holds no run, or one of another kind.

    Example:
        >>> import tempfile
        >>> from polygraph.tasks import points
        >>> points.load(tempfile.mkdtemp())  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        polygraph.train.checkpoint.CheckpointError: ...: no run here (...)
    """
    from polygraph.tasks.points.run import load_run

    return load_run(folder, device)
