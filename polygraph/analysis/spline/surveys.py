"""Walls of a network at many points of a line or a plane."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from polygraph.analysis.spline.passes import Passes
from polygraph.analysis.spline.sites import Walls
from polygraph.analysis.spline.tape import Reached, Recorder, Surveyor


class Clouds(NamedTuple):
    """Points among which a k-NN graph chooses."""

    sources: Tensor  #: ``[V, B, N, C]``
    targets: Tensor  #: ``[V, B, M, C]``
    k: int  #: how many of the nearest are chosen
    barred: Tensor  #: ``[M, N]``: pairs that may not be


@dataclass
class Survey:
    """Walls of one choice at V points.

    Attributes:
        signed: ``[V, U]``, numbers whose signs are chosen; None: there are none.
        rivals: ``[V, G, R]``, of each group the largest is chosen; None: there are none.
        clouds: those of a k-NN graph; None: there is none.
    """

    signed: Tensor | None = None
    rivals: Tensor | None = None
    clouds: Clouds | None = None

    @property
    def settles_at_once(self) -> bool:
        """Whether choices change at most once between two places: signs of lines do."""
        return self.rivals is None and self.clouds is None

    def mapped(self, make: Callable[[Tensor], Tensor]) -> Survey:
        """The same with other points."""
        signed, rivals = (None if t is None else make(t) for t in (self.signed, self.rivals))
        clouds = self.clouds
        if clouds is not None:
            clouds = clouds._replace(sources=make(clouds.sources), targets=make(clouds.targets))
        return Survey(signed, rivals, clouds)


class Path:
    """Points ``origin + Σ p_i axis_i`` of the input space, and the network there.

    Args:
        lens: of the network.
        origin: ``[*in_shape]``.
        axes: ``[P, *in_shape]``.
    """

    def __init__(self, lens: Passes, origin: Tensor, axes: Tensor) -> None:
        self.lens, self.origin, self.axes = lens, origin, axes
        entries = lens.record(self._one(torch.zeros(len(axes))))
        self.sites = [entry.name for entry in entries]
        self.jumps = any(
            entry.site.jumps for entry in entries
        )  # what is chosen may not be continuous
        self._chunk = 64

    def _one(self, place: Tensor) -> Tensor:
        x = self.points(place[None].to(self.origin))
        return x if self.lens.batched else x[0]

    def points(self, places: Tensor) -> Tensor:
        """Inputs ``[V, *in_shape]`` of places ``[V, P]``."""
        steps: Tensor = torch.tensordot(places.to(self.origin), self.axes, dims=1)
        return self.origin + steps

    def _passes(self, places: Tensor) -> Iterator[tuple[Tensor, int]]:
        """Inputs of each pass of the network, and how many points they are."""
        for part in torch.split(places, self._chunk):
            x = self.points(part)
            if self.lens.batched:
                yield x, len(x)
            else:
                yield from ((sample, 1) for sample in x)

    def survey(self, places: Tensor, site: int) -> Survey:
        """The walls of a choice at ``places [V, P]``, in the order of the sites."""
        parts = [self._parts(*one, site) for one in self._passes(places)]

        def joined(name: str) -> Tensor | None:
            found = [getattr(part, name) for part in parts]
            return None if found[0] is None else torch.cat(found)

        clouds = [part.clouds for part in parts if part.clouds is not None]
        if not clouds:
            return Survey(joined("signed"), joined("rivals"))
        sources = torch.cat([c.sources for c in clouds])
        targets = torch.cat([c.targets for c in clouds])
        return Survey(clouds=clouds[0]._replace(sources=sources, targets=targets))

    def _parts(self, x: Tensor, count: int, site: int) -> Survey:
        walls = self._walls(x, site)
        found = Survey()
        if walls.signed:
            found.signed = torch.cat([w.reshape(count, -1) for w in walls.signed], 1)
        if walls.rivals:
            (rivals,) = walls.rivals
            found.rivals = rivals.reshape(count, -1, rivals.shape[-1])
        if walls.clouds:
            ((sources, targets, k, barred),) = walls.clouds
            sources = sources.view(count, -1, *sources.shape[1:])
            targets = targets.view(count, -1, *targets.shape[1:])
            found.clouds = Clouds(sources, targets, k, barred)
        return found

    def _walls(self, x: Tensor, site: int) -> Walls:
        try:
            with torch.no_grad(), Surveyor(site):
                self.lens.forward(x)
        except Reached as reached:
            return reached.walls
        except NotImplementedError as error:
            raise NotImplementedError(f"SplineLens: {self.sites[site]}: {error}") from error
        raise RuntimeError("SplineLens: the network makes other calls along the way")

    def values(self, places: Tensor) -> Tensor:
        """Outputs ``[V, K]``."""
        with torch.no_grad():
            return torch.cat(
                [self.lens.rows(self.lens.forward(x)) for x, _ in self._passes(places)]
            )

    def looked_at(self, places: Tensor) -> tuple[list[bytes], Tensor]:
        """Of each place a digest of its choices, equal where all are, and outputs ``[V, K]``."""
        found: list[bytes] = []
        values = []
        for x, count in self._passes(places):
            with torch.no_grad(), Recorder(self.lens.names) as recorder:
                values.append(self.lens.rows(self.lens.forward(x)).double())
            hashes = [hashlib.blake2b(digest_size=16) for _ in range(count)]
            for entry in recorder.entries:
                rows = entry.code().reshape(count, -1).cpu().numpy()
                for h, row in zip(hashes, rows, strict=True):
                    h.update(row.tobytes())
            found += [h.digest() for h in hashes]
        return found, torch.cat(values)
