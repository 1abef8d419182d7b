"""One configuration and one function for every data set that a command can name."""

from __future__ import annotations

from dataclasses import dataclass, replace

from polygraph._checks import check_numbers, check_positive
from polygraph._names import unknown_name
from polygraph.data.coma import open_coma
from polygraph.data.dfaust import open_dfaust
from polygraph.data.registered import MeshDataset, checked_scale, open_registered
from polygraph.data.synthetic import make_creature
from polygraph.mesh.up import Up, checked_up, known_up

_OPENERS = {"registered": open_registered, "coma": open_coma, "dfaust": open_dfaust}
ARRAYS = "arrays"  #: kind of what was handed over in memory
KINDS = ("synthetic", *_OPENERS, ARRAYS)


@dataclass(frozen=True)
class MeshDataConfig:
    """Which meshes, and which of them for training.

    Attributes:
        kind: "synthetic" (built in), "registered" (a folder of registered meshes), "coma", "dfaust"
            or "arrays" (handed over in memory).
        path: where the data set lies; not for "synthetic" and "arrays".
        split: name of a split of the data set.
        to_mm: millimetres per unit of the data; None for metres.
        cache_dir: where converted data sets go; None for the user's cache folder.
        full_check: verify the SHA-256 of the cached arrays, and not only their sizes.
        num_frames: number of meshes of the synthetic set.
        seed: seed of the synthetic set.
        every: use one of so many meshes of each part of the split.
        up: the axis that points up in pictures; "auto" where the data set knows it (synthetic,
            coma), or where pictures shall guess.
    """

    kind: str = "synthetic"
    path: str | None = None
    split: str = "interpolation"
    to_mm: float | None = None
    cache_dir: str | None = None
    full_check: bool = False
    num_frames: int = 1600
    seed: int = 0
    every: int = 1
    up: Up = "auto"

    def __post_init__(self) -> None:
        """Refuse what no data set can be opened from."""
        check_positive("data", every=self.every, num_frames=self.num_frames)
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise ValueError(f"data: seed must be 0 or more, got {self.seed!r}")
        checked_up(self.up)
        if self.to_mm is not None:
            checked_scale(self.to_mm)
        if self.kind not in KINDS:
            raise ValueError(f"data: {unknown_name('kind', self.kind, KINDS)}")
        if self.kind in ("synthetic", ARRAYS):
            if self.path is not None:
                raise ValueError(
                    f"data: path must not be set for kind {self.kind!r}, got {self.path!r}"
                )
            if self.kind == "synthetic" and self.to_mm is not None:
                raise ValueError(
                    f"data: to_mm must not be set for kind 'synthetic' (metres), got {self.to_mm}"
                )
        elif self.path is None:
            raise ValueError(f"data: path must be set for kind {self.kind!r}, got none")
        check_numbers("data", self, ("seed",))


def open_dataset(config: MeshDataConfig) -> MeshDataset:
    """Open the data set and make sure that it has the split asked for.

    Raises:
        FileNotFoundError: the path does not exist.
        MeshError: a mesh or a file of the data set is bad.
        ValueError: the split is unknown or the data set too small to train on.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from polygraph.data import MeshDataConfig, open_dataset
        >>> folder = tempfile.mkdtemp()
        >>> meshes = np.random.default_rng(0).random((40, 4, 3), np.float32)
        >>> np.save(f"{folder}/vertices.npy", meshes)
        >>> np.save(f"{folder}/faces.npy", np.array([[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 3, 2]]))
        >>> config = MeshDataConfig("registered", folder, cache_dir=f"{folder}/cache")
        >>> open_dataset(config).splits.keys()
        dict_keys(['interpolation'])

    See Also:
        `open_registered`, `open_coma`, `open_dfaust`, `make_creature`, which it calls.
    """
    if config.kind == "synthetic":
        dataset = make_creature(config.num_frames, config.seed)
    elif config.kind == ARRAYS:
        raise ValueError("data: arrays in memory are not kept: hand them over again, or a folder")
    else:
        assert config.path is not None
        to_mm = 1000.0 if config.to_mm is None else config.to_mm
        dataset = _OPENERS[config.kind](
            config.path, cache_dir=config.cache_dir, to_mm=to_mm, full_check=config.full_check
        )
    dataset.split(config.split)
    dataset = replace(dataset, up=known_up(config.up, dataset.up))
    if config.every > 1:
        splits = {name: split.thinned(config.every) for name, split in dataset.splits.items()}
        dataset = replace(dataset, splits=splits)
    return dataset
