"""Sets for verification: samples of identities, and parts that share no identity.

What is told apart in training is never seen in validation or testing, and the other way round. Any
labelled set will do: pictures in a folder for each identity, faces of the ORL database, characters
of Omniglot, classes of images, point clouds, bodies in a folder of registered meshes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polygraph._arrays import array_sha256, rows_sha256
from polygraph._checks import check_numbers
from polygraph._files import natural_key
from polygraph._names import did_you_mean, unknown_name
from polygraph.data.config import MeshDataConfig, open_dataset
from polygraph.data.image_files import IntArray, list_pictures, read_picture
from polygraph.data.image_folders import cached_pictures, pictures_entry
from polygraph.data.images import ARRAYS, ImageDataConfig, ImageDataset, open_images
from polygraph.data.picture_archives import ARCHIVES, is_archive, read_archive
from polygraph.data.shapes import ShapeDataConfig, ShapeDataset, open_shapes

IdentityDataset = ImageDataset | ShapeDataset

_CLASSES = ("glyphs", "mnist", "fashion-mnist", "cifar10", "cifar100")
_PARTS = ("train", "val", "test")
POINT_KINDS = ("points", "meshes")  #: whose samples are point clouds
KINDS = ("folder", "orl", "omniglot", *_CLASSES, *POINT_KINDS, ARRAYS)
_WITHOUT_PATH = ("glyphs", ARRAYS)
_LEAST = 2  # identities of a part: there must be impostors


@dataclass(frozen=True)
class IdentityDataConfig:
    """Which samples of identities, and which identities are for what.

    Attributes:
        kind: "folder" (pictures, a folder for each identity), "orl" and "omniglot" (their archives,
            or folders), "points" (an .npz archive of clouds), "meshes" (a folder of registered
            meshes with frames.json), "glyphs" (built in), "mnist", "fashion-mnist", "cifar10",
            "cifar100" (classes as identities) or "arrays" (handed over in memory).
        path: the folder or archive.
        size: height and width of images; pictures of folders and archives are scaled and cut to it.
        channels: of images, 1 or 3; None: as the set has them (folders 3, orl and omniglot 1).
        num_points: of "meshes": vertices of each that are taken, others for each mesh.
        every: of "meshes": use one of so many.
        identity: of "meshes": the entry of frames.json that says whom a mesh shows.
        test_names: identities that test, or what their names begin with before a slash, such as
            alphabets of Omniglot: "Greek,Latin"; None: the folder test/ beside train/, or drawn.
        test_fraction: share of the identities that is drawn for testing, rounded; at least 2.
        val_fraction: share of the others that validates; at least 2.
        split_seed: draws them.
        cache_dir: where scaled pictures are kept; None for the user's cache.
        full_check: verify the SHA-256 of cached arrays, and not only their sizes.
        num_samples: number of built-in glyphs.
        seed: of the glyphs, and of the vertices that are taken.
    """

    kind: str = "glyphs"
    path: str | None = None
    size: int = 32
    channels: int | None = None
    num_points: int = 512
    every: int = 1
    identity: str = "identity"
    test_names: str | None = None
    test_fraction: float = 0.3
    val_fraction: float = 0.2
    split_seed: int = 0
    cache_dir: str | None = None
    full_check: bool = False
    num_samples: int = 700
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what no set can be opened from."""
        check_numbers("data", self, ("seed", "split_seed"))
        if self.kind not in KINDS:
            raise ValueError(f"data: {unknown_name('kind', self.kind, KINDS)}")
        if (self.kind in _WITHOUT_PATH) == (self.path is not None):
            must = "must not" if self.kind in _WITHOUT_PATH else "must"
            raise ValueError(
                f"data: path {must} be set for kind {self.kind!r}, got {self.path or 'none'!r}"
            )
        for name in ("test_fraction", "val_fraction"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"data: {name} must be in (0, 1), got {getattr(self, name)}")
        for name in ("num_points", "every", "num_samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"data: {name} must be at least 1, got {getattr(self, name)}")
        for name in ("seed", "split_seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"data: {name} must be at least 0, got {getattr(self, name)}")
        ImageDataConfig(size=self.size, channels=self.channels)

    def has_points(self) -> bool:
        """Whether the samples are point clouds, and no images."""
        return self.kind in POINT_KINDS


def open_identities(config: IdentityDataConfig) -> IdentityDataset:
    """Open a set, and divide its identities.

    Returns:
        An `ImageDataset` or a `ShapeDataset`; ``labels`` are identities, ``classes`` their names.
        Its parts ``train``, ``val`` and ``test`` have no identity in common.

    Raises:
        FileNotFoundError: the path does not exist.
        ValueError: a file is damaged, there are too few identities, or a name of ``test_names`` is
            unknown; or an identity is in two of the folders train/, val/ and test/.

    Example:
        >>> from polygraph.data.identities import IdentityDataConfig, open_identities
        >>> digits = open_identities(IdentityDataConfig(test_names="3,7"))
        >>> sorted(set(digits.labels[digits.test].tolist()))
        [3, 7]
    """
    if config.kind == ARRAYS:
        raise ValueError("data: arrays in memory are not kept: hand them over again, or a folder")
    if config.kind == "points":
        return divided(open_shapes(ShapeDataConfig(config.path)), config)
    if config.kind == "meshes":
        return divided(_clouds(config), config)
    if config.kind in _CLASSES:
        images = ImageDataConfig(
            config.kind,
            config.path,
            config.size,
            config.channels,
            num_images=config.num_samples,
            seed=config.seed,
        )
        return divided(open_images(images), config)
    dataset, part = _pictures(config)
    return divided(dataset, config, part)


# ---- parts ----


def divided(
    dataset: IdentityDataset, config: IdentityDataConfig, part: NDArray[np.str_] | None = None
) -> IdentityDataset:
    """The same set with parts that share no identity.

    Args:
        dataset: with labels; its own parts are not looked at.
        config: says which identities test, or how many.
        part: of each sample, "train", "val" or "test", where the set says so; None: it does not.

    Raises:
        ValueError: see `open_identities`.
    """
    if dataset.labels is None:
        raise ValueError(f"{dataset.name}: its samples have no labels, which must name identities")
    labels, names = dataset.labels, dataset.classes
    present = np.unique(labels)
    if len(present) < 3 * _LEAST:
        raise ValueError(
            f"{dataset.name}: must have at least {3 * _LEAST} identities, two to train, to "
            f"validate and to test, got {len(present)}"
        )
    draw = np.random.default_rng(config.split_seed)
    named: dict[str, IntArray] = {}
    if part is not None:
        named = _named_parts(dataset.name, labels, names, part)
    if config.test_names is not None:
        named = {"test": _chosen(dataset.name, present, names, config.test_names)}
    rest = np.setdiff1d(present, np.concatenate([*named.values(), np.empty(0, np.int64)]))
    for kind, fraction in (("test", config.test_fraction), ("val", config.val_fraction)):
        if kind not in named:
            count = max(_LEAST, round(fraction * len(rest)))
            named[kind] = draw.permutation(rest)[:count]
            rest = np.setdiff1d(rest, named[kind])
    for kind, found in (("train", rest), *named.items()):
        if len(found) < _LEAST:
            verb = "validate" if kind == "val" else kind
            raise ValueError(
                f"{dataset.name}: at least {_LEAST} identities must {verb}, got {len(found)} of "
                f"{len(present)}"
            )
    train, val, test = (
        np.flatnonzero(np.isin(labels, who)) for who in (rest, named["val"], named["test"])
    )
    digest = rows_sha256(train, val, test)
    return replace(dataset, train=train, val=val, test=test, split_hash=digest)


def _named_parts(
    name: str, labels: IntArray, names: tuple[str, ...], part: NDArray[np.str_]
) -> dict[str, IntArray]:
    found = {kind: np.unique(labels[part == kind]) for kind in _PARTS}
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        shared = np.intersect1d(found[one], found[other])
        if len(shared):
            raise ValueError(
                f"{name}: identities of {one}/ and {other}/ must differ, but {len(shared)} are in "
                f"both, the first of them {names[shared[0]]!r}"
            )
    return {kind: found[kind] for kind in ("val", "test") if len(found[kind])}


def _chosen(name: str, present: IntArray, names: tuple[str, ...], wanted: str) -> IntArray:
    """Identities by their names, or by what these begin with before a slash."""
    found: set[int] = set()
    for word in (word.strip() for word in wanted.split(",")):
        members = {
            n for n in present.tolist() if names[n] == word or names[n].startswith(f"{word}/")
        }
        if not word or not members:
            known = sorted({part for n in present for part in (names[n], names[n].split("/")[0])})
            raise ValueError(f"{name}: no identity {word!r}{did_you_mean(word, known)}")
        found |= members
    return np.array(sorted(found), np.int64)


# ---- pictures ----


def _pictures(config: IdentityDataConfig) -> tuple[ImageDataset, NDArray[np.str_] | None]:
    """Pictures of a folder or of archives, and their parts where folders say so."""
    assert config.path is not None
    root = Path(config.path).expanduser()
    if not root.exists():
        raise FileNotFoundError(f"{root}: no such folder or archive; want one with pictures")
    channels = config.channels or (3 if config.kind == "folder" else 1)
    archives = _archives(root)
    if archives:
        found = dict(_archived(archives, config.size, channels))
        paths = sorted(found, key=natural_key)
        images = np.stack([found[path] for path in paths]) if paths else np.empty(0, np.uint8)
    else:
        files = list_pictures(root)
        paths = [path.relative_to(root).as_posix() for path in files]
        entry = pictures_entry(root, files, config.size, channels, config.cache_dir)
        images = (
            cached_pictures(entry, files, config.size, channels, config.full_check)
            if files
            else np.empty(0, np.uint8)
        )
    if not paths:
        raise ValueError(f"{root}: want at least one picture, got none")
    part, names = _identities_of(root, paths)
    classes, labels = np.unique(names, return_inverse=True)
    images.setflags(write=False)
    numbers = labels.astype(np.int64)
    dataset = ImageDataset(
        name=root.resolve().name,
        images=images,
        labels=numbers,
        classes=tuple(map(str, classes)),
        train=np.arange(len(numbers)),
        test=np.empty(0, np.int64),
        content_hash=array_sha256(images, numbers.astype("<i8")),
        split_hash="",
    )
    return dataset, part


def _archives(root: Path) -> list[Path]:
    """The archive itself, or those in a folder; none where it has no archives but pictures."""
    if root.is_file():
        if not is_archive(root):
            raise ValueError(f"{root}: must be a folder, or one of {', '.join(ARCHIVES)}")
        return [root]
    return sorted(path for path in root.iterdir() if path.is_file() and is_archive(path))


def _archived(paths: list[Path], size: int, channels: int) -> Iterator[tuple[str, Any]]:
    """Pictures by their names without what all of them begin with; equal ones are one.

    Two archives may hold the same pictures: Greek and Latin are in both small sets of Omniglot.

    Raises:
        ValueError: pictures of one name differ.
    """
    seen: dict[str, bytes] = {}
    for path in paths:
        members = list(read_archive(path))
        cut = _common_folders([name for name, _ in members])
        for name, content in members:
            short = "/".join(name.split("/")[cut:])
            if short not in seen:
                seen[short] = content
                label = f"{path}: {name}"
                yield short, read_picture(label, size, channels, content=content)
            elif seen[short] != content:
                raise ValueError(f"{path}: {name} differs from another archive's picture")


def _common_folders(names: list[str]) -> int:
    """How many folders all names have in common, less those that are the identity's own."""
    folders = [name.split("/")[:-1] for name in names]
    if not folders:
        return 0
    least = min(map(len, folders))
    common = 0
    while common < least - 1 and len({parts[common] for parts in folders}) == 1:
        common += 1
    return common


def _identities_of(root: Path, paths: list[str]) -> tuple[NDArray[np.str_] | None, list[str]]:
    """The part of each picture, where folders say so, and its identity: the folder it lies in."""
    folders = [path.split("/")[:-1] for path in paths]
    loose = [path for path, parts in zip(paths, folders, strict=True) if not parts]
    if loose:
        raise ValueError(
            f"{root}: every picture must lie in a folder, whose name is its identity; "
            f"{len(loose)} do not, the first of them {loose[0]}"
        )
    first = {parts[0] for parts in folders}
    parted = {"train", "test"} <= first <= {*_PARTS} and all(len(parts) > 1 for parts in folders)
    if not parted:
        return None, ["/".join(parts) for parts in folders]
    return np.array([parts[0] for parts in folders]), ["/".join(parts[1:]) for parts in folders]


# ---- meshes ----


def _clouds(config: IdentityDataConfig) -> ShapeDataset:
    """Vertices of registered meshes, centred, in metres: size tells people apart, too."""
    meshes = open_dataset(MeshDataConfig("registered", config.path, cache_dir=config.cache_dir))
    if meshes.frames is None or not all(config.identity in frame for frame in meshes.frames):
        raise ValueError(
            f"{meshes.name}: frames.json must say the {config.identity!r} of every mesh"
        )
    rows = np.arange(0, len(meshes), config.every)
    names = [str(meshes.frames[row][config.identity]) for row in rows]
    count, vertices = config.num_points, meshes.vertices.shape[1]
    if count > vertices:
        raise ValueError(
            f"{meshes.name}: num_points must be at most {vertices}, the vertices of a mesh, got "
            f"{count}"
        )
    points = np.empty((len(rows), count, 3), np.float32)
    for n, row in enumerate(rows):
        cloud = meshes.vertices[row].astype(np.float64)
        chosen = np.random.default_rng([config.seed, int(row)]).permutation(vertices)[:count]
        points[n] = (cloud[chosen] - cloud.mean(0)) * (meshes.to_mm / 1000)
    classes, labels = np.unique(names, return_inverse=True)
    numbers, none = labels.astype(np.int64), np.empty(0, np.int64)
    return ShapeDataset(
        name=meshes.name,
        points=points,
        labels=numbers,
        classes=tuple(map(str, classes)),
        train=np.arange(len(numbers)),
        val=none,
        test=none,
        content_hash=array_sha256(np.asarray(points, "<f4"), numbers.astype("<i8")),
        split_hash="",
    )
