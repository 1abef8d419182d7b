"""A finished run of an image classifier: its model without its data."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from polygraph._arrays import as_numpy
from polygraph.data.given_images import in_memory, is_in_memory
from polygraph.data.image_files import Images, read_picture
from polygraph.data.images import ImageDataConfig, ImageDataset, open_images, pad_images, to_float
from polygraph.models.images.families import CLASSIFIERS, build, config_of
from polygraph.models.state import build_with
from polygraph.tasks.images.training import ImagesRunConfig, split_training
from polygraph.train.checkpoint import CheckpointError, load_checkpoint, part_of
from polygraph.train.frame import ClassifierRun
from polygraph.train.recorded import checkpoint_of
from polygraph.train.supervised import classification_summary, model_logits, predicted

_BATCH = 64
_SPLIT = ("val_fraction", "train_images", "split_seed")


@dataclass(frozen=True, repr=False)
class Run(ClassifierRun):
    """A trained classifier of images.

    From `polygraph.tasks.images.train` or `polygraph.tasks.images.load`. Its ``model`` maps images
    ``[B, C, H, W]`` in [-1, 1] to logits.
    """

    def predict_proba(self, images: Any) -> NDArray[np.float64]:
        """Probabilities ``[B, classes]`` of images; see `predict`."""
        pixels = self._pixels(images)
        logits = self._logits(lambda rows: torch.from_numpy(pixels[rows]), np.arange(len(pixels)))
        return torch.from_numpy(logits).softmax(-1).numpy()

    def predict(self, images: Any) -> NDArray[np.int64]:
        """The most probable class of images, by number; `classes` has the names.

        Args:
            images: uint8 ``[B, C, H, W]`` or one ``[C, H, W]``, numpy or torch, with the channels
                that the network was trained on; smaller ones are padded with black, as those of
                MNIST are in training.

        Returns:
            int64 ``[B]``.

        Raises:
            ValueError: the shape or dtype is wrong, there are no images, or the network's output
                is not finite.
        """
        return predicted(self.predict_proba(images))

    def read(self, path: str | os.PathLike[str]) -> Images:
        """A picture as the network wants it: uint8 ``[C, H, W]``.

        Scaled, and cut about its middle, as the pictures of folders are. A network of other data,
        whose images are never scaled, gets a picture that is no larger as it is, padded with black.

        Raises:
            ImportError, ValueError: see `polygraph.data.image_files.read_picture`.
        """
        config = self.model.config
        whole = self.meta["config"]["data"]["kind"] != "folder"
        return read_picture(path, config.size, config.in_channels, pad_small=whole)

    def evaluate(self, data: Any = None, *, part: str = "test") -> dict[str, Any]:
        """`polygraph.train.supervised.classification_summary` of some images.

        Args:
            data: default: what the run was trained on. Or a folder, ``(images, labels)``, or a
                `polygraph.data.ImageDataset`, with the classes of the run.
            part: ``train``, ``val`` or ``test``: as the run has divided its data, or would divide
                others.

        Raises:
            ValueError: other classes, or another part.
        """
        dataset = self._opened(data)
        split = {name: self.meta["config"][name] for name in _SPLIT}
        indices = self.samples_of(
            dataset, part, lambda: split_training(ImagesRunConfig(**split), dataset)
        )
        batch = int(self.meta["config"]["train"]["batch_size"])  # its rounding, too
        rows = self._logits(lambda chosen: torch.from_numpy(dataset.images[chosen]), indices, batch)
        assert dataset.labels is not None  # it has the run's classes
        return classification_summary(rows, dataset.labels[indices], self.classes)

    def _logits(
        self, pixels: Any, indices: NDArray[np.int64], batch: int = _BATCH
    ) -> NDArray[np.float64]:
        def inputs(rows: NDArray[np.int64]) -> Tensor:
            return to_float(pixels(rows))

        return model_logits(self.model, inputs, indices, batch)

    def _pixels(self, images: Any) -> Images:
        """Images ``[B, C, H, W]`` in the network's size."""
        pixels = as_numpy(images)
        pixels = pixels[None] if pixels.ndim == 3 else pixels
        config = self.model.config
        good = pixels.ndim == 4 and pixels.shape[1] == config.in_channels and len(pixels)
        if not good or pixels.dtype != np.uint8:
            raise ValueError(
                f"predict: images must be uint8 of shape [B, {config.in_channels}, H, W] or "
                f"[{config.in_channels}, H, W], got {pixels.dtype} {list(pixels.shape)}"
            )
        return pad_images("predict", [pixels], config.size)

    def _opened(self, data: Any) -> ImageDataset:
        """Images that were handed over, or what the run was trained on."""
        if data is not None and is_in_memory(data):
            return in_memory(data)
        path = None if data is None else os.fspath(data)
        found: ImageDataset = self.opened(open_images, ImageDataConfig, path)
        return found


def load_run(folder: str | Path, device: torch.device | str = "cpu") -> Run:
    """Load the weights that were best on validation.

    Raises:
        CheckpointError: the folder holds no run of an image classifier.
    """
    folder = Path(folder)
    checkpoint = checkpoint_of(folder, "images")
    assert checkpoint is not None  # of a mesh autoencoder alone there is none
    return Run(folder, *load_classifier(checkpoint, device))


def load_classifier(
    checkpoint: str | Path, device: torch.device | str = "cpu"
) -> tuple[nn.Module, dict[str, Any]]:
    """Build the classifier of a checkpoint, such as ``best.safetensors`` in a run's folder.

    Returns:
        The model in eval mode, and the checkpoint's description, with the names of the classes.

    Raises:
        CheckpointError: the checkpoint is unreadable, or of something else.
    """
    state, meta = load_checkpoint(checkpoint)
    try:
        config = config_of(CLASSIFIERS, meta["family"], meta["config"]["model"])
        model = build_with(
            lambda: build(config), config, part_of(state, "modules", checkpoint)["model"]
        )
        if len(meta["classes"]) != config.num_classes:
            raise ValueError(f"{len(meta['classes'])} classes for {config.num_classes} logits")
    except (KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{checkpoint}: not a checkpoint of an image classifier ({reason})"
        ) from error
    return model.to(device), meta
