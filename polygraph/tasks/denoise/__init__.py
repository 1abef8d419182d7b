"""Denoisers of pictures."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polygraph.tasks import Command

if TYPE_CHECKING:
    from collections.abc import Callable

    from polygraph.tasks.denoise.run import Run


def command() -> Command:
    """What `polygraph train denoise` calls."""
    from polygraph.tasks.denoise.arguments import parse_train_denoise
    from polygraph.tasks.denoise.training import describe_result, train_denoise

    return Command(parse_train_denoise, train_denoise, describe_result)


def train(
    data: Any,
    out: str | Path,
    *,
    test: Any = None,
    preset: str | None = None,
    say: Callable[[str], None] | None = None,
    **settings: Any,
) -> Run:
    """Train a denoiser on clean pictures, select its weights on validation, measure it once.

    The same as `polygraph train denoise`, from Python: the same presets, progress bar, log and
    folder. A run that was interrupted goes on with ``resume=True``.

    Args:
        data: a folder of clean pictures of any sizes; ``"scikit-image"`` (photographs that its
            wheel holds); or a list of pictures, uint8 ``[H, W]``, or ``[H, W, 3]`` with
            ``channels=3``.
        out: folder of the run.
        test: pictures that test, of the same form: a folder or a list; None: some of ``data``.
        preset: the network, such as ``"gcdn-33"`` (the default) or ``"dncnn-10"``; see
            `polygraph.models.denoiser.presets.DENOISER_PRESETS`.
        say: called with lines for people; None: they go to stderr.
        **settings: the words of the command line: ``sigma`` (25, or ``[5, 50]``), ``steps``,
            ``batch_size``, ``patch``, ``learning_rate``, ``seed``, ``width``, ``k``, ``resume``,
            ``accelerator``, ``config``, and all others of `polygraph train denoise --help-all`.

    Returns:
        The run with its best weights, on the CPU.

    Raises:
        ValueError: a setting is unknown or bad, or the data are.
        CheckpointError: the folder holds a run already.
        TrainingStopped: a loss that is not finite, a full disk, no memory.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from polygraph.tasks import denoise
        >>> ramp = np.add.outer(np.arange(32), np.arange(40)).astype(np.uint8)
        >>> ramps = [ramp + 10 * n for n in range(4)]
        >>> run = denoise.train(
        ...     ramps, tempfile.mkdtemp(), preset="dncnn-10", width=4, steps=2, batch_size=2,
        ...     patch=16, say=lambda line: None
        ... )
        >>> run.result["test"]["num_pictures"], run.denoise(ramps[0]).shape
        (1, (32, 40))
    """
    from dataclasses import replace

    from polygraph.data.pictures import ARRAYS, open_pictures, pictures_from_arrays
    from polygraph.tasks.denoise.arguments import parse_train_denoise
    from polygraph.tasks.denoise.training import train_denoise
    from polygraph.train.log import say_on_stderr
    from polygraph.train.words import call_words

    arrays = None
    if not isinstance(data, str | os.PathLike):
        arrays, data = list(data), None
        settings = {**settings, "kind": ARRAYS}
    elif test is not None:
        settings = {**settings, "test": str(test)}
    config, folder, resume = parse_train_denoise(call_words(data, out, preset, settings))
    if arrays is None:
        dataset = open_pictures(config.data)
    else:
        dataset = pictures_from_arrays(arrays, config.data, test)
    train_denoise(config, folder, resume=resume, dataset=dataset, say=say or say_on_stderr)
    return replace(load(folder), dataset=dataset)


def load(folder: str | Path, device: Any = "cpu") -> Run:
    """Load a trained denoiser, with the weights that were best on validation.

    Args:
        folder: of a run.
        device: where the model goes.

    Raises:
        CheckpointError: the folder holds no run, or one of another kind.

    Example:
        >>> import tempfile
        >>> from polygraph.tasks import denoise
        >>> denoise.load(tempfile.mkdtemp())  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        polygraph.train.checkpoint.CheckpointError: ...: no run here (...)
    """
    from polygraph.tasks.denoise.run import load_run

    return load_run(folder, device)
