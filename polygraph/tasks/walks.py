"""Walks in the codes of trained autoencoders, whatever they encode: meshes, images."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polygraph._checks import check_choice
from polygraph.analysis.latent import CodeGaussian, analogy, line
from polygraph.analysis.latent_metric import LatentMetric

_Rows = TypeVar("_Rows")
PARTS = ("train", "val", "test")
SOURCES = ("auto", "prior", "codes")
_ROW = re.compile(r"codes|geodesic|vertices|pixels|samples|analogy|axis-\d+")  # folders of walks


def remove_walk(folder: Path, suffix: str) -> None:
    """Remove the numbered files of a walk that was written here before; nothing else."""
    if not (folder / "codes.json").is_file():
        return
    for row in sorted(folder.iterdir()):
        if not _ROW.fullmatch(row.name) or row.is_symlink() or not row.is_dir():
            continue
        for path in row.iterdir():
            if re.fullmatch(rf"\d{{4,}}\.{suffix}", path.name):
                path.unlink()
        if not any(row.iterdir()):
            row.rmdir()


class Walks(ABC, Generic[_Rows]):
    """Interpolations, samples, axes and analogies in the codes of a run.

    Attributes:
        model: the autoencoder.
        config_hash: of the run.
        raw: name of the row that is made without codes.
        unit: what lengths are multiplied by.
    """

    model: Any
    config_hash: Any
    raw: str
    unit: float = 1.0

    @abstractmethod
    def source(self, name: str) -> NDArray[Any]:
        """A sample by file, or by ``PART:N``, as `encoded` takes it."""

    @abstractmethod
    def encoded(self, samples: NDArray[Any]) -> Tensor:
        """Codes ``[n, L]`` of samples."""

    @abstractmethod
    def training_codes(self) -> Tensor:
        """Of all samples that trained."""

    @abstractmethod
    def decoded(self, codes: Tensor) -> NDArray[Any]:
        """What is shown of codes."""

    @abstractmethod
    def blended(self, samples: NDArray[Any]) -> NDArray[Any]:
        """What is shown of means of samples."""

    @abstractmethod
    def rows(
        self, names: list[str], labels: list[list[str]], made: list[Any], about: dict[str, Any]
    ) -> _Rows:
        """What writes rows."""

    def codes(self, sources: Sequence[str]) -> Tensor:
        """Codes ``[n, L]`` of samples, see `source`."""
        return self.encoded(np.stack([self.source(name) for name in sources]))

    def gaussian(self) -> CodeGaussian:
        """Fitted to the codes of the training samples."""
        return CodeGaussian.fit(self.training_codes())

    def interpolate(
        self, a: str, b: str, steps: int = 9, *, low: float = 0.0, high: float = 1.0
    ) -> _Rows:
        """From a to b in equal steps; ``low`` below 0 and ``high`` above 1 go beyond them.

        The second row holds the straight line between the two samples themselves, which shows what
        the codes are good for.

        Raises:
            ValueError: fewer than two steps, or ``low`` not below ``high``.
        """
        if steps < 2 or not low < high:
            raise ValueError(
                "interpolate: needs two steps or more and low < high, got "
                f"{steps} steps from {low} to {high}"
            )
        t = np.linspace(low, high, steps)
        x, y = self.source(a), self.source(b)
        start, end = self.encoded(np.stack([x, y]))
        codes = line(start, end, t)
        shares = t.reshape(-1, *(1,) * x.ndim)
        straight = (1 - shares) * x + shares * y
        labels = [f"{position:g}" for position in np.round(t, 3)]
        about = self._about("interpolate", codes, a=a, b=b, positions=t.tolist())
        made = [self.decoded(codes), self.blended(straight)]
        return self.rows(["codes", self.raw], [labels, labels], made, about)

    def geodesic(self, a: str, b: str, steps: int = 9, *, bends: int = 2) -> _Rows:
        """From a to b on the way on which what is decoded changes least, above the straight one.

        ``about`` has both lengths, see `polygraph.analysis.Geodesic`; of meshes in mm.

        Raises:
            ValueError: fewer than two steps, or no bends.
        """
        if steps < 2 or bends < 1:
            raise ValueError(f"geodesic: needs two steps and a bend, got {steps} and {bends}")
        start, end = self.codes([a, b])
        found = LatentMetric(self.model, unit=self.unit).geodesic(start, end, steps, bends=bends)
        straight = line(start, end, np.linspace(0, 1, steps))
        lengths = {"length": found.length, "straight_length": found.straight_length}
        about = self._about("geodesic", found.codes, a=a, b=b, exact=found.exact, **lengths)
        labels = [f"{position:.3g}" for position in np.linspace(0, 1, steps)]
        made = [self.decoded(found.codes), self.decoded(straight)]
        return self.rows(["geodesic", "codes"], [labels, labels], made, about)

    def sample(
        self,
        count: int = 16,
        *,
        seed: int = 0,
        spread: float = 1.0,
        source: Literal["auto", "prior", "codes"] = "auto",
    ) -> _Rows:
        """Samples drawn around a mean, the mean first.

        Args:
            count: how many.
            seed: equal seeds give equal samples.
            spread: deviations are multiplied by it.
            source: ``prior``: N(0, I), of variational autoencoders; ``codes``: a Gaussian fitted to
                the training codes; ``auto``: the prior where there is one.

        Raises:
            ValueError: the model has no prior; a bad count or spread.
        """
        check_choice("sample", "source", source, SOURCES)
        has_prior = getattr(self.model, "likelihood", None) is not None
        if source == "prior" and not has_prior:
            raise ValueError("sample: the model has no prior: it is not variational")
        prior = source == "prior" or (source == "auto" and has_prior)
        channels = self.model.config.latent_channels
        gaussian = CodeGaussian.standard(channels) if prior else self.gaussian()
        drawn = gaussian.sample(count, seed=seed, spread=spread)
        codes = torch.cat([gaussian.mean[None], drawn])
        about = self._about("sample", codes, seed=seed, spread=spread, fitted=gaussian.num_codes)
        labels = ["mean", *(str(n) for n in range(count))]
        return self.rows(["samples"], [labels], [self.decoded(codes)], about)

    def axes(self, count: int = 3, *, reach: float = 2.5, steps: int = 7) -> _Rows:
        """Walks through the mean along the widest axes of the codes, in standard deviations.

        Raises:
            ValueError: more axes than the codes have, or no steps.
        """
        if steps < 2 or count < 1:
            raise ValueError(f"axes: needs an axis and two steps, got {count} and {steps}")
        gaussian, t = self.gaussian(), np.linspace(-reach, reach, steps)
        codes = [gaussian.along(axis, t.tolist()) for axis in range(count)]
        about = self._about(
            "axes", torch.cat(codes), positions=t.tolist(), fitted=gaussian.num_codes
        )
        names = [f"axis-{axis}" for axis in range(count)]
        labels = [[f"{position:+g} σ" for position in np.round(t, 2)]] * count
        return self.rows(names, labels, [self.decoded(part) for part in codes], about)

    def analogy(self, a: str, b: str, c: str) -> _Rows:
        """The sample d to which c is as b is to a, after the three."""
        codes = self.codes([a, b, c])
        codes = torch.cat([codes, analogy(*codes)[None]])
        about = self._about("analogy", codes, a=a, b=b, c=c)
        labels = ["a", "b", "c", "d = c + (b - a)"]
        return self.rows(["analogy"], [labels], [self.decoded(codes)], about)

    def _about(self, kind: str, codes: Tensor, **settings: Any) -> dict[str, Any]:
        return {"kind": kind, **settings, "config_hash": self.config_hash, "codes": codes.tolist()}
