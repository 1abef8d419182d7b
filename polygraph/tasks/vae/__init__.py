"""Variational autoencoders of images and meshes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from polygraph.tasks import Command

if TYPE_CHECKING:
    from collections.abc import Callable

    from polygraph.tasks.vae.run import Run


def command() -> Command:
    """What `polygraph train vae` calls: of meshes it is what `polygraph train mesh` does."""
    from polygraph.tasks.vae.arguments import parse_train_vae
    from polygraph.tasks.vae.training import describe_either, train_either

    return Command(parse_train_vae, train_either, describe_either)


def train(
    data: Any,
    out: str | Path,
    *,
    preset: str | None = None,
    say: Callable[[str], None] | None = None,
    **settings: Any,
) -> Run:
    """Train a variational autoencoder of images; of meshes: `polygraph.tasks.mesh.train`.

    The same as `polygraph train vae`, from Python: the same presets, progress bar, log and folder.
    A run that was interrupted goes on with ``resume=True``. Meshes are trained by
    `polygraph.tasks.mesh.train` with a preset such as ``"vae-full-2"``.

    Args:
        data: a folder of pictures, ``"glyphs"`` (built-in digits), images uint8 ``[N, C, H, W]`` of
            numpy or torch, ``(images, labels [N])``, or a `polygraph.data.ImageDataset`.
        out: folder of the run.
        preset: ``"vae/conv"`` (the default) or ``"vae/bernoulli"``.
        say: called with lines for people; None: they go to stderr.
        **settings: the words of the command line: ``epochs`` or ``steps``, ``batch_size``,
            ``latent``, ``likelihood``, ``beta``, ``warmup_steps``, ``free_bits``, ``kind``
            (``"mnist"``, ... of a folder), ``seed``, ``resume``, ``accelerator``, ``config``,
            groups as dictionaries, and all others of `polygraph train vae --help-all`.

    Returns:
        The run with its best weights, on the CPU.

    Raises:
        ValueError: a setting is unknown or bad, or the data are; the preset is of meshes.
        CheckpointError: the folder holds a run already.
        TrainingStopped: a loss that is not finite, a full disk, no memory.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from polygraph.tasks import vae
        >>> noise = torch.randint(256, (60, 1, 28, 28)).byte()
        >>> run = vae.train(
        ...     noise, tempfile.mkdtemp(), steps=2, batch_size=8, latent=4,
        ...     say=lambda line: None
        ... )
        >>> run.sample(3).shape, run.encode(noise[:2]).shape
        (torch.Size([3, 1, 32, 32]), torch.Size([2, 4]))
        >>> run.result["test"]["num_samples"]
        6
    """
    from dataclasses import replace

    from polygraph.data.given_images import in_memory, is_in_memory
    from polygraph.data.images import ARRAYS
    from polygraph.models.images.sizes import SIZE
    from polygraph.tasks.vae.arguments import DEFAULT_PRESET, MESH_VAES, parse_train_vae
    from polygraph.tasks.vae.training import VaeRunConfig, train_vae
    from polygraph.train.log import say_on_stderr
    from polygraph.train.words import call_words

    if preset in MESH_VAES:
        raise ValueError(
            f"train: preset {preset!r} is of meshes, which polygraph.tasks.mesh.train takes"
        )
    dataset = None
    if is_in_memory(data):
        dataset, data = in_memory(data, settings.get("size", SIZE)), None
        settings = {**settings, "kind": ARRAYS, "size": dataset.size}
    preset = DEFAULT_PRESET if preset is None and not settings.get("resume") else preset
    config, folder, resume = parse_train_vae(call_words(data, out, preset, settings))
    assert isinstance(config, VaeRunConfig)  # of meshes there are presets of their own
    train_vae(config, folder, resume=resume, dataset=dataset, say=say or say_on_stderr)
    return replace(load(folder), dataset=dataset)


def load(folder: str | Path, device: Any = "cpu") -> Run:
    """Load a trained variational autoencoder of images, with the weights that were best.

    Args:
        folder: of a run.
        device: where the model goes.

    Raises:
        CheckpointError: the folder holds no run, or one of another kind.

    Example:
        >>> import tempfile
        >>> from polygraph.tasks import vae
        >>> vae.load(tempfile.mkdtemp())  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        polygraph.train.checkpoint.CheckpointError: ...: no run here (...)
    """
    from polygraph.tasks.vae.run import load_run

    return load_run(folder, device)
