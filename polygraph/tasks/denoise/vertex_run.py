"""A finished run of a denoiser of vertices: its model without its data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from polygraph._arrays import as_numpy
from polygraph.data.vertex_sets import VertexSet
from polygraph.mesh.io import check_finite
from polygraph.models.denoiser.vertices import VertexDenoiser, VertexDenoiserConfig
from polygraph.models.state import build_with
from polygraph.tasks.denoise.vertex_training import KIND, denoise_vertices, measure_vertices
from polygraph.train.checkpoint import CheckpointError, load_checkpoint, part_of
from polygraph.train.frame import SupervisedRun
from polygraph.train.recorded import checkpoint_of


@dataclass(frozen=True, repr=False)
class VertexRun(SupervisedRun):
    """A trained denoiser of meshes of one topology, or of point clouds.

    From `polygraph.tasks.denoise.train` or `polygraph.tasks.denoise.load`. Its ``model`` is a
    `polygraph.models.VertexDenoiser`.
    """

    def __repr__(self) -> str:
        """Folder, kind and noise."""
        noise = " to ".join(f"{s:g}" for s in self.sigma)
        return f"VertexRun({str(self.folder)!r}, {self.kind}, sigma {noise})"

    @property
    def kind(self) -> str:
        """``mesh`` or ``cloud``."""
        return str(self.model.config.kind)

    @property
    def sigma(self) -> tuple[float, ...]:
        """Of the noise that it was trained for: one number, or the ends.

        In mean edge lengths; of clouds in hundredths of the diagonal of the bounding box.
        """
        return tuple(float(s) for s in self.meta["config"]["sigma"])

    def denoise(self, vertices: Any, faces: Any = None) -> NDArray[np.float64]:
        """Vertices without their noise.

        Args:
            vertices: real numbers ``[V, 3]``, of numpy or torch, in any unit; of a run of meshes as
                many as its topology has.
            faces: int ``[F, 3]``, compared with those of a run of meshes; None: taken for the same.

        Returns:
            float64 ``[V, 3]``.

        Raises:
            ValueError: the shape is wrong, a vertex is not finite, the topology is another, or the
                vertices are too few for their neighbours.
        """
        points = as_numpy(vertices)
        self._check_points("vertices", points)
        if faces is not None:
            self._check_faces(as_numpy(faces))
        return denoise_vertices(self.model, points.astype(np.float64))

    def evaluate(self, shapes: Sequence[Any], sigma: float, *, seed: int = 0) -> dict[str, Any]:
        """Mean vertex errors of clean shapes with noise of a seed.

        Args:
            shapes: real numbers ``[V, 3]`` each.
            sigma: standard deviation of the noise, in the unit of the run's.
            seed: of the noise.

        Returns:
            What `polygraph.tasks.denoise.vertex_training.measure_vertices` gives, without peers.

        Raises:
            ValueError: a shape is not as the run wants it, or sigma is not above 0.
        """
        if not 0 < sigma < float("inf"):
            raise ValueError(f"evaluate: sigma must be above 0 and finite, got {sigma}")
        given = [as_numpy(shape) for shape in shapes]
        if not given:
            raise ValueError("evaluate: shapes must be at least one, got none")
        for n, points in enumerate(given):
            self._check_points(f"shapes[{n}]", points)
        tested: dict[str, tuple[int, ...]] = {"train": (), "val": (), "test": (*range(len(given)),)}
        faces = None if self.model.faces is None else self.model.faces.cpu().numpy()
        dataset = VertexSet("arrays", self.kind, given, (), tested, "", faces)
        return measure_vertices(self.model, dataset, range(len(given)), [sigma], seed)

    def _check_points(self, name: str, points: NDArray[Any]) -> None:
        wanted = "V" if self.model.spirals is None else len(self.model.spirals)
        good = points.ndim == 2 and points.shape[1] == 3 and points.dtype.kind in "fi"
        if not good or wanted not in ("V", len(points)):
            topology = "" if wanted == "V" else " (vertices of the run's topology)"
            raise ValueError(
                f"denoise: {name} must be real numbers [{wanted}, 3]{topology}, got {points.dtype} "
                f"{list(points.shape)}"
            )
        check_finite(points, f"denoise: {name}", "vertices", "vertex")
        if len(points) < self.model.config.smallest:
            raise ValueError(
                f"denoise: {name} must have at least {self.model.config.smallest} vertices, each "
                f"with its neighbours, got {len(points)}"
            )

    def _check_faces(self, faces: NDArray[Any]) -> None:
        if self.model.faces is None:
            return
        wanted = self.model.faces.cpu().numpy()
        if faces.shape != wanted.shape:
            raise ValueError(
                f"denoise: faces must be those of the run, {list(wanted.shape)}, got "
                f"{list(faces.shape)}: another topology"
            )
        other = (faces != wanted).any(1)
        if other.any():
            first = int(np.argmax(other))
            raise ValueError(
                f"denoise: faces must be those of the run, but {int(other.sum())} differ, first "
                f"face {first}: {faces[first].tolist()}, {wanted[first].tolist()} in the run: "
                "another topology"
            )


def load_vertex_run(folder: str | Path, device: torch.device | str = "cpu") -> VertexRun:
    """Load the weights that were best on validation.

    Raises:
        CheckpointError: the folder holds no run of a denoiser of vertices.
    """
    folder = Path(folder)
    checkpoint = checkpoint_of(folder, KIND)
    assert checkpoint is not None  # of a mesh autoencoder alone there is none
    state, meta = load_checkpoint(checkpoint)
    try:
        config = VertexDenoiserConfig(**meta["config"]["model"])
        weights = part_of(state, "modules", checkpoint)["model"]
        if not isinstance(weights, Mapping):
            raise ValueError(f"model is {type(weights).__name__}")
        tables = weights.get("spirals"), weights.get("faces")
        model = build_with(lambda: VertexDenoiser(config, *tables), config, weights)
        sigma = [float(s) for s in meta["config"]["sigma"]]
        if len(sigma) not in (1, 2):
            raise ValueError(f"sigma is {sigma}")
    except (KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{checkpoint}: not a checkpoint of a denoiser of vertices ({reason})"
        ) from error
    return VertexRun(folder, model.to(device), meta)
