"""Generators and critics of images, and the classifier that images are scored through."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from polygraph.tasks import Command

if TYPE_CHECKING:
    from collections.abc import Callable

    from polygraph.tasks.gan.run import Run


def command() -> Command:
    """What `polygraph train gan` calls."""
    from polygraph.tasks.gan.arguments import parse_train_gan
    from polygraph.tasks.gan.training import describe_result, train_gan

    return Command(parse_train_gan, train_gan, describe_result)


def train(
    data: Any,
    out: str | Path,
    *,
    preset: str | None = None,
    say: Callable[[str], None] | None = None,
    **settings: Any,
) -> Run:
    """Train a generator of images against a critic.

    The same as `polygraph train gan`, from Python: the same presets, progress bar, log and folder.
    A run that was interrupted goes on with ``resume=True``.

    Args:
        data: a folder of pictures, ``"glyphs"`` (built-in digits), images uint8 ``[N, C, H, W]`` of
            numpy or torch (C 1 or 3; smaller than ``size`` they are padded with black),
            ``(images, labels [N])``, or a `polygraph.data.ImageDataset`.
        out: folder of the run.
        preset: networks and recipe, such as ``"digits"`` (the default: 1,000 steps),
            ``"small/edge-k8"`` or ``"pi/sngan-ncp"``; see `polygraph.tasks.gan.presets`.
        say: called with lines for people; None: they go to stderr.
        **settings: the words of the command line: ``steps``, ``batch_size``, ``latent``,
            ``learning_rate``, ``seed``, ``size`` (of the images), ``kind`` (``"mnist"``,
            ``"cifar10"``, ... of a folder), ``score_images`` (select weights by FID; needs labels),
            ``resume``, ``accelerator``, ``config``, groups as dictionaries
            (``gan={"critic_steps": 1}``), and all others of `polygraph train gan --help-all`.

    Returns:
        The run with its averaged generator, on the CPU.

    Raises:
        ValueError: a setting is unknown or bad, or the data are.
        CheckpointError: the folder holds a run already.
        TrainingStopped: a loss or weight that is not finite, a full disk, no memory.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from polygraph.tasks import gan
        >>> noise = torch.randint(256, (20, 1, 28, 28), dtype=torch.uint8)
        >>> run = gan.train(
        ...     noise, tempfile.mkdtemp(), steps=1, batch_size=2, say=lambda line: None
        ... )
        >>> run.sample(4).shape
        torch.Size([4, 1, 32, 32])
    """
    from dataclasses import replace

    from polygraph.data.given_images import in_memory, is_in_memory
    from polygraph.data.images import ARRAYS
    from polygraph.models.images.sizes import SIZE
    from polygraph.tasks.gan.arguments import parse_train_gan
    from polygraph.tasks.gan.training import train_gan
    from polygraph.train.log import say_on_stderr
    from polygraph.train.words import call_words

    dataset = None
    if is_in_memory(data):
        dataset, data = in_memory(data, settings.get("size", SIZE)), None
        settings = {**settings, "kind": ARRAYS, "size": dataset.size}
    config, folder, resume = parse_train_gan(call_words(data, out, preset, settings))
    train_gan(config, folder, resume=resume, dataset=dataset, say=say or say_on_stderr)
    return replace(load(folder), dataset=dataset)


def load(folder: str | Path, device: Any = "cpu", *, weights: str = "average") -> Run:
    """Load a trained generator: the weights of the lowest FID, or the last.

    Args:
        folder: of a run.
        device: where the generator goes.
        weights: ``average`` or ``generator``: averaged over the steps, or of the step itself.

    Raises:
        CheckpointError: the folder holds no run, or one of another kind.

    Example:
        >>> import tempfile
        >>> from polygraph.tasks import gan
        >>> gan.load(tempfile.mkdtemp())  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        polygraph.train.checkpoint.CheckpointError: ...: no run here (...)
    """
    from polygraph.tasks.gan.run import load_run

    return load_run(folder, device, weights=weights)
