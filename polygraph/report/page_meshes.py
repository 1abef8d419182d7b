"""Test meshes and reconstructions, packed small enough for one page.

A mesh of the page is a subset of the vertices of the data's meshes, so that every error shown is
exact at its vertex. The true meshes are 16-bit integers; a reconstruction is its difference from
the true mesh, 8 bits per coordinate, and an error per vertex, 8 bits on a square-root scale.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polygraph._files import check_sha256
from polygraph._json import check_seal, read_json
from polygraph.mesh.up import Up, checked_up, known_up
from polygraph.report.grid_rows import GridError, Row
from polygraph.report.render import make_view

Floats = NDArray[np.float64]
BYTES_PER_VERTEX = 4 * 4 / 3  # three differences and an error, in base64
TRUE_BYTES_PER_VERTEX = 3 * 2 * 4 / 3
FACE_BYTES_PER_VERTEX = 2 * 3 * 2 * 4 / 3  # two faces of three 16-bit corners
BYTES_PER_FRAME = 160  # names and numbers around them
LEAST_VERTICES = 700
LEAST_SAMPLES = 4
SCALE_PERCENTILE = 98.0
NOT_FINITE = 255  # among the errors
_STEPS_16, _STEPS_8, _STEPS_ERROR = 32000, 127, 254


@dataclass(frozen=True)
class SampleMeshes:
    """The true test meshes of a data set and split, as the grid wrote them.

    Attributes:
        faces: int64 [F, 3].
        inputs: float32 [S, V, 3].
        labels: one per mesh.
        indices: into the data set.
        up: the axis that points up, as the data set says; ``auto`` in older grids.
    """

    faces: NDArray[np.int64]
    inputs: NDArray[np.float32]
    labels: list[str]
    indices: list[int]
    up: Up = "auto"


def read_samples(folder: Path, row: Row) -> SampleMeshes | None:
    """The samples of a row's data set and split; None when the grid has not written them yet.

    Raises:
        GridError: they do not fit each other, or the row's path is none of a grid.
    """
    parts = Path(row["run"]).parts
    if len(parts) < 4 or parts[0] != "runs" or ".." in parts:
        raise GridError(
            f"{folder}: run must be runs/<data>/<split>/... in the row of {row['model']}, got "
            f"{row['run']!r}"
        )
    data, split = parts[1:3]
    place = folder / "meshes" / data
    paths = [place / "faces.npy", place / split / "inputs.npy", place / split / "samples.json"]
    if not all(path.is_file() for path in paths):
        return None
    try:
        about = read_json(paths[2])
        check_seal(about, str(paths[2]))
        for path in paths[:2]:
            check_sha256(path, about.get("files"))
        faces = np.load(paths[0], allow_pickle=False).astype(np.int64)
        inputs = np.load(paths[1], allow_pickle=False)
        labels, indices = [str(v) for v in about["labels"]], [int(v) for v in about["indices"]]
        up = checked_up(about.get("up", "auto"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise GridError(f"{place / split}: not readable samples of a grid ({error})") from error
    fits = (
        inputs.ndim == 3
        and inputs.shape[2] == 3
        and len(inputs) == len(labels) == len(indices) > 0
        and faces.ndim == 2
        and faces.shape[1] == 3
        and faces.min() >= 0
        and faces.max() < inputs.shape[1]
        and bool(np.isfinite(inputs).all())
    )
    if not fits:
        raise GridError(
            f"{place / split}: inputs.npy must be finite, [S, V, 3], with S labels and faces "
            f"in [0, V), got {list(inputs.shape)}, {len(labels)} labels, faces {list(faces.shape)}"
        )
    return SampleMeshes(faces, inputs, labels, indices, up)


def read_reconstructions(folder: Path, row: Row, samples: SampleMeshes) -> Any:
    """The reconstructions float32 [S, V, 3] of a run; None when there are none.

    Raises:
        GridError: the row's path leaves the grid, or the file does not fit the samples.
    """
    run = (folder / row["run"]).resolve()
    if not run.is_relative_to(folder.resolve()):
        raise GridError(f"{folder}: the row of {row['model']} names a run outside: {row['run']}")
    path = run / "samples.npy"
    if not path.is_file():
        return None
    check_sha256(path, row.get("files"), GridError)
    try:
        made = np.load(path, allow_pickle=False, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise GridError(f"{path}: not a whole .npy file ({error})") from error
    if made.shape != samples.inputs.shape:
        raise GridError(
            f"{path}: must have the shape of inputs.npy, {list(samples.inputs.shape)}, "
            f"got {list(made.shape)}"
        )
    return made


def plan(
    num_meshes: int, num_samples: int, num_vertices: int, budget: float, num_stages: int = 1
) -> tuple[int, int]:
    """How many samples and vertices fit: ``(samples, vertices)``.

    Args:
        num_meshes: reconstructed meshes per sample, of all stages together.
        num_samples: there are.
        num_vertices: of the data's meshes.
        budget: bytes for all of them.
        num_stages: sets of true meshes.
    """
    samples = max(1, num_samples)
    floor = min(num_vertices, LEAST_VERTICES)
    while samples > LEAST_SAMPLES and _fitting(num_meshes, samples, budget, num_stages) < floor:
        samples -= 1
    fitting = _fitting(num_meshes, samples, budget, num_stages)
    return samples, int(np.clip(fitting, floor, num_vertices))


def _fitting(num_meshes: int, samples: int, budget: float, num_stages: int) -> float:
    """Vertices per mesh that fill the budget."""
    fixed = BYTES_PER_FRAME * num_meshes * samples
    each = BYTES_PER_VERTEX * num_meshes * samples
    each += num_stages * (FACE_BYTES_PER_VERTEX + TRUE_BYTES_PER_VERTEX * samples)
    return max(0.0, budget - fixed) / each


class Stage:
    """The meshes of one data set and split on the page.

    Args:
        samples: as read.
        num_samples: how many of them are shown, evenly spread.
        num_vertices: about how many vertices are kept.
        to_mm: millimetres per unit.
        up: axis that points up; ``auto``: as the samples say.
    """

    def __init__(
        self,
        samples: SampleMeshes,
        num_samples: int,
        num_vertices: int,
        to_mm: float,
        up: Up = "auto",
    ) -> None:
        self.to_mm = to_mm
        self.samples = samples
        self.chosen = np.unique(
            np.linspace(0, len(samples.inputs) - 1, num_samples).round().astype(int)
        )
        self.keep, self.faces = _thin(samples.inputs[0], samples.faces, num_vertices)
        self.rotation = make_view(
            samples.inputs[self.chosen].astype(np.float64),
            up=known_up(up, samples.up),
            azimuth=0.0,
            elevation=0.0,
        ).rotation
        self.shown = self._turned(samples.inputs[self.chosen][:, self.keep])
        # Every mesh stands on its own middle: a walk across the room would leave the picture.
        low, high = self.shown.min(axis=1), self.shown.max(axis=1)
        self.middle = (low + high) / 2
        self.shown = self.shown - self.middle[:, None]
        self.reach = np.abs(self.shown).max(axis=(0, 1))

    def _turned(self, vertices: Any) -> Floats:
        """Right, away from the viewer and up, as the axes x, y and z of the page."""
        right, top, toward = self.rotation
        turned: Floats = np.asarray(vertices, dtype=np.float64) @ np.stack([right, -toward, top]).T
        return turned

    def payload(self) -> dict[str, Any]:
        """JSON values: faces, true meshes and their labels."""
        step = float(self.reach.max()) / _STEPS_16 or 1.0
        small = len(self.keep) <= 0xFFFF
        return {
            "vertices": len(self.keep),
            "full_vertices": int(self.samples.inputs.shape[1]),
            "faces": encode(self.faces.astype("<u2" if small else "<u4")),
            "wide": not small,
            "reach": self.reach.tolist(),
            "step": step,
            "labels": [self.samples.labels[n] for n in self.chosen],
            "indices": [self.samples.indices[n] for n in self.chosen],
            "num_samples": len(self.samples.inputs),
            "inputs": [encode(np.round(mesh / step).astype("<i2")) for mesh in self.shown],
        }

    def frames(self, made: Any) -> list[dict[str, Any]]:
        """JSON values of reconstructions float32 [S, V, 3] of all samples, one per shown one."""
        return [
            self._frame(np.asarray(made[n], dtype=np.float64), number)
            for number, n in enumerate(self.chosen)
        ]

    def errors(self, made: Any) -> Floats:
        """Errors in mm [shown, V], infinite where a reconstruction is not finite."""
        given = np.asarray(made[self.chosen], dtype=np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            distance = np.linalg.norm(given - self.samples.inputs[self.chosen], axis=2)
        errors: Floats = np.where(np.isfinite(distance), distance * self.to_mm, np.inf)
        return errors

    def _frame(self, made: Floats, number: int) -> dict[str, Any]:
        true = self.samples.inputs[self.chosen[number]].astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            distance = np.linalg.norm(made - true, axis=1) * self.to_mm
            moved = self._turned(made[self.keep]) - self.middle[number] - self.shown[number]
        good = np.isfinite(distance)
        kept = good[self.keep]
        moved = np.where(kept[:, None], moved, 0.0)
        # A vertex that flew off must not leave the picture, nor coarsen all the others.
        limit = 2.0 * float(self.reach.max())
        moved = np.clip(moved, -limit, limit)
        step = float(np.abs(moved).max()) / _STEPS_8 or 1.0
        top = float(distance[self.keep][kept].max()) if kept.any() else 1.0
        codes = np.full(len(self.keep), NOT_FINITE, dtype=np.uint8)
        scaled = np.sqrt(np.clip(distance[self.keep][kept] / max(top, 1e-12), 0, 1))
        codes[kept] = np.round(_STEPS_ERROR * scaled)
        return {
            "moved": encode(np.round(moved / step).astype(np.int8)),
            "step": step,
            "errors": encode(codes),
            "top": top,
            "mean": float(distance.mean()) if good.all() else None,
            "max": float(distance.max()) if good.all() else None,
            "bad": int((~good).sum()),
        }


def encode(array: NDArray[Any]) -> str:
    """The bytes of an array in base64."""
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")


def _thin(
    vertices: Any, faces: NDArray[np.int64], target: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Kept vertices and the faces between them; all of them when there is nothing to gain."""
    count = len(vertices)
    if target >= 0.9 * count:
        return np.arange(count), faces
    from polygraph.mesh.decimate import decimate
    from polygraph.mesh.io import MeshError

    try:
        step = decimate(np.asarray(vertices, dtype=np.float64), faces, target)
    except MeshError:
        return np.arange(count), faces
    return step.keep, step.faces


def color_limits(errors: Sequence[Floats]) -> list[float]:
    """Per sample, where the colour scale ends: one for all models, so that colours compare.

    Args:
        errors: [shown, V] of each model.
    """
    limits = []
    for sample in zip(*errors, strict=True):
        finite = [e[np.isfinite(e)] for e in sample]
        tops = [float(np.percentile(e, SCALE_PERCENTILE)) for e in finite if len(e)]
        # Not the largest: a model that failed would paint all others in the first colour.
        limits.append(float(np.percentile(tops, 75)) if tops else 1.0)
    return limits
