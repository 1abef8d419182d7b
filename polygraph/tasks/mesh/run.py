"""A finished run: its model without its data, measured again, or applied to a mesh file."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polygraph import metrics
from polygraph._arrays import as_numpy
from polygraph.data import MeshDataConfig, MeshDataset, open_dataset
from polygraph.data.registered import checked_scale
from polygraph.mesh.hierarchy import MeshHierarchy
from polygraph.mesh.io import Mesh, MeshError, read_mesh, write_mesh
from polygraph.mesh.origin import ZERO, checked_point, to_float32
from polygraph.mesh.up import checked_up
from polygraph.models.mesh.mesh_autoencoder import MeshAutoencoder, MeshAutoencoderConfig
from polygraph.models.state import build_with
from polygraph.tasks.mesh.given import mesh_data
from polygraph.tasks.mesh.training import HIERARCHY, RESULT, get_split, model_errors, topology_hash
from polygraph.train.checkpoint import (
    CheckpointError,
    load_checkpoint,
    part_of,
    read_json_object,
)
from polygraph.train.recorded import checkpoint_of, recorded_data


@dataclass(frozen=True)
class Run:
    """A trained mesh autoencoder; from `polygraph.tasks.mesh.train` or `polygraph.tasks.mesh.load`.

    Attributes:
        folder: where it lies.
        model: in eval mode; takes and makes meshes in their own units, less its ``origin``.
        hierarchy: of its template.
        meta: configuration, hashes and versions, as in the checkpoint.
        dataset: what it was trained on, where that is at hand.
    """

    folder: Path
    model: MeshAutoencoder
    hierarchy: MeshHierarchy
    meta: dict[str, Any]
    dataset: MeshDataset | None = None

    def __repr__(self) -> str:
        """Folder and sizes."""
        numbers = self.model.config.latent_channels
        return f"Run({str(self.folder)!r}, {self.model.num_vertices} vertices, {numbers} numbers)"

    @property
    def faces(self) -> NDArray[np.int64]:
        """int64 ``[T, 3]``: the triangles that all meshes of the run share."""
        return self.hierarchy.faces[0]

    @cached_property
    def result(self) -> dict[str, Any]:
        """What ``result.json`` holds: errors in mm, steps, seconds; empty where training goes on.

        Of an exported model: what its card says.
        """
        path = self.folder / RESULT
        if not path.is_file():
            return dict(self.meta.get("metadata", {}))
        return read_json_object(path, "steps", "test", "val")

    @property
    def to_mm(self) -> float:
        """Millimetres per unit of the meshes.

        Raises:
            ValueError: it is an exported model that does not say.
        """
        if self.meta["to_mm"] is None:
            raise ValueError(f"{self.folder}: does not say how many millimetres a unit is")
        return float(self.meta["to_mm"])

    def encode(self, meshes: Any) -> Tensor:
        """Codes ``[B, latent]`` of meshes ``[B, V, 3]`` (or one ``[V, 3]``), on the CPU."""
        with torch.no_grad():
            return self.model.encode(self._tensor(meshes)).cpu()

    def decode(self, codes: Any) -> NDArray[np.float64]:
        """Meshes float64 ``[B, V, 3]`` of codes ``[B, latent]``, numpy or torch."""
        z = torch.as_tensor(as_numpy(codes)).to(self.model.mean)
        with torch.no_grad():
            return self.absolute(self.model.decode(z).double().cpu())

    def reconstruct(self, meshes: Any) -> NDArray[np.float64]:
        """What the autoencoder makes of meshes.

        Args:
            meshes: ``[B, V, 3]`` or one ``[V, 3]``, numpy or torch, in the units of training.

        Returns:
            float64 of the same shape.

        Raises:
            MeshError: a mesh does not have the template's vertices, or is not finite.
        """
        with torch.no_grad():
            made = self.absolute(self.model(self._tensor(meshes)).double().cpu())
        single = as_numpy(meshes).ndim == 2
        return made[0] if single else made

    def evaluate(
        self, data: Any = None, *, part: str = "test", **settings: Any
    ) -> metrics.VertexErrorResult:
        """Vertex error in mm.

        Args:
            data: default: what the run was trained on. Or a folder, the name of a built-in set,
                ``(vertices, faces)`` or a `polygraph.data.MeshDataset`, of the same template.
            part: ``train``, ``val`` or ``test``.
            **settings: ``kind``, ``split`` and ``to_mm`` of other data.

        Raises:
            ValueError: the data have another connectivity than the run's template, or are not
                what they were.
        """
        if data is None:
            return evaluate_run(self, part=part)
        config, dataset = mesh_data(data, **settings)
        return evaluate_run(self, part=part, data=config, dataset=dataset)

    def export(self, folder: str | Path) -> Path:
        """Write the model as a folder that needs neither the run nor its data."""
        return export_run(self, folder)

    def _tensor(self, meshes: Any) -> Tensor:
        """Meshes ``[B, V, 3]`` as the model takes them."""
        vertices = as_numpy(meshes)
        vertices = vertices[None] if vertices.ndim == 2 else vertices
        if vertices.shape[1:] != (self.model.num_vertices, 3):
            raise MeshError(
                f"{self.folder}: meshes must have shape [B, {self.model.num_vertices}, 3] "
                f"(vertices of the template), got {list(vertices.shape)}"
            )
        return torch.from_numpy(self.relative(vertices, "meshes")).to(self.model.mean)

    def relative(self, vertices: np.ndarray, name: str) -> np.ndarray:
        """Vertices ``[V, 3]`` or ``[B, V, 3]`` as the model takes them: less its origin, float64.

        Raises:
            MeshError: they lie so far from it that float32, in which models compute, is too coarse;
                the message calls the mesh ``name``.
        """
        to_float32(vertices.reshape(-1, *vertices.shape[-2:]), name, 0, self.model.origin)
        return np.asarray(vertices, dtype=np.float64) - self.model.origin

    def absolute(self, meshes: Any) -> np.ndarray:
        """What the model makes, ``[n, V, 3]``, where meshes are written: float64, origin added."""
        made: np.ndarray = np.asarray(meshes, dtype=np.float64) + self.model.origin
        return made

    def meshes(
        self, dataset: MeshDataset, rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Meshes of a data set as the model takes them, and which rows of these are meant.

        They are the data set's own, or copies if that has another origin than the run's.
        """
        shift = np.subtract(dataset.origin, self.model.origin)
        if not shift.any():
            return dataset.vertices, rows
        moved = to_float32(dataset.gather(rows) + shift, dataset.name, 0)
        return moved, np.arange(len(rows))


def load_model(
    checkpoint: str | Path, hierarchy: MeshHierarchy, device: torch.device | str = "cpu"
) -> tuple[MeshAutoencoder, dict[str, Any]]:
    """Build the model of a checkpoint on a hierarchy.

    Returns:
        The model in eval mode, and the checkpoint's description.

    Raises:
        CheckpointError: the checkpoint is unreadable, or was trained on another template.
    """
    state, meta = load_checkpoint(checkpoint)
    try:
        wanted = meta["identity"]["hierarchy_hash"]
        config = MeshAutoencoderConfig(**meta["config"]["model"])
        weights = part_of(state, "modules", checkpoint)["model"]
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{checkpoint}: not a checkpoint of a mesh autoencoder ({error})"
        ) from error
    if wanted != hierarchy.hash:
        raise CheckpointError(
            f"{checkpoint} was trained on another template: its hierarchy has hash {wanted}, "
            f"the given one {hierarchy.hash} (vertices per level {hierarchy.sizes})"
        )
    try:
        checked_scale(meta.get("to_mm"))
        model = build_with(lambda: MeshAutoencoder(config, hierarchy), config, weights)
        model.origin = checked_point(meta.get("origin", ZERO))
        model.up = checked_up(meta.get("up", "auto"))  # older runs do not say it
    except ValueError as error:
        raise CheckpointError(f"{checkpoint}: {error}") from error
    return model.to(device), meta


def load_run(folder: str | Path, device: torch.device | str = "cpu") -> Run:
    """Load the weights that were best on validation, with everything they need.

    Args:
        folder: of a run, or of an exported model.
        device: where the model goes.

    Raises:
        CheckpointError: the folder holds no run, or its parts do not belong together.
        PretrainedError: an exported model is damaged.
        MeshError: the stored hierarchy is damaged.
    """
    folder = Path(folder)
    checkpoint = checkpoint_of(folder, "mesh")
    if checkpoint is None:
        model, config = MeshAutoencoder.load_pretrained(folder, device)
        meta = {
            "config": {"preset": config["metadata"].get("preset"), "model": config["model"]},
            "config_hash": config["metadata"].get("config_hash"),
            "identity": {},
            **{name: config[name] for name in ("to_mm", "origin", "metadata")},
        }
        assert isinstance(model.hierarchy, MeshHierarchy)
        return Run(folder, model, model.hierarchy, meta)
    hierarchy = MeshHierarchy.load(folder / HIERARCHY)
    model, meta = load_model(checkpoint, hierarchy, device)
    return Run(folder, model, hierarchy, meta)


def is_exported(run: Run) -> bool:
    """Whether a run is an exported model, which does not say where its data lie."""
    return "data" not in run.meta["config"]


def run_data(run: Run, path: str | None = None) -> MeshDataConfig:
    """The data that a run was trained on: as it says, where this user has them.

    Where a run says that its data lie is followed only when this user trained on that place on this
    machine (see `polygraph.data.known`), with the cache that was used then.

    Args:
        run: from :func:`load_run`.
        path: where the data lie; None: where they lay.

    Raises:
        CheckpointError: the run names a place that this user has not trained on here, or its
            description of the data is damaged.
    """
    if is_exported(run):
        if path is None:
            raise CheckpointError(
                f"{run.folder}: an exported model does not say where its data lie: --data PATH"
            )
        return MeshDataConfig("registered", path, to_mm=run.meta["to_mm"])
    options = "--data PATH (evaluate: and --kind {kind})"
    return recorded_data(MeshDataConfig, run.meta, run.folder, path, options)


def evaluate_run(
    run: Run,
    *,
    part: str = "test",
    data: MeshDataConfig | None = None,
    batch_size: int = 16,
    dataset: MeshDataset | None = None,
) -> metrics.VertexErrorResult:
    """Vertex error of a run on a part of its split, or of the split of another data set.

    Args:
        run: from :func:`load_run`.
        part: ``train``, ``val`` or ``test``.
        data: default: the data that the run was trained on (see :func:`run_data`), which is checked
            to be unchanged.
        batch_size: meshes per call.
        dataset: of ``data``, opened already.

    Raises:
        ValueError: the data changed, or has another connectivity than the run's template; both
            hashes are named.
        CheckpointError: the run names a place that this user has not trained on here.
    """
    if part not in ("train", "val", "test"):
        raise ValueError(f"part must be train, val or test, got {part!r}")
    identity = run.meta["identity"]
    if data is None and run.dataset is not None:
        config, dataset = MeshDataConfig(**run.meta["config"]["data"]), run.dataset
    else:
        config = run_data(run) if data is None else data
        dataset = open_dataset(config) if dataset is None else dataset
    split = get_split(dataset, config.split)
    check_topology(run, dataset.num_vertices, dataset.faces, dataset.name)
    if data is None:
        for what, now, then in (
            ("content", dataset.content_hash, identity["dataset_hash"]),
            ("split", split.sha256, identity["split"]["sha256"]),
        ):
            if now != then:
                raise ValueError(
                    f"{dataset.name}: its {what} is not what {run.folder} was trained on: hash "
                    f"{now} now, {then} then"
                )
    meshes = run.meshes(dataset, getattr(split, part))
    return metrics.summarize(model_errors(run.model, *meshes, dataset.to_mm, batch_size))


def export_run(run: Run, folder: str | Path) -> Path:
    """Write the model of a run as a pretrained folder, which needs neither the run nor its data.

    What the run was trained on and what it reached go into the model card.

    Raises:
        ValueError: it is one already.
    """
    if is_exported(run):
        raise ValueError(f"{run.folder}: is an exported model already: copy the folder")
    reached = _reached(run)
    known = ("config_hash", "commit", "polygraph", "torch", "machine")
    metadata: dict[str, Any] = {
        "preset": run.meta["config"]["preset"],
        "dataset": run.meta.get("dataset"),
        "dataset_hash": run.meta["identity"]["dataset_hash"],
        "split": run.meta["identity"]["split"],
        **{key: run.meta.get(key) for key in known},
        **{key: reached[key] for key in ("steps", "best_step", "seconds") if key in reached},
    }
    for part in ("test", "val"):
        if part in reached:
            errors = {f"{k} mm": reached[part][k] for k in ("mean", "std", "median")}
            finite = all(v is not None and math.isfinite(v) for v in errors.values())
            metadata[part] = errors if finite else "not finite"
    return run.model.save_pretrained(folder, to_mm=run.meta["to_mm"], metadata=metadata)


def _reached(run: Run) -> dict[str, Any]:
    """What ``result.json`` says about these weights; nothing where it is about others."""
    path = run.folder / RESULT
    if not path.exists():
        return {}
    reached = read_json_object(path, "steps", "best_step", "test", "val")
    step = run.meta["progress"]["step"]
    # A run that went on after its end may have better weights than those that were measured.
    measured = reached["steps"] if reached["best_step"] is None else reached["best_step"]
    if measured != step:
        return {}
    for part in ("test", "val"):
        if not isinstance(reached[part], dict) or not {"mean", "std", "median"} <= set(
            reached[part]
        ):
            raise CheckpointError(f"{path}: {part} must have mean, std and median")
    return reached


def check_topology(run: Run, num_vertices: int, faces: Any, name: str) -> None:
    """Refuse a mesh that is not connected like the run's template.

    Raises:
        ValueError: names both sizes and hashes.
    """
    ours = run.hierarchy
    now = topology_hash(num_vertices, faces)
    then = topology_hash(ours.sizes[0], ours.faces[0])
    if now != then:
        raise ValueError(
            f"{name} is not a mesh of the template of {run.folder}: {num_vertices} vertices, "
            f"{len(faces)} faces, connectivity {now[:16]}; the template has {ours.sizes[0]}, "
            f"{len(ours.faces[0])}, {then[:16]}"
        )


def reconstruct_file(run: Run, source: str | Path, target: str | Path) -> np.ndarray:
    """Read a mesh, send it through the run's autoencoder, write the result.

    Returns:
        float64 [V]: error per vertex in mm.

    Raises:
        MeshError: the file is missing, damaged or of an unknown kind.
        ValueError: the mesh is not one of the run's template.
    """
    mesh = read_mesh(source)
    check_topology(run, len(mesh.vertices), mesh.faces, str(source))
    x = torch.from_numpy(run.relative(mesh.vertices, str(source))[None]).to(run.model.mean)
    with torch.no_grad():
        y = run.model(x)
    write_mesh(target, Mesh(run.absolute(y.double().cpu())[0], mesh.faces))
    errors: np.ndarray = metrics.vertex_distance(y, x, run.to_mm)[0].cpu().numpy()
    return errors
