"""Mesh hierarchies: a template at several resolutions, and the tables to compute on them."""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from polygraph._arrays import read_npz
from polygraph._files import atomic_path
from polygraph.mesh.decimate import decimate
from polygraph.mesh.io import (
    FloatArray,
    IntArray,
    Mesh,
    MeshError,
    PathLike,
    validate_mesh,
)
from polygraph.mesh.spiral import SpiralConfig, choose_reference, spiral_table
from polygraph.mesh.upsample import UPSAMPLING

_PER_LEVEL = {"vertices": np.float64, "faces": np.int64, "spirals": np.int64}
_PER_STEP = {"keep": np.int64, "up_index": np.int64, "up_weight": np.float64}


@dataclass(frozen=True, eq=False)
class MeshHierarchy:
    """A mesh at levels 0 (finest) to L. Level l + 1 holds a subset of the vertices of level l.

    Attributes:
        vertices: L + 1 arrays float64 ``[V_l, 3]``, in the template's unit.
        faces: L + 1 arrays int64 ``[F_l, 3]``.
        spirals: L + 1 arrays int64 ``[V_l, S_l]`` with entries in ``[-1, V_l)``; -1 means no
            vertex.
        keep: L arrays int64 ``[V_{l+1}]``, ascending: the rows of level l that make up level l + 1.
        up_index: L arrays int64 ``[V_l, 3]`` into level l + 1.
        up_weight: L arrays float64 ``[V_l, 3]``: x_l = sum_t up_weight[:, t] * x_{l+1}[up_index[:,
            t]].
        settings: how it was made; JSON values.

    Example:
        >>> import numpy as np
        >>> from polygraph.mesh import build_hierarchy
        >>> from scipy.spatial import Delaunay
        >>> vertices = np.random.default_rng(0).random((100, 3))
        >>> faces = Delaunay(vertices[:, :2]).simplices
        >>> hierarchy = build_hierarchy(vertices, faces, factors=(2, 2))
        >>> hierarchy.sizes, [spirals.shape for spirals in hierarchy.spirals]
        ([100, 50, 25], [(100, 9), (50, 8), (25, 9)])

    See Also:
        `build_hierarchy` makes one; `polygraph.models.MeshAutoencoder` is made of one.
    """

    vertices: list[FloatArray]
    faces: list[IntArray]
    spirals: list[IntArray]
    keep: list[IntArray]
    up_index: list[IntArray]
    up_weight: list[FloatArray]
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check every table against the levels that it connects."""
        levels = len(self.vertices)
        for name in _PER_LEVEL | _PER_STEP:
            want = levels if name in _PER_LEVEL else levels - 1
            if levels < 1 or len(getattr(self, name)) != want:
                raise MeshError(
                    f"hierarchy: want {want} arrays {name}, got {len(getattr(self, name))}"
                )
        for level, spirals in enumerate(self.spirals):
            mesh = validate_mesh(
                self.vertices[level], self.faces[level], f"hierarchy level {level}"
            )
            size = len(mesh.vertices)
            _check_table(f"spirals[{level}]", spirals, (size, None), -1, size)
        for level, keep in enumerate(self.keep):
            fine, coarse = self.sizes[level : level + 2]
            _check_table(f"keep[{level}]", keep, (coarse,), 0, fine)
            _check_table(f"up_index[{level}]", self.up_index[level], (fine, 3), 0, coarse)
            weight = self.up_weight[level]
            if weight.shape != (fine, 3) or not np.isfinite(weight).all():
                raise MeshError(
                    f"hierarchy: up_weight[{level}] must be finite with shape {[fine, 3]}"
                )

    def __repr__(self) -> str:
        """One line: vertices and slots of the spirals per level, and the start of the hash."""
        sizes = " -> ".join(map(str, self.sizes))
        slots = ", ".join(str(spirals.shape[1]) for spirals in self.spirals)
        return f"MeshHierarchy({sizes} vertices, spirals of [{slots}], hash={self.hash[:12]})"

    @property
    def sizes(self) -> list[int]:
        """Vertices per level, finest first."""
        return [len(v) for v in self.vertices]

    @cached_property
    def hash(self) -> str:
        """SHA-256, in hex, of every array and the settings: equal hashes mean equal hierarchies."""
        digest = hashlib.sha256(_canonical(self.settings))
        for name, array in self._arrays().items():
            digest.update(f"{name}{array.dtype.str}{array.shape}".encode())
            digest.update(array.tobytes())
        return digest.hexdigest()

    def save(self, path: PathLike) -> None:
        """Write everything to one ``.npz`` file, which appears complete or not at all."""
        path = Path(path)
        if path.is_dir():
            raise MeshError(f"{path}: not a file but a folder")
        meta = _canonical({"hash": self.hash, "settings": self.settings}).decode()
        with atomic_path(path) as temporary, open(temporary, "xb") as file:
            np.savez(file, allow_pickle=False, meta=np.array(meta), **self._arrays())

    @classmethod
    def load(cls, path: PathLike) -> MeshHierarchy:
        """Read what :meth:`save` wrote; nothing in the file is executed.

        Raises:
            MeshError: if the file is missing, not a hierarchy, damaged, or its content does not
                match its hash.
        """
        if not Path(path).is_file():
            raise MeshError(f"{path}: no such file")
        try:
            arrays = read_npz(path, MeshError)
            meta = json.loads(str(arrays.pop("meta")))
            hierarchy = cls.from_arrays(arrays, meta["settings"])
            expected = meta["hash"]
        except Exception as error:  # a damaged archive can fail anywhere between zip and JSON
            detail = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            raise MeshError(f"{path}: not a readable mesh hierarchy: {detail}") from error
        if hierarchy.hash != expected:
            raise MeshError(
                f"{path}: damaged: the content has hash {hierarchy.hash[:12]},"
                f" want {str(expected)[:12]}"
            )
        return hierarchy

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Every table by name and level, ``vertices_0`` to ``up_weight_{L-1}``."""
        return self._arrays()

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, npt.NDArray[Any]], settings: dict[str, Any]
    ) -> MeshHierarchy:
        """The hierarchy of which :meth:`to_arrays` gave the tables.

        Raises:
            KeyError: a table is missing.
            MeshError: the tables do not fit each other.
        """
        levels = sum(name.startswith("vertices_") for name in arrays)
        lists = {name: [arrays[f"{name}_{k}"] for k in range(levels)] for name in _PER_LEVEL}
        lists |= {name: [arrays[f"{name}_{k}"] for k in range(levels - 1)] for name in _PER_STEP}
        return cls(**lists, settings=settings)

    def summary(self) -> str:
        """A table of the levels, for people."""
        lines = [f"mesh hierarchy {self.hash[:12]}", "level  vertices     faces  spiral  filled"]
        for level, spirals in enumerate(self.spirals):
            filled = np.count_nonzero(spirals >= 0) / spirals.size
            lines.append(
                f"{level:5d}  {self.sizes[level]:8d}  {len(self.faces[level]):8d}"
                f"  {spirals.shape[1]:6d}  {filled:6.0%}"
            )
        for level, relaxed in enumerate(self.settings.get("relaxed", ())):
            if relaxed:
                lines.append(f"level {level + 1} gave up: {', '.join(relaxed)}")
        return "\n".join(lines)

    def _arrays(self) -> dict[str, Any]:
        return {
            f"{name}_{k}": np.ascontiguousarray(array, dtype=dtype)
            for name, dtype in (_PER_LEVEL | _PER_STEP).items()
            for k, array in enumerate(getattr(self, name))
        }


def build_hierarchy(
    vertices: Any,
    faces: Any,
    *,
    factors: Sequence[float] = (4, 4, 4, 4),
    spiral: SpiralConfig | None = None,
    upsampling: str = "barycentric",
) -> MeshHierarchy:
    """Decimate a template level by level and make the spiral and up-sampling tables. Deterministic.

    Args:
        vertices: ``[V, 3]`` real numbers: the template.
        faces: ``[F, 3]`` integers.
        factors: how many times fewer vertices each level has than the one before: ``ceil(V_l /
            factor)`` remain.
        spiral: the spirals; None is ``SpiralConfig()``, Neural3DMM's with one ring. At the coarser
            levels each reference is the vertex closest to the finest level's.
        upsampling: "barycentric" or "lstsq" (see :mod:`polygraph.mesh.upsample`).

    Raises:
        MeshError: if the mesh is not valid or cannot be decimated that far.
        ValueError: if a setting is out of range.

    Example:
        >>> import numpy as np
        >>> from polygraph.mesh import SpiralConfig, build_hierarchy
        >>> from scipy.spatial import Delaunay
        >>> vertices = np.random.default_rng(0).random((100, 3))
        >>> faces = Delaunay(vertices[:, :2]).simplices
        >>> spiral = SpiralConfig(convention="spiralnet++", length=9)
        >>> build_hierarchy(vertices, faces, factors=(2, 2), spiral=spiral)
        MeshHierarchy(100 -> 50 -> 25 vertices, spirals of [9, 9, 9], hash=1b70c7bfb22f)

    See Also:
        `load_or_build`, which keeps it in a cache.
    """
    mesh = validate_mesh(vertices, faces, "template")
    spiral = SpiralConfig() if spiral is None else spiral
    settings = _settings(mesh, factors, spiral, upsampling)
    meshes, keeps, index, weight, relaxed = [mesh], [], [], [], []
    for level, factor in enumerate(settings["factors"]):
        fine = meshes[-1]
        try:
            step = decimate(fine.vertices, fine.faces, math.ceil(len(fine.vertices) / factor))
            coarse = validate_mesh(fine.vertices[step.keep], step.faces, "the decimated mesh")
            _check_sizes(fine.vertices, coarse.vertices)
        except MeshError as error:
            raise MeshError(
                f"hierarchy level {level + 1} (factors {settings['factors']}): {error}"
            ) from error
        up_index, up_weight = UPSAMPLING[upsampling](fine.vertices, coarse.vertices, coarse.faces)
        _map_kept_to_themselves(step.keep, up_index, up_weight)
        meshes.append(coarse)
        keeps.append(step.keep)
        index.append(up_index)
        weight.append(up_weight)
        relaxed.append(list(step.relaxed))
    spirals = [_spirals(meshes, level, spiral) for level in range(len(meshes))]
    settings["relaxed"] = relaxed
    return MeshHierarchy(
        [m.vertices for m in meshes],
        [m.faces for m in meshes],
        spirals,
        keeps,
        index,
        weight,
        settings,
    )


def load_or_build(
    vertices: Any,
    faces: Any,
    *,
    factors: Sequence[float] = (4, 4, 4, 4),
    spiral: SpiralConfig | None = None,
    upsampling: str = "barycentric",
    cache_dir: PathLike | None = None,
) -> MeshHierarchy:
    """:func:`build_hierarchy`, once per template and settings.

    The result is kept in ``cache_dir`` under the hash of template and settings. A damaged file in
    the cache is rebuilt, and a cache that cannot be written is done without, each with a warning.
    None caches nothing. Several processes may share a cache.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from polygraph.mesh import load_or_build
        >>> from scipy.spatial import Delaunay
        >>> vertices = np.random.default_rng(0).random((100, 3))
        >>> faces, cache = Delaunay(vertices[:, :2]).simplices, tempfile.mkdtemp()
        >>> first = load_or_build(vertices, faces, factors=(2, 2), cache_dir=cache)
        >>> load_or_build(vertices, faces, factors=(2, 2), cache_dir=cache).hash == first.hash
        True

    See Also:
        `build_hierarchy`.
    """
    spiral = SpiralConfig() if spiral is None else spiral

    def build() -> MeshHierarchy:
        return build_hierarchy(
            vertices, faces, factors=factors, spiral=spiral, upsampling=upsampling
        )

    if cache_dir is None:
        return build()
    settings = _settings(validate_mesh(vertices, faces, "template"), factors, spiral, upsampling)
    key = hashlib.sha256(_canonical(settings)).hexdigest()
    path = Path(cache_dir) / f"hierarchy-{key[:32]}.npz"
    if path.exists():
        try:
            cached = MeshHierarchy.load(path)
            if {**cached.settings, "relaxed": None} == {**settings, "relaxed": None}:
                return cached
            warnings.warn(
                f"{path}: made with other settings than its name says; rebuilding", stacklevel=2
            )
        except MeshError as error:
            warnings.warn(f"{error}; rebuilding", stacklevel=2)
    hierarchy = build()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        hierarchy.save(path)
    except OSError as error:
        warnings.warn(f"cannot keep the mesh hierarchy in {path.parent}: {error}", stacklevel=2)
    return hierarchy


def _settings(
    mesh: Mesh, factors: Sequence[float], spiral: SpiralConfig, upsampling: str
) -> dict[str, Any]:
    """Everything that the result depends on, checked, as JSON values."""
    if isinstance(factors, (str, bytes)) or not isinstance(factors, Sequence):
        raise ValueError(
            f"factors must be a sequence of numbers, one per coarser level, got {factors!r}"
        )
    for factor in factors:
        if (
            isinstance(factor, bool)
            or not isinstance(factor, (int, float))
            or not 1 <= factor < math.inf
        ):
            raise ValueError(
                f"factors must be finite numbers >= 1, got {factor!r} in {tuple(factors)}"
            )
    if upsampling not in UPSAMPLING:
        raise ValueError(f"upsampling must be one of {sorted(UPSAMPLING)}, got {upsampling!r}")
    levels = len(factors) + 1
    for name in ("hops", "dilation"):
        if len(getattr(spiral, name)) > levels:
            raise ValueError(
                f"spiral {name} names {len(getattr(spiral, name))} levels,"
                f" the hierarchy has {levels}"
            )
    for reference in np.atleast_1d([] if spiral.reference is None else spiral.reference).tolist():
        if reference >= len(mesh.vertices):
            raise ValueError(
                f"reference must be a vertex in [0, {len(mesh.vertices)}), got {reference}"
            )
    template = hashlib.sha256(f"{mesh.vertices.shape}{mesh.faces.shape}".encode())
    template.update(mesh.vertices.astype("<f8").tobytes())
    template.update(mesh.faces.astype("<i8").tobytes())
    described = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(spiral).items()}
    return {
        "version": _version(mesh, spiral, upsampling),
        "template": template.hexdigest(),
        "factors": [float(f) for f in factors],
        "spiral": described,
        "upsampling": upsampling,
    }


def _version(mesh: Mesh, spiral: SpiralConfig, upsampling: str) -> int:
    """Goes up where the same input and settings give other tables, so that caches are rebuilt.

    Everywhere else it stays, and with it the hash by which a run knows its hierarchy. Version 2
    changed "lstsq" and "spiralnet++", and counts the gap at the end of a ring, on a border.
    """
    gaps_at_ends = (spiral.length is None or max(spiral.hops) > 1) and _is_open(mesh)
    return 2 if upsampling == "lstsq" or spiral.convention == "spiralnet++" or gaps_at_ends else 1


def _is_open(mesh: Mesh) -> bool:
    """Whether some edge has another number of faces than two."""
    edges = np.sort(mesh.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    return bool((np.unique(edges, axis=0, return_counts=True)[1] != 2).any())


def _canonical(value: dict[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _check_table(
    name: str, table: IntArray, shape: tuple[int | None, ...], low: int, high: int
) -> None:
    fits = table.ndim == len(shape) and all(
        want in (None, got) for want, got in zip(shape, table.shape, strict=True)
    )
    if not fits or table.size == 0:
        want = ["S" if n is None else n for n in shape]
        raise MeshError(f"hierarchy: {name} must have shape {want}, got {list(table.shape)}")
    if table.dtype.kind != "i" or table.min() < low or table.max() >= high:
        raise MeshError(f"hierarchy: {name} must hold integers in [{low}, {high})")


def _spirals(meshes: list[Mesh], level: int, config: SpiralConfig) -> IntArray:
    mesh, finest = meshes[level], meshes[0]
    reference = None
    if config.convention == "neural3dmm":
        top = choose_reference(finest) if config.reference is None else config.reference
        reference = [_closest_vertex(mesh, finest, one) for one in np.atleast_1d(top).tolist()]
    hops, dilation = config.at_level(level)
    return spiral_table(
        mesh.vertices,
        mesh.faces,
        convention=config.convention,
        hops=hops,
        dilation=dilation,
        length=config.length,
        reference=reference,
    )


def _check_sizes(fine: FloatArray, coarse: FloatArray) -> None:
    """Squares of distances are computed in units of the coarse mesh."""
    sizes = [float((v.max(0) / 2 - v.min(0) / 2).max()) * 2 for v in (coarse, fine)]
    if sizes[1] / sizes[0] > 1e100:
        raise MeshError(
            f"the decimated mesh is {sizes[0]:.3g} large, the mesh before it {sizes[1]:.3g}: "
            "distances relative to the smaller one overflow"
        )


def _closest_vertex(mesh: Mesh, finest: Mesh, vertex: int) -> int:
    offset = (mesh.vertices - finest.vertices[vertex]) / np.abs(finest.vertices).max()
    return int(np.argmin((offset * offset).sum(axis=1)))


def _map_kept_to_themselves(keep: IntArray, index: IntArray, weight: FloatArray) -> None:
    """Put right, in place, the kept vertices for whom a twin at the same position was found."""
    own = np.arange(len(keep))
    chosen = index[keep, weight[keep].argmax(axis=1)]
    wrong = chosen != own
    index[keep[wrong]] = own[wrong, None]
    weight[keep[wrong]] = (1.0, 0.0, 0.0)
