"""Denoisers of pictures, of meshes and of point clouds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polygraph.tasks import Command

if TYPE_CHECKING:
    from collections.abc import Callable

    from polygraph.tasks.denoise.run import Run
    from polygraph.tasks.denoise.vertex_run import VertexRun


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
) -> Run | VertexRun:
    """Train a denoiser on clean pictures or shapes, select on validation, measure it once.

    The same as `polygraph train denoise`, from Python: the same presets, progress bar, log and
    folder. A run that was interrupted goes on with ``resume=True``.

    Args:
        data: a folder of clean pictures of any sizes; ``"scikit-image"`` (photographs that its
            wheel holds); or a list of pictures, uint8 ``[H, W]``, or ``[H, W, 3]`` with
            ``channels=3``. With ``kind="mesh"`` a folder of meshes of one topology, a
            `polygraph.data.MeshDataset` or ``(vertices [N, V, 3], faces [F, 3])``; with
            ``kind="cloud"`` a folder of point clouds or a list of them, ``[V, 3]`` each.
        out: folder of the run.
        test: pictures that test, of the same form: a folder or a list; None: some of ``data``.
        preset: the network, such as ``"gcdn-33"`` (the default) or ``"dncnn-10"``; see
            `polygraph.models.denoiser.presets.DENOISER_PRESETS`. Of shapes ``"vertex-light"`` (the
            default), ``"vertex-ecc"``, ``"vertex-edge"`` or ``"vertex-local"``.
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

        Of point clouds:

        >>> clouds = np.random.default_rng(0).random((4, 60, 3))
        >>> run = denoise.train(
        ...     clouds, tempfile.mkdtemp(), kind="cloud", width=4, steps=2, batch_size=2, points=50,
        ...     say=lambda line: None
        ... )
        >>> run.result["test"]["num_shapes"], run.denoise(clouds[0]).shape
        (1, (60, 3))
    """
    from dataclasses import replace

    from polygraph.data.pictures import ARRAYS, open_pictures, pictures_from_arrays
    from polygraph.data.vertex_sets import KINDS as VERTEX_KINDS
    from polygraph.models.denoiser.vertices import VERTEX_PRESETS
    from polygraph.tasks.denoise.picture_arguments import parse_train_pictures
    from polygraph.tasks.denoise.picture_training import train_pictures
    from polygraph.train.log import say_on_stderr
    from polygraph.train.words import call_words

    if settings.get("kind") in VERTEX_KINDS or preset in VERTEX_PRESETS:
        if test is not None:
            raise ValueError("train: test is of pictures; a folder of meshes may have splits.json")
        return _train_vertices(data, out, preset, say or say_on_stderr, settings)
    arrays = None
    if not isinstance(data, str | os.PathLike):
        arrays, data = list(data), None
        settings = {**settings, "kind": ARRAYS}
    elif test is not None:
        settings = {**settings, "test": str(test)}
    config, folder, resume = parse_train_pictures(call_words(data, out, preset, settings))
    if arrays is None:
        dataset = open_pictures(config.data)
    else:
        dataset = pictures_from_arrays(arrays, config.data, test)
    train_pictures(config, folder, resume=resume, dataset=dataset, say=say or say_on_stderr)
    return replace(load(folder), dataset=dataset)


def _train_vertices(
    data: Any, out: str | Path, preset: str | None, say: Any, settings: dict[str, Any]
) -> VertexRun:
    """Train on meshes or clouds: a folder, or what is in memory."""
    from dataclasses import replace

    from polygraph.data.mesh_dataset import MeshDataset
    from polygraph.data.vertex_sets import open_vertices, vertices_of_clouds, vertices_of_meshes
    from polygraph.tasks.denoise.vertex_arguments import parse_train_vertices
    from polygraph.tasks.denoise.vertex_run import load_vertex_run
    from polygraph.tasks.denoise.vertex_training import train_vertices
    from polygraph.train.words import call_words

    given, path = (None, data) if isinstance(data, str | os.PathLike) else (data, None)
    config, folder, resume = parse_train_vertices(call_words(path, out, preset, settings))
    if given is None:
        dataset = open_vertices(config.data)
    elif config.data.kind == "mesh":
        meshes = given if isinstance(given, MeshDataset) else MeshDataset.from_arrays(*given)
        dataset = vertices_of_meshes(meshes, config.data)
    else:
        dataset = vertices_of_clouds(list(given), config.data)
    train_vertices(config, folder, resume=resume, dataset=dataset, say=say)
    return replace(load_vertex_run(folder), dataset=dataset)


def load(folder: str | Path, device: Any = "cpu") -> Run | VertexRun:
    """Load a trained denoiser, with the weights that were best on validation.

    Args:
        folder: of a run.
        device: where the model goes.

    Returns:
        A `polygraph.tasks.denoise.run.Run` of pictures, or a
        `polygraph.tasks.denoise.vertex_run.VertexRun` of meshes or clouds.

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
    from polygraph.tasks.denoise.vertex_run import load_vertex_run
    from polygraph.tasks.denoise.vertex_training import KIND
    from polygraph.train.recorded import kind_of

    if kind_of(Path(folder)) == KIND:
        return load_vertex_run(folder, device)
    return load_run(folder, device)
