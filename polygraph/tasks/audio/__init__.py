"""Classifiers of sounds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polygraph.tasks import Command

if TYPE_CHECKING:
    from collections.abc import Callable

    from polygraph.tasks.audio.run import Run


def command() -> Command:
    """What `polygraph train audio` calls."""
    from polygraph.tasks.audio.arguments import parse_train_audio
    from polygraph.tasks.audio.training import describe_result, train_audio

    return Command(parse_train_audio, train_audio, describe_result)


def train(
    data: Any,
    out: str | Path,
    *,
    preset: str | None = None,
    say: Callable[[str], None] | None = None,
    **settings: Any,
) -> Run:
    """Train a classifier of sounds, select its weights on validation, measure the test clips once.

    The same as `polygraph train audio`, from Python: the same presets, progress bar, log and
    folder. A run that was interrupted goes on with ``resume=True``.

    Args:
        data: a folder in the layout of Speech Commands or of the Free Spoken Digit Dataset, or of
            folders whose names are the classes; ``"tones"`` (built-in sounds); or a
            `polygraph.data.AudioDataset`, which ``AudioDataset.from_arrays`` makes of arrays.
        out: folder of the run.
        preset: the network, such as ``"bed/conv"`` (the default) or ``"lenet"``; see
            `polygraph.models.images.presets.CLASSIFIER_PRESETS`.
        say: called with lines for people; None: they go to stderr.
        **settings: the words of the command line: ``split`` (``"speaker:theo"``), ``epochs`` or
            ``steps``, ``batch_size``, ``learning_rate``, ``seed``, ``width``, ``balanced``,
            ``val_fraction``, ``resume``, ``accelerator``, ``config``, groups as dictionaries
            (``augment={"noise": 0.2}``), and all others of `polygraph train audio --help-all`.

    Returns:
        The run with its best weights, on the CPU.

    Raises:
        ValueError: a setting is unknown or bad, or the data are.
        CheckpointError: the folder holds a run already.
        TrainingStopped: a loss that is not finite, a full disk, no memory.

    Example:
        >>> import tempfile
        >>> from polygraph.data import AudioDataConfig, open_audio
        >>> from polygraph.tasks import audio
        >>> tones = open_audio(AudioDataConfig(num_clips=60))
        >>> run = audio.train(
        ...     tones, tempfile.mkdtemp(), preset="lenet", steps=2, batch_size=8,
        ...     say=lambda line: None
        ... )
        >>> run.classes, run.result["test"]["num_samples"]
        (('falling', 'high', 'low', 'rising'), 8)
        >>> run.predict(tones.clips(tones.test)).shape
        (8,)
    """
    from dataclasses import replace

    from polygraph.data.audio.dataset import ARRAYS, AudioDataset
    from polygraph.tasks.audio.arguments import parse_train_audio
    from polygraph.tasks.audio.training import train_audio
    from polygraph.train.log import say_on_stderr
    from polygraph.train.words import call_words

    dataset = None
    if isinstance(data, AudioDataset):
        dataset, data = data, None
        settings = {**settings, "kind": ARRAYS}
    elif not isinstance(data, str | os.PathLike):
        raise TypeError(
            f"data must be a folder, 'tones' or an AudioDataset, got {type(data).__name__}"
        )
    config, folder, resume = parse_train_audio(call_words(data, out, preset, settings))
    train_audio(config, folder, resume=resume, dataset=dataset, say=say or say_on_stderr)
    return replace(load(folder), dataset=dataset)


def load(folder: str | Path, device: Any = "cpu") -> Run:
    """Load a trained classifier of sounds, with the weights that were best on validation.

    Args:
        folder: of a run.
        device: where the model goes.

    Raises:
        CheckpointError: the folder holds no run, or one of another kind.

    Example:
        >>> import tempfile
        >>> from polygraph.tasks import audio
        >>> audio.load(tempfile.mkdtemp())  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        polygraph.train.checkpoint.CheckpointError: ...: no run here (...)
    """
    from polygraph.tasks.audio.run import load_run

    return load_run(folder, device)
