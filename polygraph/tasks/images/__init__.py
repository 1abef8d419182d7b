"""Classifiers of images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from polygraph.tasks import Command

if TYPE_CHECKING:
    from collections.abc import Callable

    from polygraph.tasks.images.run import Run


def command() -> Command:
    """What `polygraph train images` calls."""
    from polygraph.tasks.images.arguments import parse_train_images
    from polygraph.tasks.images.training import describe_result, train_images

    return Command(parse_train_images, train_images, describe_result)


def train(
    data: Any,
    out: str | Path,
    *,
    preset: str | None = None,
    say: Callable[[str], None] | None = None,
    **settings: Any,
) -> Run:
    """Train a classifier of images, select its weights on validation, measure the test images once.

    The same as `polygraph train images`, from Python: the same presets, progress bar, log and
    folder. A run that was interrupted goes on with ``resume=True``.

    Args:
        data: a folder of folders of pictures, whose names are the classes; ``"glyphs"`` (built-in
            digits); ``(images, labels)`` of numpy or torch, uint8 ``[N, C, H, W]`` (C 1 or 3, up to
            32 x 32) and integers ``[N]``; or a `polygraph.data.ImageDataset` of any size.
        out: folder of the run.
        preset: the network, such as ``"bed/conv"`` (the default), ``"bed/edge-k8"``, ``"lenet"``
            or ``"resnet18"``;
            see `polygraph.models.images.presets.CLASSIFIER_PRESETS`.
        say: called with lines for people; None: they go to stderr.
        **settings: the words of the command line: ``epochs`` or ``steps``, ``batch_size``,
            ``learning_rate``, ``seed``, ``width``, ``kind`` (``"mnist"``, ``"cifar10"``, ... of a
            folder), ``train_images`` (train with fewer), ``val_fraction``, ``resume``,
            ``accelerator``, ``config``, groups as dictionaries (``augment={"flip": True}``,
            ``model={"merge": "gate"}``), and all others of `polygraph train images --help-all`.

    Returns:
        The run with its best weights, on the CPU.

    Raises:
        ValueError: a setting is unknown or bad, or the data are.
        CheckpointError: the folder holds a run already.
        TrainingStopped: a loss that is not finite, a full disk, no memory.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from polygraph.tasks import images
        >>> noise, labels = torch.randint(256, (60, 1, 28, 28)).byte(), torch.arange(60) % 3
        >>> run = images.train(
        ...     (noise, labels), tempfile.mkdtemp(), preset="lenet", steps=2, batch_size=8,
        ...     say=lambda line: None
        ... )
        >>> run.classes, run.result["test"]["num_samples"]
        (('0', '1', '2'), 6)
        >>> run.predict(noise[:2]).shape
        (2,)
    """
    from dataclasses import replace

    from polygraph.data.given_images import in_memory, is_in_memory
    from polygraph.data.images import ARRAYS
    from polygraph.tasks.images.arguments import parse_train_images
    from polygraph.tasks.images.training import train_images
    from polygraph.train.log import say_on_stderr
    from polygraph.train.words import call_words

    dataset = None
    if is_in_memory(data):
        dataset, data = in_memory(data), None
        settings = {**settings, "kind": ARRAYS}
    config, folder, resume = parse_train_images(call_words(data, out, preset, settings))
    train_images(config, folder, resume=resume, dataset=dataset, say=say or say_on_stderr)
    return replace(load(folder), dataset=dataset)


def load(folder: str | Path, device: Any = "cpu") -> Run:
    """Load a trained classifier of images, with the weights that were best on validation.

    Args:
        folder: of a run.
        device: where the model goes.

    Raises:
        CheckpointError: the folder holds no run, or one of another kind.

    Example:
        >>> import tempfile
        >>> from polygraph.tasks import images
        >>> images.load(tempfile.mkdtemp())  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        polygraph.train.checkpoint.CheckpointError: ...: no run here (...)
    """
    from polygraph.tasks.images.run import load_run

    return load_run(folder, device)
