"""The metric that a decoder puts on codes, and the shortest ways between two of them.

A small step dz in the codes moves what is decoded by J dz, J the decoder's Jacobian: its length
there is that of the metric G(z) = JᵀJ (Arvanitidis, Hansen and Hauberg, "Latent Space Oddity",
ICLR 2018; Shao, Kumar and Fletcher, "The Riemannian Geometry of Deep Generative Models", CVPR-W
2018). A decoder that is a polynomial has all of it in closed form: along a line of codes what is
decoded is a polynomial of known degree in the position, which as many values as it has coefficients
determine, and so are derivatives and energies, up to rounding.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.polynomial import chebyshev, legendre
from torch import Tensor, nn

from polygraph._checks import check_positive
from polygraph._repr import short_repr

_jvp: Any = torch.autograd.functional.jvp  # it has no types

MOST_DEGREE = 64  #: of a polynomial that is interpolated; beyond it derivatives are autograd's
_SMOOTH = 24  # degree that stands for a smooth decoder along a way
_STEPS = 60  # of the optimiser, at most


@dataclass(frozen=True, eq=False)
class Geodesic:
    """A shortest way between two codes, and the straight one.

    Lengths are of what is decoded: the root of the mean, over its vertices (pixels), of the squared
    lengths of their ways, in units of the data.

    Attributes:
        codes: float64 ``[T, L]``, ends included, at equal steps of the parameter, in which the
            speed of what is decoded is nearly constant.
        length: of the way.
        straight_length: of the straight line of codes.
        energy: mean squared speed; the square of the length where the speed is constant.
        exact: whether the energy is in closed form, up to rounding.

    Example:
        >>> import torch
        >>> from polygraph.analysis import LatentMetric
        >>> decode = lambda z: torch.stack([z[:, 0], z[:, 0] ** 2, z[:, 1]], 1)[:, None]
        >>> way = LatentMetric(decode, degree=2).geodesic(torch.zeros(2), torch.ones(2))
        >>> way.length <= way.straight_length, way.exact
        (True, True)
    """

    codes: Tensor
    length: float
    straight_length: float
    energy: float
    exact: bool

    __repr__ = short_repr


class LatentMetric:
    """G(z) = JᵀJ / V of a decoder, and its geodesics; everything in float64, in eval mode.

    Args:
        model: a model with ``decode`` (of meshes or images), of which a copy is made; or a function
            of codes ``[B, L]``, each of them decoded alone.
        degree: of what is decoded as a polynomial of the code; None: as the model says
            (`decoder_degree`), and where it is none, by autograd.
        unit: what lengths are multiplied by, such as millimetres per unit.

    Raises:
        ValueError: a bad degree or unit.

    Example:
        >>> import torch
        >>> from polygraph.analysis import LatentMetric
        >>> matrix = torch.randn(2, 30, dtype=torch.float64)
        >>> metric = LatentMetric(lambda z: (z @ matrix).view(-1, 10, 3), degree=1)
        >>> found = metric.tensor(torch.zeros(2))
        >>> torch.allclose(found, matrix @ matrix.T / 10)
        True

    See Also:
        `line`, the straight way; `polygraph.models.vae`.
    """

    def __init__(self, model: Any, *, degree: int | None = None, unit: float = 1.0) -> None:
        if degree is not None:
            check_positive("LatentMetric", degree=degree)
        if not (unit > 0 and math.isfinite(unit)):
            raise ValueError(f"LatentMetric: unit must be positive and finite, got {unit}")
        if isinstance(model, nn.Module):
            degree = decoder_degree(model) if degree is None else degree
            model = copy.deepcopy(model).double().cpu().eval().requires_grad_(False)
        found = degree is not None and degree <= MOST_DEGREE
        self.degree = degree if found else None
        self.unit = unit
        self._decode = model.decode if hasattr(model, "decode") else model

    def __repr__(self) -> str:
        """How derivatives are found."""
        way = "autograd" if self.degree is None else f"closed form, degree {self.degree}"
        return f"LatentMetric({way}, unit={self.unit:g})"

    def decoded(self, z: Tensor) -> Tensor:
        """What is decoded of codes ``[B, L]``, flat, so that squares add up to means: ``[B, D]``.

        Raises:
            ValueError: it is not finite.
        """
        made: Tensor = self._decode(z)
        if not bool(torch.isfinite(made).all()):
            raise ValueError("LatentMetric: what is decoded holds NaN or infinity")
        places = made[0].numel() // (made.shape[-1] if made.dim() == 3 else 1)
        return made.flatten(1) * (self.unit / math.sqrt(places))

    def jacobian(self, z: Tensor) -> Tensor:
        """J at a code ``[L]``: float64 ``[D, L]``, in units over the root of the vertices."""
        code = _code("jacobian", "z", z)
        channels = len(code)
        if self.degree is None:
            start = code.expand(channels, -1).clone()
            axes = torch.eye(channels, dtype=torch.float64)
            columns: Tensor = _jvp(self.decoded, start, axes)[1]
            return columns.T
        # A polynomial along each axis: its first coefficient, by values at Chebyshev's nodes.
        nodes, derivative = _differentiation(self.degree, np.zeros(1))
        steps = nodes[:, None, None] * torch.eye(channels, dtype=torch.float64)
        made = self.decoded((code + steps).flatten(0, 1)).view(len(nodes), channels, -1)
        found: Tensor = torch.einsum("n,nld->dl", derivative[0], made)
        return found

    def tensor(self, z: Tensor) -> Tensor:
        """G at a code ``[L]``: float64 ``[L, L]``, symmetric; ``dz G dz`` is a squared length."""
        found = self.jacobian(z)
        return found.T @ found

    def geodesic(self, start: Tensor, end: Tensor, points: int = 9, *, bends: int = 2) -> Geodesic:
        """The way of least energy between two codes, among polynomials of the parameter.

        The way is ``(1 - t) a + t b + t (1 - t) Σ_k w_k P_k(t)`` with Legendre's polynomials P; the
        energy is that of its image, and found by L-BFGS from the straight line on. Deterministic.

        Args:
            start: ``[L]``.
            end: ``[L]``.
            points: codes that are returned, at least 2.
            bends: numbers of polynomials P; 0 measures the straight line.

        Raises:
            ValueError: codes that do not fit or are not finite, fewer than two points.
        """
        a, b = _code("geodesic", "start", start), _code("geodesic", "end", end)
        if a.shape != b.shape or points < 2 or bends < 0:
            raise ValueError(
                "geodesic: start and end must have one length, points be at least 2 and bends at "
                f"least 0, got {list(a.shape)}, {list(b.shape)}, {points} and {bends}"
            )
        exact = self.degree is not None and self.degree * (bends + 1) <= MOST_DEGREE
        degree = self.degree * (bends + 1) if exact and self.degree else _SMOOTH
        quadrature, weights = legendre.leggauss(max(1, degree))
        nodes, derivative = _differentiation(degree, quadrature)
        share = torch.from_numpy(weights / 2)
        t = (nodes + 1) / 2

        def way(w: Tensor, t: Tensor) -> Tensor:
            line = (1 - t)[:, None] * a + t[:, None] * b
            basis = torch.from_numpy(legendre.legvander(2 * t.numpy() - 1, max(0, bends - 1)))
            bent = (t * (1 - t))[:, None] * basis[:, :bends] @ w
            return line + bent

        def speeds(w: Tensor) -> Tensor:
            """Squared speed at the nodes of the quadrature; the parameter runs over [-1, 1]."""
            return (2 * derivative @ self.decoded(way(w, t))).square().sum(1)

        w = torch.zeros(bends, len(a), dtype=torch.float64, requires_grad=True)
        with torch.no_grad():
            straight = speeds(w)
        scale = float(straight @ share)
        if bends and scale > 0:
            optimizer = torch.optim.LBFGS(
                [w], max_iter=_STEPS, line_search_fn="strong_wolfe", tolerance_grad=1e-9
            )

            def closure() -> Any:
                optimizer.zero_grad()
                energy = speeds(w) @ share / scale
                torch.autograd.backward(energy)
                return energy

            optimizer.step(closure)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            found = speeds(w)
            if float(found @ share) > scale:  # no better than where it began
                w.zero_()
                found = straight
            codes = way(w, torch.linspace(0, 1, points, dtype=torch.float64))
        return Geodesic(
            codes,
            float(found.sqrt() @ share),
            float(straight.sqrt() @ share),
            float(found @ share),
            exact,
        )


def decoder_degree(model: nn.Module) -> int | None:
    """Degree of what a mesh autoencoder decodes as a polynomial of the code; None if it is none.

    Example:
        >>> import numpy as np
        >>> from polygraph.analysis import decoder_degree
        >>> from polygraph.models import create_model
        >>> from scipy.spatial import Delaunay
        >>> vertices = np.random.default_rng(0).random((100, 3))
        >>> template = vertices, Delaunay(vertices[:, :2]).simplices
        >>> settings = {"template": template, "factors": (2, 2, 2, 2)}
        >>> decoder_degree(create_model("full-2-noact", norm="none", **settings))
        16
        >>> decoder_degree(create_model("vae-full-2", **settings)) is None
        True

    See Also:
        `network_degree`, of any network; `LatentMetric`.
    """
    blocks = [*getattr(model, "decoder", [])] if hasattr(model, "hierarchy") else []
    if blocks and getattr(model, "head", None) is not None:
        blocks.append(model.head)
    degrees = [getattr(block, "degree", None) for block in blocks]
    known = [degree for degree in degrees if degree is not None]
    return math.prod(known) if blocks and len(known) == len(degrees) else None


class MeshDecoder(nn.Module):
    """The decoder of a mesh autoencoder alone: vertices ``[B, V, 3]`` of codes ``[B, L]``.

    Args:
        model: a `polygraph.models.MeshAutoencoder`; it is a part of this module, not copied.

    Attributes:
        degree: of the vertices as a polynomial of the code; None where it is none.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    @property
    def degree(self) -> int | None:
        """See `decoder_degree`."""
        return decoder_degree(self.model)

    def forward(self, z: Tensor) -> Tensor:
        """Vertices, in the units of the meshes."""
        vertices: Tensor = self.model.decode(z)
        return vertices


def _differentiation(degree: int, places: Any) -> tuple[Tensor, Tensor]:
    """Nodes in [-1, 1], and the matrix from values there to derivatives at places.

    Exact for polynomials up to the degree.
    """
    nodes = chebyshev.chebpts1(degree + 1)
    values = np.linalg.inv(chebyshev.chebvander(nodes, degree))
    slopes = np.stack(
        [chebyshev.chebval(places, chebyshev.chebder(row)) for row in np.eye(degree + 1)], 1
    )
    return torch.from_numpy(nodes), torch.from_numpy(slopes @ values)


def _code(owner: str, name: str, code: Tensor) -> Tensor:
    found = torch.as_tensor(code).detach().double().cpu()
    if found.dim() != 1 or not len(found) or not bool(torch.isfinite(found).all()):
        raise ValueError(
            f"{owner}: {name} must be a finite code [L], got shape {list(found.shape)}"
        )
    return found
