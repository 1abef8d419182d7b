"""Latent tools on trained runs: meshes in by file or by number, sequences and pictures out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polygraph.analysis.latent import (
    CodeGaussian,
    analogy,
    decode_codes,
    encode_meshes,
    line,
)
from polygraph.data import MeshDataConfig, open_dataset
from polygraph.mesh.io import Mesh, MeshError, read_mesh, write_mesh
from polygraph.mesh.up import Up, known_up
from polygraph.tasks.mesh.run import Run, check_topology, run_data
from polygraph.tasks.mesh.training import get_split
from polygraph.train.checkpoint import write_json

PARTS = ("train", "val", "test")
_ROW = re.compile(r"codes|vertices|samples|analogy|axis-\d+")  # folders of walks


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
        _remove_walk(folder)
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


def _remove_walk(folder: Path) -> None:
    """Remove the numbered meshes of a walk that was written here before; nothing else."""
    if not (folder / "codes.json").is_file():
        return
    for row in sorted(folder.iterdir()):
        if not _ROW.fullmatch(row.name) or row.is_symlink() or not row.is_dir():
            continue
        for path in row.iterdir():
            if re.fullmatch(r"\d{4,}\.ply", path.name):
                path.unlink()
        if not any(row.iterdir()):
            row.rmdir()


class LatentRun:
    """A trained run with its codes.

    Args:
        run: from `polygraph.tasks.mesh.run.load_run`.
        data: where meshes with numbers and the Gaussian come from; default: the run's own data. It
            is opened when it is first needed.
    """

    def __init__(self, run: Run, data: MeshDataConfig | None = None) -> None:
        self.run = run
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

    def codes(self, sources: Sequence[str]) -> Tensor:
        """Codes ``[n, L]`` of meshes, see :meth:`mesh`."""
        return encode_meshes(self.run.model, np.stack([self.mesh(source) for source in sources]))

    def gaussian(self) -> CodeGaussian:
        """Fitted to the codes of the training meshes."""
        rows = get_split(self.dataset, self._config.split).train
        return CodeGaussian.fit(encode_meshes(self.run.model, *self.run.meshes(self.dataset, rows)))

    def interpolate(
        self, a: str, b: str, steps: int = 9, *, low: float = 0.0, high: float = 1.0
    ) -> Sequences:
        """From a to b in equal steps; ``low`` below 0 and ``high`` above 1 go beyond them.

        The row ``vertices`` holds the straight line between the vertices of the two meshes, which
        shows what the codes are good for.

        Raises:
            ValueError: fewer than two steps, or ``low`` not below ``high``.
        """
        if steps < 2 or not low < high:
            raise ValueError(
                "interpolate: needs two steps or more and low < high, got "
                f"{steps} steps from {low} to {high}"
            )
        t = np.linspace(low, high, steps)
        x, y = self.mesh(a), self.mesh(b)
        start, end = encode_meshes(self.run.model, np.stack([x, y]))
        codes = line(start, end, t)
        straight = (1 - t)[:, None, None] * x + t[:, None, None] * y
        labels = [f"{position:g}" for position in np.round(t, 3)]
        about = self._about("interpolate", codes, a=a, b=b, positions=t.tolist())
        return Sequences(
            ["codes", "vertices"],
            [labels, labels],
            [self._decoded(codes), self.run.absolute(straight)],
            self.run.hierarchy.faces[0],
            about,
            self.run.model.up,
        )

    def sample(self, count: int = 16, *, seed: int = 0, spread: float = 1.0) -> Sequences:
        """Meshes drawn around the mean of the training codes, the mean first."""
        gaussian = self.gaussian()
        drawn = gaussian.sample(count, seed=seed, spread=spread)
        codes = torch.cat([gaussian.mean[None], drawn])
        about = self._about("sample", codes, seed=seed, spread=spread, fitted=gaussian.num_codes)
        labels = ["mean", *(str(n) for n in range(count))]
        made = self._decoded(codes)
        return self._row("samples", labels, made, about)

    def axes(self, count: int = 3, *, reach: float = 2.5, steps: int = 7) -> Sequences:
        """Walks through the mean along the widest axes of the codes, in standard deviations.

        Raises:
            ValueError: more axes than the codes have, or no steps.
        """
        if steps < 2 or count < 1:
            raise ValueError(f"axes: needs an axis and two steps, got {count} and {steps}")
        gaussian, t = self.gaussian(), np.linspace(-reach, reach, steps)
        codes = [gaussian.along(axis, t.tolist()) for axis in range(count)]
        about = self._about(
            "axes", torch.cat(codes), positions=t.tolist(), fitted=gaussian.num_codes
        )
        return Sequences(
            [f"axis-{axis}" for axis in range(count)],
            [[f"{position:+g} σ" for position in np.round(t, 2)]] * count,
            [self._decoded(part) for part in codes],
            self.run.hierarchy.faces[0],
            about,
            self.run.model.up,
        )

    def analogy(self, a: str, b: str, c: str) -> Sequences:
        """The mesh d to which c is as b is to a, after the three."""
        codes = self.codes([a, b, c])
        codes = torch.cat([codes, analogy(*codes)[None]])
        about = self._about("analogy", codes, a=a, b=b, c=c)
        made = self._decoded(codes)
        labels = ["a", "b", "c", "d = c + (b - a)"]
        return self._row("analogy", labels, made, about)

    def _row(
        self, name: str, labels: list[str], made: NDArray[np.float64], about: dict[str, Any]
    ) -> Sequences:
        faces = self.run.hierarchy.faces[0]
        return Sequences([name], [labels], [made], faces, about, self.run.model.up)

    def _decoded(self, codes: Tensor) -> NDArray[np.float64]:
        return self.run.absolute(decode_codes(self.run.model, codes))

    def _about(self, kind: str, codes: Tensor, **settings: Any) -> dict[str, Any]:
        return {
            "kind": kind,
            **settings,
            "config_hash": self.run.meta["config_hash"],
            "codes": codes.tolist(),
        }
