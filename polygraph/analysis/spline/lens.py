"""The affine map that a piecewise affine network is at a point, exactly."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from polygraph._checks import check_positive
from polygraph.analysis.spline.affine_map import AffineMap, chosen_outputs, probe, tolerance
from polygraph.analysis.spline.blame import culprit
from polygraph.analysis.spline.frozen import FrozenNetwork, constant_parameters
from polygraph.analysis.spline.narrow import NarrowConvolutions
from polygraph.analysis.spline.passes import Passes
from polygraph.analysis.spline.slices import Slice, slice_plane
from polygraph.analysis.spline.tape import Recorder
from polygraph.analysis.spline.walks import Walk, walk
from polygraph.analysis.templates import DegreeTemplates, degree_templates

_CHUNK = 64  # samples in a pass of `SplineLens.affine`
_ROUNDING = 1e-6  # of the largest output: what walks and slices may miss in the middle of a region


class SplineLens(Passes):
    """Sees through a network of piecewise affine layers.

    Such a network is one affine map in each region of its input. The lens takes any module as it
    is: what it chooses (signs of ReLUs, winners of pools and maxima, neighbours) is observed call
    by call, so that activations may be shared, work in place, or be functions. Choices are made by
    ReLU and its leaky and clipped relatives, absolute values, ``maximum`` and ``where``, pools,
    maxima over dimensions, over points and over edges (PyG's EdgeConv among them), and by k-NN
    graphs. Whatever else is not affine is refused by name: ELU, softmax, normalisations by
    statistics of the input.

    Source: Balestriero and Baraniuk, "A Spline Theory of Deep Learning", ICML 2018.

    Args:
        model: maps ``x`` to one tensor, in evaluation mode; ``model.double()`` for 1e-10.
        args: further arguments of ``model``, such as the edges of a graph.
        batched: whether the first dimension of ``x`` counts samples that do not see each other.
            False: ``x`` is one sample, such as the nodes of a graph; results have a first
            dimension of 1 nevertheless, and inputs are given without it.
        layer: the name of a module whose output is looked at in place of the model's.

    Example:
        >>> import torch
        >>> from polygraph.analysis import SplineLens
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
        >>> lens, x = SplineLens(net.double()), torch.tensor([[0.5, -1.0]], dtype=torch.float64)
        >>> found = lens.affine(x)
        >>> torch.allclose((found.A * x[:, None]).sum(-1) + found.b, net(x))
        True
        >>> list(lens.codes(x))
        ['1:relu']

    See Also:
        `degree_templates`, for polynomials; `check_degree`.
    """

    def __repr__(self) -> str:
        """The model's class, and the layer."""
        name = getattr(self.model, "__name__", type(self.model).__name__)
        return f"SplineLens({name}{'' if self.layer is None else f', layer={self.layer!r}'})"

    def affine(
        self, x: Tensor, outputs: Sequence[int] | None = None, *, tangent: bool = False
    ) -> AffineMap:
        """A and b at every sample of ``x``.

        Args:
            x: ``[B, *in_shape]`` (without B if not ``batched``).
            outputs: which of the flattened outputs are wanted; default: all. A pass backwards each.
            tangent: return A and b of a network that is not affine there, too: its tangent map at
                x, with the residual in place of an error.

        Raises:
            ValueError: the network is not piecewise affine; the message names the module and the
                function. Or a module is in training mode, or samples see each other.
        """
        x = self.check_input(x)
        found = AffineMap.joined(
            (self._affine_of(chunk, outputs) for chunk in self.samples(x, _CHUNK)),
            len(x) if self.batched else 1,
        )
        if not tangent and not found.residual <= tolerance(x.dtype):
            raise ValueError(
                f"SplineLens: not piecewise affine: {culprit(self, x)}. A x + b misses the network "
                f"with its choices fixed by {found.residual:.1e} (tangent=True: the tangent map)"
            )
        return found

    def _affine_of(self, x: Tensor, outputs: Sequence[int] | None) -> AffineMap:
        if self.channels_last and x.dim() == 4 and x.dtype == torch.float32:
            # Convolutions are faster so. A network that views its images otherwise says so.
            try:
                return self._affine_at(x.contiguous(memory_format=torch.channels_last), outputs)
            except RuntimeError as error:
                if "view size is not compatible" not in str(error):
                    raise
                self.channels_last = False
        return self._affine_at(x, outputs)

    def _affine_at(self, x: Tensor, outputs: Sequence[int] | None) -> AffineMap:
        with ExitStack() as stack:
            stack.enter_context(torch.enable_grad())
            if isinstance(self.model, nn.Module):
                stack.enter_context(constant_parameters(self.model))
            at = x.clone().requires_grad_()
            with NarrowConvolutions(), Recorder(self.names) as recorder:
                out = self.rows(self.forward(at))
            chosen = chosen_outputs(outputs, out.shape[1])
            lead = at.shape if self.batched else (1, *at.shape)
            A = x.new_empty(lead[0], len(chosen), *lead[1:])
            for place, k in enumerate(chosen):
                (gradient,) = torch.autograd.grad(
                    out[:, k].sum(), at, retain_graph=place + 1 < len(chosen), allow_unused=True
                )
                A[:, place] = 0 if gradient is None else gradient
        with torch.no_grad():
            value = out.detach()[:, list(chosen)]
            b = value - _products(A, x)
            r = probe(x)
            told, linear = (
                self.rows(self.repeat(recorder.entries, r))[:, list(chosen)],
                _products(A, r),
            )
            missed = (linear + b - told).abs().amax(1)
            size = torch.stack([told.abs(), b.abs(), linear.abs()]).amax((0, 2))
            residual = float((missed / size.clamp_min(torch.finfo(size.dtype).tiny)).max())
        return AffineMap(A, b, value, chosen, residual if residual == residual else float("inf"))

    def codes(self, x: Tensor) -> dict[str, Tensor]:
        """What the network chooses at ``x``, by module, function and, from the second on, number.

        Truth values for activations of two pieces (above the bend), uint8 for those of more, the
        places of winners for pools and maxima, slots of winning neighbours, lists of neighbours.
        """
        return {entry.name: entry.code() for entry in self.record(self.check_input(x))}

    def distance(self, x: Tensor, y: Tensor, sites: Sequence[str] | None = None) -> Tensor:
        """The share of choices that differ between samples of ``x`` and those of ``y``, ``[B]``.

        Args:
            x: ``[B, *in_shape]``.
            y: as ``x``.
            sites: names of `codes`; default: all.

        Source: Balestriero and Baraniuk 2018, equation 15.
        """
        if x.shape != y.shape:
            raise ValueError(f"distance: shapes differ: {list(x.shape)} and {list(y.shape)}")
        of_x, of_y = self.codes(x), self.codes(y)
        chosen = list(of_x) if sites is None else list(sites)
        unknown = [name for name in chosen if name not in of_x]
        if unknown or not chosen:
            raise ValueError(
                f"distance: sites must be among {', '.join(of_x) or 'none: nothing is chosen'}, "
                f"got {', '.join(unknown) or 'none'}"
            )
        samples = len(x) if self.batched else 1
        pairs = [(of_x[n].reshape(samples, -1), of_y[n].reshape(samples, -1)) for n in chosen]
        apart = torch.stack([(a != b).sum(1) for a, b in pairs]).sum(0)
        return apart.double() / sum(a.shape[1] for a, _ in pairs)

    def frozen(self, x: Tensor) -> FrozenNetwork:
        """The network with its choices at ``x`` fixed: affine, on the whole space."""
        x = self.check_input(x)
        return FrozenNetwork(self, self.record(x), x)

    def terms(
        self, x: Tensor, degree: int, *, center: Tensor | float = 0.0, templates: bool = True
    ) -> DegreeTemplates:
        """`degree_templates` of a piecewise polynomial network, its choices at ``x`` fixed.

        Args:
            x: float64 ``[B, *in_shape]``.
            degree: at least that of the polynomial of a region.
            center: see `degree_templates`.
            templates: see `degree_templates`.
        """
        check_positive("terms", degree=degree)
        frozen = self.frozen(x)
        return degree_templates(frozen, x, degree, center=center, templates=templates)

    def walk(self, x: Tensor, y: Tensor) -> Walk:
        """Every region on the segment from ``x`` to ``y``, with the exact places between them.

        Inside of a region all that a network chooses by is affine along the segment, so that
        borders are zeros of lines, and roots of quadratics where lists of neighbours change. No
        step is chosen, and none is too long; regions thinner than about 1e-12 of the segment are
        not told apart.

        Args:
            x: float64 ``[*in_shape]``: one sample, without B.
            y: as ``x``.

        Raises:
            ValueError: shapes differ, not float64, or the network is not piecewise affine.
            NotImplementedError: it chooses by a function whose borders are not known, such as
                ``topk``, or a graph of pixels.
        """
        self._check_ends("walk", x, y)
        found = walk(self, x.detach(), y.detach())
        if not found.residual <= _ROUNDING:
            raise ValueError(
                f"walk: not piecewise affine: {culprit(self, x[None] if self.batched else x)}"
            )
        return found

    def slice(self, origin: Tensor, u: Tensor, v: Tensor, *, most: int | None = None) -> Slice:
        """Every region in the parallelogram ``origin + a u + b v``, a and b from -1 to 1.

        Regions are cut out one choice after the other, along lines that are exact: in a region of
        what was chosen before, all that the next choice depends on is affine.

        Args:
            origin: float64 ``[*in_shape]``: one sample, without B.
            u: as ``origin``, the first direction.
            v: the second.
            most: regions that are still wanted; None: any number. A plane of a network with
                thousands of units has millions.

        Raises:
            ValueError: shapes differ, not float64, the network is not piecewise affine, or there
                are more than ``most`` regions, which is seen early.
            NotImplementedError: the network may jump, as where lists of neighbours change, or
                chooses by a function whose borders are not known.
        """
        self._check_ends("slice", origin, u, v)
        if most is not None:
            check_positive("slice", most=most)
        found = slice_plane(self, origin.detach(), u.detach(), v.detach(), most)
        if not found.residual <= _ROUNDING:
            raise ValueError(
                "slice: not piecewise affine: "
                f"{culprit(self, origin[None] if self.batched else origin)}"
            )
        return found

    def _check_ends(self, name: str, *ends: Tensor) -> None:
        for end in ends:
            self.check_input(end[None] if self.batched else end)
            if end.dtype != torch.float64 or end.shape != ends[0].shape:
                raise ValueError(
                    f"{name}: all must be float64 of one shape, got "
                    + " and ".join(f"{e.dtype} {list(e.shape)}" for e in ends)
                )


def _products(A: Tensor, x: Tensor) -> Tensor:
    """``⟨A_k, x⟩``, ``[B, K]``."""
    return torch.einsum("bkd,bd->bk", A.flatten(2), x.reshape(len(A), -1))
