"""A finished run of a classifier of sounds: its model and features without its data."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polygraph.data.audio.dataset import AudioDataConfig, AudioDataset, open_audio, to_float
from polygraph.data.audio.mel import FeatureConfig, LogMel
from polygraph.data.audio.sounds import read_sound
from polygraph.data.audio.wav import FloatArray
from polygraph.tasks.audio.training import AudioRunConfig, by_speaker, split_training
from polygraph.tasks.images.run import load_classifier
from polygraph.train.checkpoint import CheckpointError
from polygraph.train.frame import ClassifierRun
from polygraph.train.recorded import checkpoint_of
from polygraph.train.supervised import classification_summary, model_logits, predicted

_BATCH = 64
_SPLIT = ("val_fraction", "split_seed")


@dataclass(frozen=True, repr=False)
class Run(ClassifierRun):
    """A trained classifier of sounds.

    From `polygraph.tasks.audio.train` or `polygraph.tasks.audio.load`. Its ``model`` maps features
    ``[B, 1, 32, 32]`` to logits.

    Attributes:
        features: makes them of clips, with the statistics of the training clips.
    """

    features: LogMel = field(kw_only=True)

    def predict_proba(self, clips: Any) -> NDArray[np.float64]:
        """Probabilities ``[B, classes]`` of clips; see `predict`."""
        samples = self._samples(clips)
        logits = self._logits(lambda rows: samples[rows], np.arange(len(samples)))
        return torch.from_numpy(logits).softmax(-1).numpy()

    def predict(self, clips: Any) -> NDArray[np.int64]:
        """The most probable class of clips, by number; `classes` has the names.

        Args:
            clips: int16, or floats with the unit 1, ``[B, L]`` or one ``[L]``, numpy or torch, at
                the rate of the training clips. They are cut, or followed by zeros, to their length.

        Returns:
            int64 ``[B]``.

        Raises:
            ValueError: the shape or dtype is wrong, there are no clips, a sample is not finite, or
                the network's output is not finite.
        """
        return predicted(self.predict_proba(clips))

    def read(self, path: str | os.PathLike[str]) -> FloatArray:
        """A sound as `predict` takes it: float32 ``[L]``, at the rate of the training clips.

        Raises:
            ImportError, ValueError: see `polygraph.data.audio.sounds.read_sound`.
        """
        features = self.features
        return read_sound(path, features.rate, features.samples / features.rate)[0]

    def evaluate(self, data: Any = None, *, part: str = "test") -> dict[str, Any]:
        """What `polygraph.tasks.audio.training.AudioTask.measure` gives of some clips.

        Args:
            data: default: what the run was trained on. Or a folder, or a
                `polygraph.data.AudioDataset`, with the classes, the rate and the length of the run.
            part: ``train``, ``val`` or ``test``: as the run has divided its data, or would divide
                others.

        Raises:
            ValueError: other classes, another form of clips, or another part.
        """
        dataset = self._opened(data)
        split = {name: self.meta["config"][name] for name in _SPLIT}
        indices = self.samples_of(
            dataset, part, lambda: split_training(AudioRunConfig(**split), dataset)
        )
        got, wanted = (
            (form.rate, samples)
            for form, samples in (
                (dataset, dataset.samples.shape[1]),
                (self.features, self.features.samples),
            )
        )
        if got != wanted:
            raise ValueError(
                f"{dataset.name}: clips have {got[1]} samples at {got[0]} Hz, those of the run "
                f"{wanted[1]} at {wanted[0]} Hz"
            )
        batch = int(self.meta["config"]["train"]["batch_size"])  # its rounding, too
        rows = self._logits(dataset.clips, indices, batch)
        found = classification_summary(rows, dataset.labels[indices], self.classes)
        return found | by_speaker(dataset, rows, indices)

    def _logits(
        self, clips: Any, indices: NDArray[np.int64], batch: int = _BATCH
    ) -> NDArray[np.float64]:
        def inputs(rows: NDArray[np.int64]) -> Tensor:
            found: Tensor = self.features(clips(rows).to(self.features.window.device))
            return found

        return model_logits(self.model, inputs, indices, batch)

    def _samples(self, clips: Any) -> Tensor:
        """Clips float32 ``[B, S]``, cut or followed by zeros."""
        found = torch.as_tensor(clips)
        found = found[None] if found.dim() == 1 else found
        whole = found.dtype == torch.int16
        if found.dim() != 2 or not found.numel() or not (whole or found.is_floating_point()):
            raise ValueError(
                "predict: clips must be int16 or floats of shape [B, L] or [L], got "
                f"{found.dtype} {list(found.shape)}"
            )
        found = to_float(found).to(torch.float32)
        if not bool(found.isfinite().all()):
            raise ValueError("predict: samples must be finite")
        count = self.features.samples
        found = found[:, :count]
        return torch.nn.functional.pad(found, (0, count - found.shape[1]))

    def _opened(self, data: Any) -> AudioDataset:
        """Sounds that were handed over, or what the run was trained on."""
        if isinstance(data, AudioDataset):
            return data
        path = None if data is None else os.fspath(data)
        found: AudioDataset = self.opened(open_audio, AudioDataConfig, path)
        return found


def load_run(folder: str | Path, device: torch.device | str = "cpu") -> Run:
    """Load the weights that were best on validation.

    Raises:
        CheckpointError: the folder holds no run of a classifier of sounds, or a damaged one.
    """
    folder = Path(folder)
    checkpoint = checkpoint_of(folder, "audio")
    assert checkpoint is not None  # of a mesh autoencoder alone there is none
    model, meta = load_classifier(checkpoint, device)
    try:
        scale = FeatureConfig(**meta["config"]["features"]).scale
        features = LogMel(int(meta["rate"]), int(meta["samples"]), scale)
        features.normalize_with(meta["statistics"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{checkpoint}: not of a classifier of sounds ({reason})") from error
    return Run(folder, model, meta, features=features.to(device))
