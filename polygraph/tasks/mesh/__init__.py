"""Mesh autoencoders: training, finished runs, walks in their codes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from polygraph.tasks import Command

if TYPE_CHECKING:
    from collections.abc import Callable

    from polygraph.tasks.mesh.run import Run


def command() -> Command:
    """What `polygraph train mesh` calls."""
    from polygraph.tasks.mesh.arguments import parse_train_mesh
    from polygraph.tasks.mesh.training import describe_result, train_mesh

    return Command(parse_train_mesh, train_mesh, describe_result)


def train(
    data: Any,
    out: str | Path,
    *,
    preset: str | None = None,
    say: Callable[[str], None] | None = None,
    **settings: Any,
) -> Run:
    """Train a mesh autoencoder, select its weights on validation, measure the test meshes once.

    The same as `polygraph train mesh`, from Python: the same defaults, progress bar, log and
    folder. A run that was interrupted goes on with ``resume=True``.

    Args:
        data: meshes of one topology: a folder (of .ply, .obj, .off or .stl files, or with
            ``vertices.npy`` and ``faces.npy``), ``"synthetic"`` (the built-in animal),
            ``(vertices [F, V, 3], faces [T, 3])`` of numpy or torch, or a
            `polygraph.data.MeshDataset`.
        out: folder of the run.
        preset: kind of network, such as ``"full-2"`` (the default), ``"first-order"`` or
            ``"neural3dmm"``; see `polygraph.models.get_preset`.
        say: called with lines for people; None: they go to stderr.
        **settings: the words of the command line: ``steps`` (16,000), ``batch_size`` (16),
            ``latent`` (numbers per mesh, 16), ``learning_rate``, ``seed``, ``factors``, ``split``,
            ``kind``, ``to_mm`` (millimetres per unit; 1000, metres), ``resume``, ``accelerator``,
            ``config`` (a recipe, such as ``"mesh-published"``), groups as dictionaries
            (``model={"norm": "batch"}``), and all others of `polygraph train mesh --help-all`.

    Returns:
        The run with its best weights, on the CPU.

    Raises:
        ValueError: a setting is unknown or bad, or the data are too few.
        MeshError: the meshes are bad.
        CheckpointError: the folder holds a run already.
        TrainingStopped: a loss that is not finite, a full disk, no memory.

    Example:
        >>> import tempfile
        >>> from polygraph.data import make_creature
        >>> from polygraph.tasks import mesh
        >>> run = mesh.train(
        ...     make_creature(40), tempfile.mkdtemp(), steps=3, latent=4, say=lambda line: None
        ... )
        >>> run.model.config.latent_channels, round(run.result["test"]["mean"]) > 0
        (4, True)
        >>> meshes = run.dataset.gather([0, 1])
        >>> run.reconstruct(meshes).shape, run.encode(meshes).shape
        ((2, 1922, 3), torch.Size([2, 4]))
    """
    from dataclasses import replace

    from polygraph.data.config import ARRAYS
    from polygraph.tasks.mesh.arguments import parse_train_mesh
    from polygraph.tasks.mesh.given import in_memory, is_in_memory
    from polygraph.tasks.mesh.training import train_mesh
    from polygraph.train.log import say_on_stderr
    from polygraph.train.words import call_words

    dataset = None
    if is_in_memory(data):
        dataset = in_memory(data, settings.get("to_mm"))
        settings = {**settings, "to_mm": dataset.to_mm, "kind": ARRAYS}
        data = None
    words = call_words(data, out, preset, settings)
    config, folder, resume = parse_train_mesh(words)
    train_mesh(config, folder, resume=resume, dataset=dataset, say=say or say_on_stderr)
    return replace(load(folder), dataset=dataset)


def load(folder: str | Path, device: Any = "cpu") -> Run:
    """Load a trained mesh autoencoder, with the weights that were best on validation.

    Args:
        folder: of a run, or of an exported model.
        device: where the model goes.

    Raises:
        CheckpointError: the folder holds no run, or one of another kind.
        PretrainedError: an exported model is damaged.

    Example:
        >>> import tempfile
        >>> from polygraph.tasks import mesh
        >>> mesh.load(tempfile.mkdtemp())  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        polygraph.train.checkpoint.CheckpointError: ...: no run here (...)
    """
    from polygraph.tasks.mesh.run import load_run

    return load_run(folder, device)
