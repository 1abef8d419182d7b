"""A finished run of a variational autoencoder of images: its model without its data."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polygraph._arrays import as_numpy
from polygraph.data.given_images import in_memory, is_in_memory
from polygraph.data.image_files import Images, read_picture
from polygraph.data.images import ImageDataConfig, ImageDataset, open_images, pad_images, to_float
from polygraph.tasks.gan.latent import generate
from polygraph.tasks.gan.run import Run as GeneratorRun
from polygraph.tasks.vae.checkpoint import load_vae
from polygraph.tasks.vae.training import VaeRunConfig, image_bound_summary, split_images
from polygraph.train.frame import SupervisedRun
from polygraph.train.recorded import checkpoint_of
from polygraph.train.supervised import evaluating
from polygraph.train.variational import bound_rows, importance_bounds

_BATCH = 64
_SPLIT = ("val_fraction", "split_seed")
PARTS = ("train", "val", "test")


@dataclass(frozen=True, repr=False)
class Run(SupervisedRun):
    """A trained variational autoencoder of images.

    From `polygraph.tasks.vae.train` or `polygraph.tasks.vae.load`. Its ``model`` is an
    `polygraph.models.ImageVAE` of images in [-1, 1].
    """

    def __repr__(self) -> str:
        """Folder and numbers."""
        return f"Run({str(self.folder)!r}, {self.model.config.latent_channels} numbers per image)"

    @property
    def generator(self) -> GeneratorRun:
        """The decoder as a generator of images: its samples, walks, scores and neighbours."""
        return GeneratorRun(self.folder, self.model.decoder, self.meta, self.dataset)

    def sample(self, count: int = 64, *, seed: int = 0) -> Tensor:
        """Images uint8 ``[count, C, size, size]`` of z of N(0, I), the same for the same seed."""
        return self.generator.sample(count, seed=seed)

    def encode(self, images: Any) -> Tensor:
        """Codes ``[B, latent]`` of images, on the CPU; see `reconstruct`."""
        parameter = next(self.model.parameters())
        with evaluating(self.model):
            parts = [
                self.model.encode(to_float(part).to(parameter.device, parameter.dtype)).cpu()
                for part in torch.split(torch.from_numpy(self.pixels(images)), _BATCH)
            ]
        return torch.cat(parts)

    def decode(self, codes: Any) -> Tensor:
        """Images uint8 ``[B, C, size, size]`` of codes ``[B, latent]``, numpy or torch."""
        return generate(self.model.decoder, torch.as_tensor(as_numpy(codes)))

    def reconstruct(self, images: Any) -> Tensor:
        """What the autoencoder makes of images: uint8 ``[B, C, size, size]``.

        Args:
            images: uint8 ``[B, C, H, W]`` or one ``[C, H, W]``, numpy or torch, with the channels
                that the model was trained on; smaller ones are padded with black.

        Raises:
            ValueError: the shape or dtype is wrong, or there are no images.
        """
        return self.decode(self.encode(images))

    def evaluate(
        self,
        data: Any = None,
        *,
        part: str = "test",
        count: int | None = None,
        importance: int = 0,
        seed: int = 0,
    ) -> dict[str, Any]:
        """Bounds on log p of some images, in nats, and bits per dimension.

        Args:
            data: default: what the run was trained on. Or a folder, ``images``, ``(images,
                labels)`` or a `polygraph.data.ImageDataset`.
            part: ``train``, ``val`` or ``test``: as the run has divided its data, or would divide
                others.
            count: measure the first so many; None: all.
            importance: draws of the importance-weighted bound, ``importance_bound``; 0: without.
            seed: of the draws of z.

        Raises:
            ValueError: images of another form, or another part.
        """
        if part not in PARTS:
            raise ValueError(f"part must be train, val or test, got {part!r}")
        dataset = self.images_of(data)
        indices = self.indices(dataset, part)[:count]
        model, beta = self.model, float(self.meta["config"]["objective"]["beta"])
        batch = int(self.meta["config"]["train"]["batch_size"])  # its draws, too
        rows = bound_rows(model, dataset.batch, indices, batch, seed=seed)
        found = image_bound_summary(model, rows, beta)
        if importance > 0:
            found["importance_samples"] = importance
            found["importance_bound"] = importance_bounds(
                model, dataset.batch, indices, _BATCH, samples=importance, seed=seed
            )
        return found

    def score(self, count: int = 10_000, **settings: Any) -> Any:
        """Inception Score, FID and more of samples: see `polygraph.tasks.gan.run.Run.score`."""
        return self.generator.score(count, **settings)

    def indices(self, dataset: ImageDataset, part: str) -> NDArray[np.int64]:
        """Which images of a data set are a part of it, as the run divides them."""
        if part == "test":
            return dataset.test
        split = {name: self.meta["config"][name] for name in _SPLIT}
        train, val = split_images(VaeRunConfig(**split), dataset)
        return train if part == "train" else val

    def read(self, path: str | os.PathLike[str]) -> Images:
        """A picture as the model wants it: uint8 ``[C, H, W]``, scaled and cut about its middle.

        A model of data whose images are never scaled pads one that is no larger with black.

        Raises:
            ImportError, ValueError: see `polygraph.data.image_files.read_picture`.
        """
        config = self.model.config
        whole = self.meta["config"]["data"]["kind"] != "folder"
        return read_picture(path, config.size, config.in_channels, pad_small=whole)

    def pixels(self, images: Any) -> Images:
        """Images uint8 ``[B, C, H, W]`` in the model's size; see `reconstruct`."""
        found = as_numpy(images)
        found = found[None] if found.ndim == 3 else found
        config = self.model.config
        good = found.ndim == 4 and found.shape[1] == config.in_channels and len(found)
        if not good or found.dtype != np.uint8:
            raise ValueError(
                f"images must be uint8 of shape [B, {config.in_channels}, H, W] or "
                f"[{config.in_channels}, H, W], got {found.dtype} {list(found.shape)}"
            )
        return pad_images("images", [found], config.size)

    def images_of(self, data: Any = None) -> ImageDataset:
        """Images that were handed over, or what the run was trained on.

        Raises:
            CheckpointError: the run names a place that this user has not trained on here.
            ValueError: the data are not what they were, or have another form.
        """
        if data is not None and is_in_memory(data):
            dataset = in_memory(data, self.model.config.size)
        else:
            path = None if data is None else os.fspath(data)
            dataset = self.opened(open_images, ImageDataConfig, path)
        config_ = self.model.config
        form = dataset.channels, dataset.size
        if form != (config_.in_channels, config_.size):
            raise ValueError(
                f"{dataset.name}: images have {form[0]} channels and size {form[1]}, those of the "
                f"run {config_.in_channels} and {config_.size}"
            )
        return dataset


def load_run(folder: str | Path, device: torch.device | str = "cpu") -> Run:
    """Load the weights that were best on validation.

    Raises:
        CheckpointError: the folder holds no run of a variational autoencoder of images.
    """
    folder = Path(folder)
    checkpoint = checkpoint_of(folder, "vae")
    assert checkpoint is not None  # of a mesh autoencoder alone there is none
    return Run(folder, *load_vae(checkpoint, device))
