"""Latent tools on trained runs: meshes in by file or by number, sequences and pictures out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from polygraph.analysis.latent import decode_codes, encode_meshes
from polygraph.data import MeshDataConfig, open_dataset
from polygraph.mesh.io import Mesh, MeshError, read_mesh, write_mesh
from polygraph.mesh.up import Up, known_up
from polygraph.tasks.mesh.run import Run, check_topology, run_data
from polygraph.tasks.mesh.training import get_split
from polygraph.tasks.walks import PARTS, Walks, remove_walk
from polygraph.train.checkpoint import write_json


@dataclass(frozen=True, eq=False)
class Sequences:
    """Meshes in rows, to be written.

    Attributes:
        names: of the rows; names of folders.
        labels: one per mesh of each row.
        meshes: one float64 ``[T, V, 3]`` per row.
        faces: int64 ``[F, 3]``.
        about: JSON values: how they were made.
        up: the axis that points up in the picture, as the run says.
    """

    names: list[str]
    labels: list[list[str]]
    meshes: list[NDArray[np.float64]]
    faces: NDArray[np.int64]
    about: dict[str, Any]
    up: Up = "auto"

    def write(self, folder: str | Path, *, picture: bool = True, up: Up = "auto") -> list[Path]:
        """Write ``NAME/0000.ply`` and on, ``codes.json`` and, with matplotlib, ``picture.png``.

        Meshes that an earlier walk left in the folder are removed: what lies there is one walk.

        Args:
            folder: made where it does not exist.
            picture: write it.
            up: the axis that points up in it; ``auto``: as the run says.

        Returns:
            The folders and files, in the order of writing.
        """
        folder = Path(folder)
        remove_walk(folder, "ply")
        written: list[Path] = []
        for name, meshes in zip(self.names, self.meshes, strict=True):
            (folder / name).mkdir(parents=True, exist_ok=True)
            for number, vertices in enumerate(meshes):
                write_mesh(folder / name / f"{number:04d}.ply", Mesh(vertices, self.faces))
            written.append(folder / name)
        write_json(folder / "codes.json", self.about)
        written.append(folder / "codes.json")
        if picture:
            from polygraph.report.figures import mesh_rows_figure

            rows = list(zip(self.names, self.labels, self.meshes, strict=True))
            up = known_up(up, self.up)
            written.append(mesh_rows_figure(folder / "picture.png", rows, self.faces, up=up))
        return written


class LatentRun(Walks[Sequences]):
    """A trained run with its codes.

    Args:
        run: from `polygraph.tasks.mesh.run.load_run`.
        data: where meshes with numbers and the Gaussian come from; default: the run's own data. It
            is opened when it is first needed.
    """

    raw = "vertices"

    def __init__(self, run: Run, data: MeshDataConfig | None = None) -> None:
        self.run, self.model = run, run.model
        self.config_hash = run.meta["config_hash"]
        self.unit = float(run.meta["to_mm"] or 1.0)
        self._given = data
        self._dataset: Any = None

    @cached_property
    def _config(self) -> MeshDataConfig:
        return run_data(self.run) if self._given is None else self._given

    @property
    def dataset(self) -> Any:
        """The data set, checked to have the run's template."""
        if self._dataset is None:
            dataset = open_dataset(self._config)
            check_topology(self.run, dataset.num_vertices, dataset.faces, dataset.name)
            self._dataset = dataset
        return self._dataset

    def mesh(self, source: str) -> NDArray[np.float64]:
        """Vertices ``[V, 3]`` of a mesh file, or of ``PART:N``, mesh N of a part of the split.

        They are given as the model takes them, less the origin of the run.

        Raises:
            MeshError: the file is missing or damaged, or there is no such mesh in the part.
            ValueError: the mesh is not one of the run's template.
        """
        part, colon, number = source.partition(":")
        if colon and part in PARTS and number.isdigit():
            rows = getattr(get_split(self.dataset, self._config.split), part)
            if int(number) >= len(rows):
                raise MeshError(f"{source}: {part} has {len(rows)} meshes, 0 to {len(rows) - 1}")
            meshes, rows = self.run.meshes(self.dataset, rows[[int(number)]])
            vertices: NDArray[np.float64] = meshes[rows[0]].astype(np.float64)
            return vertices
        mesh = read_mesh(source)
        check_topology(self.run, len(mesh.vertices), mesh.faces, source)
        return self.run.relative(mesh.vertices, source)

    def source(self, name: str) -> NDArray[np.float64]:
        """See `mesh`."""
        return self.mesh(name)

    def encoded(self, samples: NDArray[Any]) -> Tensor:
        """Codes ``[n, L]`` of meshes."""
        return encode_meshes(self.model, samples)

    def training_codes(self) -> Tensor:
        """Of the training meshes."""
        rows = get_split(self.dataset, self._config.split).train
        return encode_meshes(self.model, *self.run.meshes(self.dataset, rows))

    def decoded(self, codes: Tensor) -> NDArray[np.float64]:
        """Meshes of codes, where they are written."""
        return self.run.absolute(decode_codes(self.model, codes))

    def blended(self, samples: NDArray[Any]) -> NDArray[np.float64]:
        """Meshes, where they are written."""
        return self.run.absolute(samples)

    def rows(
        self, names: list[str], labels: list[list[str]], made: list[Any], about: dict[str, Any]
    ) -> Sequences:
        """Rows of meshes."""
        return Sequences(names, labels, made, self.run.hierarchy.faces[0], about, self.model.up)
