"""Latent tools on autoencoders of images: pictures in by file or number, rows of them out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from polygraph.data.images import ImageDataset
from polygraph.report.image_grid import write_image_grid
from polygraph.tasks.vae.run import Run
from polygraph.tasks.walks import PARTS, Walks, remove_walk
from polygraph.train.checkpoint import write_json


@dataclass(frozen=True, eq=False)
class Pictures:
    """Images in rows, to be written.

    Attributes:
        names: of the rows; names of folders.
        images: one uint8 ``[T, C, H, W]`` per row.
        about: JSON values: how they were made.
    """

    names: list[str]
    images: list[NDArray[np.uint8]]
    about: dict[str, Any]

    def write(self, folder: str | Path, *, picture: bool = True, up: str = "auto") -> list[Path]:
        """Write ``NAME/0000.png`` and on, ``codes.json`` and ``picture.png``, all rows in one.

        Pictures that an earlier walk left in the folder are removed: what lies there is one walk.

        Args:
            folder: made where it does not exist.
            picture: write it.
            up: of meshes.

        Returns:
            The folders and files, in the order of writing.

        Raises:
            ValueError: ``up`` is given.
        """
        if up != "auto":
            raise ValueError("up is of meshes, and these are images")
        folder = Path(folder)
        remove_walk(folder, "png")
        written: list[Path] = []
        for name, images in zip(self.names, self.images, strict=True):
            for number, image in enumerate(images):
                write_image_grid(folder / name / f"{number:04d}.png", image[None], 1, scale=1)
            written.append(folder / name)
        write_json(folder / "codes.json", self.about)
        written.append(folder / "codes.json")
        if picture:
            longest = max(len(images) for images in self.images)
            columns = longest if len(self.images) > 1 else min(longest, 9)
            grid = np.concatenate(self.images)
            written.append(write_image_grid(folder / "picture.png", grid, columns))
        return written


class ImageLatentRun(Walks[Pictures]):
    """A trained run with its codes.

    Args:
        run: from `polygraph.tasks.vae.run.load_run`.
        data: where images with numbers and the Gaussian come from; default: the run's own data. It
            is opened when it is first needed.
    """

    raw = "pixels"

    def __init__(self, run: Run, data: Any = None) -> None:
        self.run, self.model = run, run.model
        self.config_hash = run.meta["config_hash"]
        self._given = data

    @cached_property
    def dataset(self) -> ImageDataset:
        """The data set, checked to have the run's channels and size."""
        return self.run.images_of(self._given)

    def source(self, name: str) -> NDArray[np.uint8]:
        """Bytes ``[C, H, W]`` of a picture, or of ``PART:N``, image N of a part of the data.

        Raises:
            ImportError, ValueError: the file is no picture, or there is no such image in the part.
        """
        part, colon, number = name.partition(":")
        if colon and part in PARTS and number.isdigit():
            rows = self.run.indices(self.dataset, part)
            if int(number) >= len(rows):
                raise ValueError(f"{name}: {part} has {len(rows)} images, 0 to {len(rows) - 1}")
            return np.asarray(self.dataset.images[rows[int(number)]])
        return self.run.read(name)

    def encoded(self, samples: NDArray[Any]) -> Tensor:
        """Codes ``[n, L]`` of images."""
        return self.run.encode(samples)

    def training_codes(self) -> Tensor:
        """Of the training images."""
        return self.run.encode(self.dataset.images[self.run.indices(self.dataset, "train")])

    def decoded(self, codes: Tensor) -> NDArray[np.uint8]:
        """Images of codes."""
        made: NDArray[np.uint8] = self.run.decode(codes).numpy()
        return made

    def blended(self, samples: NDArray[Any]) -> NDArray[np.uint8]:
        """Means of images as bytes."""
        return np.clip(np.round(samples), 0, 255).astype(np.uint8)

    def rows(
        self, names: list[str], labels: list[list[str]], made: list[Any], about: dict[str, Any]
    ) -> Pictures:
        """Rows of images."""
        return Pictures(names, made, {**about, "labels": labels})
