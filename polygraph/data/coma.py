"""CoMA: 20,466 registered face scans, 12 subjects with 12 extreme expressions each.

Ranjan, Bolkart, Sanyal, Black: "Generating 3D faces using Convolutional Mesh Autoencoders" (ECCV
2018). Layout of the official archive: ``<subject>/<expression>/<expression>.NNNNNN.ply``, metres,
5,023 vertices, 9,976 faces.

Public code uses several "interpolation" splits that are not compatible: they differ in the rule and
in the order of the list that the rule counts along, so their errors cannot be compared.
`INTERPOLATION` offers them by name. The rules of the first authors count along an unsorted
directory listing, which differs between machines; here every list is sorted, and a `splits.json` in
the root folder can pin any other list of indices.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from polygraph._files import natural_key
from polygraph.data.registered import (
    MeshDataset,
    checked_scale,
    dataset_from,
    mesh_files_conversion,
    source_path,
)
from polygraph.data.splits import IndexArray, Split, leave_out, make_split, read_splits
from polygraph.data.store import Conversion, Entry, Frames, open_converted
from polygraph.mesh.io import MeshError

_FILE = re.compile(r"(?P<expression>.+)\.(?P<number>\d+)\.ply")


@dataclass(frozen=True)
class Interpolation:
    """One convention for CoMA's interpolation split.

    Attributes:
        text: what it is and who uses it.
        order: gives every frame its place in the list along which the rule counts.
        is_test: rule on (place modulo 100).
        is_val: rule on (place modulo 100); None when the convention has no validation set (then it
            is carved from train).
    """

    text: str
    order: Callable[[Sequence[dict[str, Any]]], IndexArray]
    is_test: Callable[[IndexArray], Any]
    is_val: Callable[[IndexArray], Any] | None = None


def _place_by(key: Callable[[str], Any]) -> Callable[[Sequence[dict[str, Any]]], IndexArray]:
    def order(frames: Sequence[dict[str, Any]]) -> IndexArray:
        files = [str(frame["file"]) for frame in frames]
        place = np.empty(len(files), np.int64)
        place[sorted(range(len(files)), key=lambda i: key(files[i]))] = np.arange(len(files))
        return place

    return order


def _place_in_sequence(frames: Sequence[dict[str, Any]]) -> IndexArray:
    return np.array([frame["frame"] for frame in frames], np.int64)


INTERPOLATION: dict[str, Interpolation] = {
    "interpolation-sorted": Interpolation(
        "Test: i % 100 < 10 along the list of all files in lexicographic order of their paths. The"
        " rule of the original CoMA code and of SpiralNet++, whose lists are in the order of the"
        " file system. Also called `interpolation`.",
        _place_by(lambda file: file),
        lambda i: i < 10,
    ),
    "interpolation-natural": Interpolation(
        "Test: i % 100 < 10 along the list of all files in natural order (numbers compared as"
        " numbers). Equal to interpolation-sorted while all frame numbers have six digits,"
        " different where zeros were stripped.",
        _place_by(natural_key),
        lambda i: i < 10,
    ),
    "interpolation-sequence": Interpolation(
        "Test: i % 100 < 10 within every sequence (subject and expression), so a sequence starts"
        " with test frames.",
        _place_in_sequence,
        lambda i: i < 10,
    ),
    "interpolation-pyg": Interpolation(
        "Test: i % 100 >= 90 within every sequence, the rule of torch_geometric.datasets.CoMA:"
        " sequences of 90 frames or fewer are never tested.",
        _place_in_sequence,
        lambda i: i >= 90,
    ),
    "interpolation-port": Interpolation(
        "Test: i % 100 <= 10 (11 of 100), validation: 11 to 20, along the sorted list of all files:"
        " the rule of a PyTorch port of CoMA, whose list is in the order of the file system.",
        _place_by(lambda file: file),
        lambda i: i <= 10,
        lambda i: (i > 10) & (i <= 20),
    ),
}


def find_frames(root: Path) -> tuple[list[Path], Frames]:
    """List the frames below root, sorted by subject, expression and number.

    Gaps in the numbers are normal. Files that are not named ``<expression>.<digits>.ply`` in a
    folder ``<subject>/<expression>`` are left out, with one warning that counts them. The archive
    may have been extracted with or without its top folder.

    Raises:
        MeshError: there is no frame at all, or two files claim the same number.
    """
    paths = sorted(p for p in root.glob("*/*/*.ply") if not p.name.startswith("."))
    if not paths:
        inner = [p for p in root.iterdir() if p.is_dir() and any(p.glob("*/*/*.ply"))]
        if len(inner) != 1:
            raise MeshError(
                f"{root}: no meshes: want <subject>/<expression>/<expression>.NNNNNN.ply"
            )
        paths = sorted(p for p in inner[0].glob("*/*/*.ply") if not p.name.startswith("."))
    rows, extra = [], []
    for path in paths:
        match = _FILE.fullmatch(path.name)
        if match and match["expression"] == path.parent.name:
            rows.append((path.parts[-3], path.parts[-2], int(match["number"]), path))
        else:
            extra.append(path)
    if extra:
        warnings.warn(
            f"{root}: left out {len(extra)} .ply files that are not frames, first {extra[0]}",
            stacklevel=3,
        )
    if not rows:
        raise MeshError(f"{root}: no meshes: want <subject>/<expression>/<expression>.NNNNNN.ply")
    rows.sort()
    for one, two in pairwise(rows):
        if one[:3] == two[:3]:
            raise MeshError(f"{two[3]}: the same frame number as {one[3].name}")
    base = paths[0].parents[2]
    count: dict[str, int] = {}
    frames: Frames = []
    for subject, expression, number, path in rows:
        clip = f"{subject}/{expression}"
        count[clip] = count.get(clip, -1) + 1
        file = path.relative_to(base).as_posix()
        frames.append(
            {
                "clip": clip,
                "subject": subject,
                "expression": expression,
                "number": number,
                "frame": count[clip],
                "file": file,
            }
        )
    return [row[3] for row in rows], frames


def coma_splits(frames: Frames) -> dict[str, Split]:
    """All splits that these frames allow.

    The conventions of `INTERPOLATION` (``interpolation`` is ``interpolation-sorted``),
    ``extrapolation-<expression>``, which tests on one expression of all subjects, and
    ``identity-<subject>``, which tests on one subject. A split that would leave training or testing
    without a mesh is left out.
    """
    splits: dict[str, Split] = {}
    everything = np.arange(len(frames))
    for name, convention in INTERPOLATION.items():
        place = convention.order(frames) % 100
        test = np.asarray(convention.is_test(place), bool)
        val = (
            np.zeros(len(frames), bool)
            if convention.is_val is None
            else np.asarray(convention.is_val(place), bool)
        )
        train = ~(test | val)
        if not train.any() or not test.any():
            continue
        for alias in (name, "interpolation") if name == "interpolation-sorted" else (name,):
            splits[alias] = make_split(
                alias,
                everything[train],
                everything[test],
                everything[val],
                num_meshes=len(frames),
                frames=frames,
            )
    splits.update(leave_out(frames, "expression", "extrapolation"))
    splits.update(leave_out(frames, "subject", "identity"))
    return splits


def open_coma(
    path: str | Path,
    *,
    cache_dir: str | Path | None = None,
    to_mm: float = 1000.0,
    full_check: bool = False,
) -> MeshDataset:
    """Open the official CoMA tree, converting it into the cache on first use.

    Meshes are ordered by subject, expression and frame number. ``frames`` has subject, expression,
    clip (both), the number in the file's name, and the position in the sequence. Splits: see
    `coma_splits`; those of a ``splits.json`` in the root folder come on top.

    Args:
        path: the folder that holds the subjects.
        cache_dir: where the converted arrays go; None for `polygraph.data.store.default_cache_dir`.
        to_mm: millimetres per unit; the official files are in metres.
        full_check: verify the SHA-256 of the cached arrays, and not only their sizes.

    Raises:
        FileNotFoundError: the folder does not exist.
        MeshError: there are no frames, or a file is corrupt or has another topology; the message
            names it.

    Example:
        >>> from polygraph.data import open_coma
        >>> faces = open_coma("CoMA")  # doctest: +SKIP

    See Also:
        `open_dfaust`, `open_registered`; `open_dataset` opens any of them by a configuration.
    """
    root = source_path(path, "CoMA")
    to_mm = checked_scale(to_mm)
    if not root.is_dir():
        raise NotADirectoryError(
            f"CoMA: want the folder of the extracted archive, got the file {root}"
        )
    paths, frames = find_frames(root)

    def convert() -> Conversion:
        return mesh_files_conversion(root, paths, frames)

    stored = open_converted(Entry("coma", root, paths, cache_dir), convert, full_check)
    splits = coma_splits(frames)
    if (root / "splits.json").exists():
        splits.update(read_splits(root / "splits.json", len(frames), frames))
    return replace(dataset_from(stored, "coma", to_mm, splits), up="y")
