"""Named splits: which meshes train, which choose the model, which are only for the final score.

Every split has a SHA-256 of its index lists, so that two results can be checked to be about the
same meshes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polygraph._json import read_json

IndexArray = NDArray[np.int64]
Frame = Mapping[str, Any]
VALIDATION_EVERY = 20
_MOST_BYTES = 1 << 26  # of a file of splits


@dataclass(frozen=True, eq=False)
class Split:
    """Three disjoint lists of mesh indices.

    Attributes:
        name: what the split is called.
        train: int64 indices to train on, ascending.
        val: int64 indices for model selection, ascending; empty when training has a single mesh.
        test: int64 indices for the final score, ascending.

    Example:
        >>> from polygraph.data import make_split
        >>> split = make_split("mine", train=range(8), test=range(8, 10), num_meshes=10)
        >>> split, split.test
        (Split('mine', train=7, val=1, test=2, sha256=9d2512224a2f), array([8, 9]))

    See Also:
        `make_split`.
    """

    name: str
    train: IndexArray
    val: IndexArray
    test: IndexArray

    @property
    def sha256(self) -> str:
        """Hash of the lists.

        Of ``{"test":[..],"train":[..],"val":[..]}`` as JSON without spaces, in UTF-8.
        """
        lists = {part: getattr(self, part).tolist() for part in ("test", "train", "val")}
        return hashlib.sha256(json.dumps(lists, separators=(",", ":")).encode()).hexdigest()

    def thinned(self, every: int) -> Split:
        """The split with the first of every ``every`` meshes of each part; its hash is its own."""
        return Split(self.name, *(part[::every] for part in (self.train, self.val, self.test)))

    def __repr__(self) -> str:
        """Sizes and the start of the hash."""
        sizes = f"train={len(self.train)}, val={len(self.val)}, test={len(self.test)}"
        return f"Split({self.name!r}, {sizes}, sha256={self.sha256[:12]})"


def _index_list(values: Iterable[int], part: str, name: str, num_meshes: int) -> IndexArray:
    raw = np.asarray(values if isinstance(values, np.ndarray) else list(values))
    if raw.ndim != 1 or (raw.size and not np.issubdtype(raw.dtype, np.integer)):
        raise ValueError(
            f"split {name!r}: {part} must be a flat list of integers,"
            f" got {raw.dtype} of rank {raw.ndim}"
        )
    indices = np.sort(raw.astype(np.int64))
    outside = indices[(indices < 0) | (indices >= num_meshes)]
    if outside.size:
        raise ValueError(
            f"split {name!r}: {part} must hold indices in [0, {num_meshes}), got {int(outside[0])}"
        )
    repeated = indices[1:][indices[1:] == indices[:-1]]
    if repeated.size:
        raise ValueError(f"split {name!r}: {part} holds index {int(repeated[0])} more than once")
    return indices


def make_split(
    name: str,
    train: Iterable[int],
    test: Iterable[int],
    val: Iterable[int] | None = None,
    *,
    num_meshes: int,
    frames: Sequence[Frame] | None = None,
) -> Split:
    """Check the lists and, when `val` is missing or empty, carve it out of `train`.

    Args:
        name: what the split is called.
        train: indices to train on.
        test: indices for the final score.
        val: indices for model selection; None to carve them with `carve_validation`.
        num_meshes: number of meshes in the data set.
        frames: one mapping per mesh; a ``"clip"`` entry names the sequence it comes from.

    Raises:
        ValueError: an index is no integer, out of range or repeated; the lists overlap; train or
            test is empty.

    Example:
        >>> from polygraph.data import make_split
        >>> make_split("mine", train=[0, 1, 2], val=[3], test=[4, 5], num_meshes=6)
        Split('mine', train=3, val=1, test=2, sha256=bb9b1896476e)

    See Also:
        `MeshDataset.split`, the named splits of a data set.
    """
    parts = {
        "train": _index_list(train, "train", name, num_meshes),
        "test": _index_list(test, "test", name, num_meshes),
        "val": _index_list([] if val is None else val, "val", name, num_meshes),
    }
    for part in ("train", "test"):
        if not len(parts[part]):
            raise ValueError(
                f"split {name!r}: {part} must hold at least one mesh,"
                f" got none ({num_meshes} meshes in all)"
            )
    for one, other in (("train", "test"), ("train", "val"), ("val", "test")):
        shared = np.intersect1d(parts[one], parts[other])
        if shared.size:
            count = f"{shared.size} {'index' if shared.size == 1 else 'indices'}"
            raise ValueError(
                f"split {name!r}: {one} and {other} overlap in {count}, first {int(shared[0])}"
            )
    if not len(parts["val"]):
        parts["train"], parts["val"] = carve_validation(parts["train"], parts["test"], frames)
    return Split(name, parts["train"], parts["val"], parts["test"])


def spread(values: Sequence[Any], every: int) -> list[Any]:
    """One of every `every` values, from the middle of each stretch; at least one."""
    start = every // 2 if len(values) > every // 2 else len(values) // 2
    return list(values[start::every])


def carve_validation(
    train: IndexArray, test: IndexArray, frames: Sequence[Frame] | None
) -> tuple[IndexArray, IndexArray]:
    """Take validation meshes out of a training list, in the manner in which test was taken.

    When the test meshes come from clips that training never sees (extrapolation), so do the
    validation meshes: one of every 20 training clips, in order of name, is moved as a whole (at
    least one, if there are three clips or more). Otherwise one of every 20 meshes of the sorted
    training list is moved. A single training mesh stays. Nothing is random.

    Returns:
        The remaining training indices and the validation indices.
    """
    if len(train) < 2:
        return train, np.empty(0, np.int64)
    if frames is not None and all("clip" in frame for frame in frames):
        clip = np.array([str(frame["clip"]) for frame in frames])
        train_clips = sorted(set(clip[train].tolist()))
        if len(train_clips) >= 3 and not set(train_clips) & set(clip[test].tolist()):
            chosen = np.isin(clip[train], spread(train_clips, VALIDATION_EVERY))
            return train[~chosen], train[chosen]
    val = np.array(spread(train.tolist(), VALIDATION_EVERY), np.int64)
    return np.setdiff1d(train, val), val


def draw_validation(
    labels: IndexArray, candidates: IndexArray, fraction: float, seed: int
) -> tuple[IndexArray, IndexArray]:
    """Draw samples that validate: of each class the same share, from the seed.

    Args:
        labels: int64 ``[S]``, of all samples.
        candidates: int64, ascending: those that may train.
        fraction: share of each class that validates, rounded; at least one of every class that has
            two or more candidates.
        seed: draws them.

    Returns:
        The remaining training samples and those that validate, both ascending.
    """
    held = np.zeros(len(labels), np.bool_)
    for number in np.unique(labels[candidates]):
        members = candidates[labels[candidates] == number]
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        draw = np.random.default_rng([seed, int(number)])
        held[draw.permutation(members)[:count]] = True
    return candidates[~held[candidates]], candidates[held[candidates]]


def interpolation_split(
    frames: Sequence[Frame] | None, num_meshes: int, name: str = "interpolation", every: int = 10
) -> Split:
    """Test between frames that training sees: those whose position in their clip is 5 modulo 10.

    Without clips the whole data set counts as one clip. Sets too small for that rule test on one
    mesh from the middle.
    """
    position = np.arange(num_meshes)
    if frames is not None and all("clip" in frame for frame in frames):
        seen: dict[str, int] = {}
        for i, frame in enumerate(frames):
            position[i] = seen.setdefault(str(frame["clip"]), 0)
            seen[str(frame["clip"])] += 1
    test = np.flatnonzero(position % every == every // 2)
    if not test.size:
        test = np.array(spread(range(num_meshes), every), np.int64)
    return make_split(
        name, np.setdiff1d(np.arange(num_meshes), test), test, num_meshes=num_meshes, frames=frames
    )


def leave_out(frames: Sequence[Frame], key: str, prefix: str) -> dict[str, Split]:
    """For every value of ``frame[key]`` the split ``<prefix>-<value>`` that tests on that value.

    It trains on all others. A value that all frames share gives no split: nothing would be left to
    train on.
    """
    values = np.array([str(frame[key]) for frame in frames])
    everything = np.arange(len(values))
    splits = {}
    for value in sorted(set(values.tolist())):
        held = values == value
        if not held.all():
            name = f"{prefix}-{value}"
            splits[name] = make_split(
                name, everything[~held], everything[held], num_meshes=len(values), frames=frames
            )
    return splits


def read_splits(path: Path, num_meshes: int, frames: Sequence[Frame] | None) -> dict[str, Split]:
    """Read ``splits.json``: ``{name: {"train": [..], "test": [..], "val": [..]}}``, val optional.

    Raises:
        ValueError: not JSON, not of that form, or a list is bad (see `make_split`); the message
            names the file.
    """
    content = read_json(path, most_bytes=_MOST_BYTES)
    if not isinstance(content, dict) or not content:
        raise ValueError(
            f"{path}: must map names of splits to their lists, got {type(content).__name__}"
        )
    splits = {}
    for name, lists in content.items():
        if not isinstance(lists, dict) or not {"train", "test"} <= set(lists) <= {
            "train",
            "val",
            "test",
        }:
            got = sorted(lists) if isinstance(lists, dict) else type(lists).__name__
            raise ValueError(
                f"{path}: split {name!r} must have the lists train and test, maybe val; got {got}"
            )
        for part, values in lists.items():
            if not isinstance(values, list) or not all(type(v) is int for v in values):
                raise ValueError(f"{path}: split {name!r}: {part} must be a list of integers")
        try:
            splits[name] = make_split(name, **lists, num_meshes=num_meshes, frames=frames)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    return splits
