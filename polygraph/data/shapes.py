"""Labelled point clouds: a reader of one archive, and small sets that are built in.

An archive is an ``.npz`` file with the arrays ``xyz`` ``[S, N, 3]`` (floats, or int16 in units of
1 / 32767), ``label`` (integers ``[S]``), ``is_test`` (booleans, or 0 and 1, ``[S]``) and, if there
are names, ``classes`` (strings).
Labels of points, for segmentation, are ``part`` (integers ``[S, N]``, numbered through all classes
as in ShapeNet-Part) with names ``parts``. The clouds are used as they lie: the published recipe
wants them centred, within the unit sphere, and the second axis up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from polygraph._arrays import array_sha256, as_numpy, read_npz, rows_sha256
from polygraph._checks import check_numbers
from polygraph._memory import check_room
from polygraph._names import unknown_name
from polygraph.data.objects import make_objects
from polygraph.data.part_labels import PartLabels, names_of, read_parts
from polygraph.data.solids import TEST_EVERY, UNIT, make_shapes
from polygraph.data.splits import draw_validation
from polygraph.mesh.origin import ZERO, Point, origin_of, to_float32

IntArray = NDArray[np.int64]

REQUIRED = ("xyz", "label", "is_test")
_OPTIONAL = ("classes", "part", "parts")
ARRAYS = "(arrays)"  #: path of what was handed over in memory
#: name of a built-in set -> what makes it
BUILT_IN: dict[str, Callable[[int, int, int], dict[str, NDArray[Any]]]] = {
    "shapes": make_shapes,
    "objects": make_objects,
}
_BLOCK = 1 << 20  # numbers that are converted at a time


@dataclass(frozen=True)
class ShapeDataConfig:
    """Which labelled point clouds, and which of them validate.

    Attributes:
        path: an .npz archive with xyz, label and is_test; None: a built-in set.
        val_fraction: share of the training shapes of each class that validates instead, rounded;
            at least one of every class that has two or more.
        val_seed: draws these shapes.
        num_shapes: number of built-in shapes.
        num_points: points of each built-in shape.
        seed: of the built-in shapes.
        built_in: "shapes" (solids), or "objects", whose points have parts.
    """

    path: str | None = None
    val_fraction: float = 0.15
    val_seed: int = 0
    num_shapes: int = 240
    num_points: int = 256
    seed: int = 0
    built_in: str = "shapes"

    def __post_init__(self) -> None:
        """Refuse what no data set can be opened from."""
        check_numbers("data", self, ("seed", "val_seed"))
        if not 0 < self.val_fraction < 1:
            raise ValueError(f"data: val_fraction must be in (0, 1), got {self.val_fraction}")
        if self.built_in not in BUILT_IN:
            raise ValueError(f"data: {unknown_name('built_in', self.built_in, BUILT_IN)}")
        for name, low in (("num_shapes", 1), ("num_points", 1), ("val_seed", 0), ("seed", 0)):
            if getattr(self, name) < low:
                raise ValueError(f"data: {name} must be at least {low}, got {getattr(self, name)}")


@dataclass(frozen=True)
class ShapeDataset:
    """Labelled point clouds in memory, and what each of them is for.

    Attributes:
        name: for people.
        points: float32 ``[S, N, 3]``, less ``origin``.
        labels: int64 ``[S]``, in ``[0, len(classes))``.
        classes: their names.
        train: int64, ascending: the shapes that train.
        val: the shapes that select the weights.
        test: the shapes that are measured once.
        content_hash: SHA-256 of points and labels.
        split_hash: SHA-256 of the three parts.
        origin: what was subtracted from the archive's points: zeros, but where the first cloud lies
            far from 0, see `polygraph.mesh.origin`.
        parts: labels of the points, where there are some.

    Example:
        >>> from polygraph.data import ShapeDataConfig, open_shapes
        >>> shapes = open_shapes(ShapeDataConfig())
        >>> shapes.points.shape, shapes.classes
        ((240, 256, 3), ('sphere', 'box', 'cylinder', 'cone', 'torus'))
    """

    name: str
    points: NDArray[np.float32]
    labels: IntArray
    classes: tuple[str, ...]
    train: IntArray
    val: IntArray
    test: IntArray
    content_hash: str
    split_hash: str
    origin: Point = ZERO
    parts: PartLabels | None = None

    def __repr__(self) -> str:
        """One line: the name, sizes, the parts."""
        clouds, points = self.points.shape[:2]
        return (
            f"ShapeDataset({self.name!r}, {clouds} clouds of {points} points, "
            f"{self.num_classes} classes, train={len(self.train)}, val={len(self.val)}, "
            f"test={len(self.test)})"
        )

    @classmethod
    def from_arrays(
        cls,
        points: Any,
        labels: Any,
        *,
        name: str = "arrays",
        classes: Sequence[str] | None = None,
        test: ArrayLike | None = None,
        val_fraction: float = 0.15,
        seed: int = 0,
        parts: Any = None,
        part_names: Sequence[str] | None = None,
    ) -> ShapeDataset:
        """Labelled clouds that are in memory already.

        Args:
            points: floating point ``[S, N, 3]``, of numpy or torch; copied as float32. The
                published recipe wants clouds centred, within the unit sphere, and the second axis
                up.
            labels: integers ``[S]`` from 0 on.
            name: for messages.
            classes: their names; None: their numbers.
            test: indices of the clouds that test; None: every fourth of each class.
            val_fraction: share of the others of each class that validates; at least one.
            seed: draws those.
            parts: integers ``[S, N]`` from 0 on, the part of each point, for segmentation.
            part_names: their names; None: their numbers.

        Raises:
            ValueError: a shape, a dtype or a label is wrong, or a part would be empty.

        Example:
            >>> import numpy as np
            >>> rng = np.random.default_rng(0)
            >>> clouds = ShapeDataset.from_arrays(rng.normal(size=(40, 32, 3)), [0, 1] * 20)
            >>> clouds.classes, len(clouds.train), len(clouds.val), len(clouds.test)
            (('0', '1'), 26, 4, 10)
        """
        xyz, label = as_numpy(points), as_numpy(labels)
        is_test = np.zeros(len(xyz), np.bool_)
        if test is None:
            is_test[_every_fourth(label)] = True
        else:
            is_test[as_numpy(test)] = True
        arrays = {"xyz": xyz, "label": label, "is_test": is_test}
        if classes is not None:
            arrays["classes"] = np.array(classes, dtype=np.str_)
        if parts is not None:
            arrays["part"] = as_numpy(parts)
        if part_names is not None:
            arrays["parts"] = np.array(part_names, dtype=np.str_)
        config = ShapeDataConfig(ARRAYS, val_fraction, seed)
        return _dataset(name, arrays, config)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)


def _every_fourth(label: NDArray[Any]) -> IntArray:
    """Indices of every fourth sample of each class."""
    parts = [np.flatnonzero(label == k)[TEST_EVERY - 1 :: TEST_EVERY] for k in np.unique(label)]
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def open_shapes(config: ShapeDataConfig) -> ShapeDataset:
    """Open an archive, or make the built-in shapes, and draw the validation part.

    Raises:
        FileNotFoundError: there is no file at the path.
        ValueError: the archive is damaged, an array is missing or has another shape, dtype or range
            than it must, or a part would be empty; the message names the file and the array.

    Example:
        >>> from polygraph.data import ShapeDataConfig, open_shapes
        >>> open_shapes(ShapeDataConfig())
        ShapeDataset('shapes-240-256-0', 240 clouds of 256 points, 5 classes, train=155, ...)

    See Also:
        `make_shapes`; `polygraph.models.DGCNNClassifier`.
    """
    if config.path is None:
        name = f"{config.built_in}-{config.num_shapes}-{config.num_points}-{config.seed}"
        made = BUILT_IN[config.built_in](config.num_shapes, config.num_points, config.seed)
        return _dataset(name, made, config)
    if config.path == ARRAYS:
        raise ValueError("data: arrays in memory are not kept: hand them over again, or a file")
    path = Path(config.path)
    return _dataset(str(path), _read(path), config)


# ---- archives ----


def _read(path: Path) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    found = read_npz(path)
    arrays = {name: found[name] for name in (*REQUIRED, *_OPTIONAL) if name in found}
    missing = [name for name in REQUIRED if name not in arrays]
    if missing:
        raise ValueError(
            f"{path}: {missing[0]} is missing, got the arrays {', '.join(sorted(found)) or 'none'}"
        )
    return arrays


def _points(name: str, xyz: NDArray[Any]) -> tuple[NDArray[np.float32], Point]:
    if xyz.ndim != 3 or xyz.shape[2] != 3 or 0 in xyz.shape:
        raise ValueError(
            f"{name}: xyz must have shape [S, N, 3] with S and N at least 1, got {list(xyz.shape)}"
        )
    check_room(4 * xyz.size, f"{name}: {xyz.shape[0]} clouds of {xyz.shape[1]} points")
    points = np.empty(xyz.shape, np.float32)
    step = max(1, _BLOCK // xyz[0].size)
    blocks = [slice(start, start + step) for start in range(0, len(xyz), step)]
    if xyz.dtype == np.int16:
        for rows in blocks:
            np.divide(xyz[rows], np.float32(UNIT), out=points[rows], dtype=np.float32)
        return points, ZERO
    if not np.issubdtype(xyz.dtype, np.floating):
        raise ValueError(f"{name}: xyz must be int16 or floating point, got {xyz.dtype}")
    bad = np.zeros(len(xyz), np.bool_)
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes inf, and is named below
        for rows in blocks:
            bad[rows] = ~np.isfinite(xyz[rows].astype(np.float32)).all(axis=(1, 2))
    if bad.any():
        raise ValueError(
            f"{name}: xyz must be finite (in float32), but {int(bad.sum())} clouds are not, the "
            f"first of them cloud {int(bad.argmax())}"
        )
    origin = origin_of(xyz[0])
    for rows in blocks:
        points[rows] = to_float32(xyz[rows], name, rows.start, origin, "cloud")
    return points, origin


def _labels(name: str, label: NDArray[Any], size: int, classes: int | None) -> IntArray:
    if label.shape != (size,) or not np.issubdtype(label.dtype, np.integer):
        raise ValueError(
            f"{name}: label must be integers of shape [{size}], got {label.dtype} "
            f"{list(label.shape)}"
        )
    labels = label.astype(np.int64)
    # Without names every number up to the largest label is a class, and each needs shapes.
    count = size if classes is None else classes
    bad = (labels < 0) | (labels >= count)
    if bad.any():
        at = int(bad.argmax())
        raise ValueError(f"{name}: label must lie in [0, {count}), got {label[at]} for cloud {at}")
    return labels


def _is_test(name: str, is_test: NDArray[Any], size: int) -> NDArray[np.bool_]:
    whole = is_test.dtype == np.bool_ or np.issubdtype(is_test.dtype, np.integer)
    if is_test.shape != (size,) or not whole or not np.isin(is_test, (0, 1)).all():
        raise ValueError(
            f"{name}: is_test must be booleans (or 0 and 1) of shape [{size}], got "
            f"{is_test.dtype} {list(is_test.shape)}"
        )
    return is_test.astype(np.bool_)


def _dataset(name: str, arrays: dict[str, NDArray[Any]], config: ShapeDataConfig) -> ShapeDataset:
    points, origin = _points(name, arrays["xyz"])
    classes = names_of(name, arrays, "classes")
    labels = _labels(name, arrays["label"], len(points), None if classes is None else len(classes))
    if classes is None:
        classes = tuple(str(number) for number in range(int(labels.max()) + 1))
    is_test = _is_test(name, arrays["is_test"], len(points))
    if not is_test.any():
        raise ValueError(f"{name}: is_test must name at least one test shape, got none")
    seen = np.bincount(labels[~is_test], minlength=len(classes))
    if (seen == 0).any():
        at = int((seen == 0).argmax())
        raise ValueError(
            f"{name}: every class must have training shapes, got none of class {at} "
            f"({classes[at]!r})"
        )
    parts = read_parts(name, arrays, points.shape[:2], labels, len(classes), is_test)
    if len(classes) < 2 and parts is None:
        raise ValueError(f"{name}: label must name at least 2 classes, got 1")
    candidates = np.flatnonzero(~is_test)
    train, val = draw_validation(labels, candidates, config.val_fraction, config.val_seed)
    if not len(val):
        raise ValueError(f"{name}: no class has two training shapes, so that one could validate")
    test = np.flatnonzero(is_test)
    return ShapeDataset(
        name=name,
        points=points,
        labels=labels,
        classes=classes,
        train=train,
        val=val,
        test=test,
        content_hash=array_sha256(
            np.asarray(points, "<f4"),
            labels.astype("<i8"),
            *([np.asarray(origin, "<f8")] if any(origin) else []),
        ),
        split_hash=rows_sha256(train, val, test),
        origin=origin,
        parts=parts,
    )
