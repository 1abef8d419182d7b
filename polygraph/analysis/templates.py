"""What each degree of a polynomial network does, without its tensors.

A polynomial of degree N about a centre c is a sum of homogeneous parts,
``f(c + h) = f(c) + f_1(h) + ... + f_N(h)``, and by Euler's theorem each is the inner product of its
input with a template: ``f_n(h) = ⟨T_n, h⟩`` with ``T_n = ∇f_n(h) / n``. T_1 is the matrix of a
linear network, the same for every input; the templates of higher degrees depend on h.

Along the line ``c + t h`` the values are a polynomial of degree N in t, whose coefficients are the
``f_n(h)``. N + 1 values at Chebyshev nodes in [-1, 1] give them, and as many gradients give the
templates, however deep the network is. The change from values to coefficients loses about
0.4 N digits of float64's 16: degrees up to 20 are exact to 1e-7 or better.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from polygraph._checks import check_positive

EXACT = 1e-7  # of the largest value: what the parts may miss at a point that is no node
_CONTROL = 0.7310585786300049  # a place on the line which is no node of any degree


@dataclass(frozen=True)
class DegreeTemplates:
    """A polynomial network at some inputs, degree by degree.

    Attributes:
        terms: ``[N + 1, B, *out_shape]``: f(c), f_1(h), ..., f_N(h); they add up to f(c + h).
        templates: ``[N, B, K, *in_shape]``: T_1, ..., T_N of the K outputs asked for;
            ``⟨T_n, h⟩`` is the output's f_n(h). None where none were.
        outputs: which of the flattened outputs those are.
        residual: the largest deviation of the sum of terms from the network's value at a point of
            each line that decided nothing, relative to the largest value: rounding.

    Example:
        >>> import torch
        >>> from polygraph.analysis import degree_templates
        >>> found = degree_templates(lambda x: (x[:, :1] + 1) ** 2, torch.tensor([[3.0, 5.0]]), 2)
        >>> found.terms.flatten().round().tolist()  # 1 + 2 x + x² at 3
        [1.0, 6.0, 9.0]
        >>> found.templates[:, 0, 0].round().tolist()  # 2 and x, of the first number alone
        [[2.0, 0.0], [3.0, 0.0]]

    See Also:
        `degree_templates`, which makes it.
    """

    terms: Tensor
    templates: Tensor | None
    outputs: tuple[int, ...]
    residual: float

    def __repr__(self) -> str:
        """One line: degree, samples, outputs, what is missed."""
        degree, samples = self.terms.shape[0] - 1, self.terms.shape[1]
        return (
            f"DegreeTemplates(degree={degree}, {samples} samples, {len(self.outputs)} outputs, "
            f"residual={self.residual:.0e})"
        )

    def energy(self) -> Tensor:
        """Share of each degree of 1 and above in the change from the centre, ``[N]``.

        Mean squares over samples and outputs, divided by their sum; zeros where nothing changes.
        Terms of different degrees may cancel: the shares say how large they are, not what is left
        of them.
        """
        squares = self.terms[1:].square().flatten(1).mean(1)
        total, rounding = squares.sum(), 1e-13 * self.terms.abs().max()
        return squares / total if total > rounding.square() else torch.zeros_like(squares)


def degree_templates(
    fn: Callable[[Tensor], Tensor],
    x: Tensor,
    degree: int,
    *,
    center: Tensor | float = 0.0,
    outputs: Sequence[int] | None = None,
    templates: bool = True,
) -> DegreeTemplates:
    """The terms of every degree of a polynomial network, and their templates.

    Args:
        fn: maps ``[B, *in_shape]`` to ``[B, ...]``, sample by sample, a polynomial of at most that
            degree; computed in float64 (``module.double()``, in evaluation mode).
        x: ``[B, *in_shape]``, inputs; taken as float64.
        degree: N, at least the network's (`polynomial_degree` finds it).
        center: c, a number or a tensor that broadcasts to a sample, such as the mean of the data.
        outputs: the flattened outputs of which templates are wanted; default: all.
        templates: False: terms alone, without gradients.

    Returns:
        Terms and templates, in float64.

    Raises:
        ValueError: ``fn`` is no polynomial of that degree, or an argument is bad.

    Example:
        >>> import torch
        >>> from polygraph.analysis import degree_templates
        >>> from polygraph.nn import NCP, ProdPoly
        >>> blocks = (NCP(torch.nn.Linear, 6, 6, order=2, norm="none") for _ in range(3))
        >>> net = ProdPoly(*blocks).double()
        >>> x = torch.randn(2, 6, dtype=torch.float64)
        >>> found = degree_templates(net, x, net.degree)
        >>> found.terms.shape, found.templates.shape
        (torch.Size([9, 2, 6]), torch.Size([8, 2, 6, 6]))
        >>> by_templates = found.terms[0] + torch.einsum("nbki,bi->bk", found.templates, x)
        >>> torch.allclose(by_templates, net(x))
        True

    See Also:
        `coefficient_tensors`, for small blocks; `check_degree`.
    """
    check_positive("degree_templates", degree=degree)
    if x.dim() < 2 or not x.is_floating_point():
        raise ValueError(
            "degree_templates: x must be floating-point [B, *in_shape], got "
            f"{x.dtype} {list(x.shape)}"
        )
    x = x.detach().double()
    start = torch.as_tensor(center, dtype=torch.float64, device=x.device).expand(x.shape[1:])
    step = x - start
    nodes, solve = _line(degree, x.device)
    values = _values(fn, start, step, torch.cat([nodes, nodes.new_tensor([_CONTROL])]))
    terms = torch.tensordot(solve, values[:-1], dims=1)
    residual = _residual(terms, values)
    chosen = _outputs(outputs, math.prod(terms.shape[2:]))
    found = _templates(fn, start, step, nodes, solve, chosen) if templates else None
    return DegreeTemplates(terms, found, chosen, residual)


def _line(degree: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Nodes on [-1, 1], ``[N + 1]``, and what makes coefficients of values at them."""
    nodes = np.cos(np.pi * np.arange(degree + 1) / degree)
    inverse = np.linalg.inv(np.vander(nodes, increasing=True))
    return torch.from_numpy(nodes).to(device), torch.from_numpy(inverse).to(device)


def _values(fn: Callable[[Tensor], Tensor], start: Tensor, step: Tensor, at: Tensor) -> Tensor:
    """``fn(start + t step)`` at every t: ``[T, B, *out_shape]``."""
    with torch.no_grad():
        found = [fn(start + t * step) for t in at]
    if found[0].dtype != torch.float64 or found[0].shape[:1] != step.shape[:1]:
        raise ValueError(
            f"degree_templates: fn must return float64 [{len(step)}, ...], got {found[0].dtype} "
            f"{list(found[0].shape)}: module.double() computes in float64"
        )
    return torch.stack(found)


def _residual(terms: Tensor, values: Tensor) -> float:
    degree = len(terms) - 1
    powers = _CONTROL ** torch.arange(degree + 1, dtype=torch.float64, device=terms.device)
    missed = torch.tensordot(powers, terms, dims=1) - values[-1]
    residual = float(missed.abs().max() / values.abs().max().clamp_min(1e-300))
    if not residual <= EXACT:
        raise ValueError(
            f"degree_templates: fn is no polynomial of degree {degree}: its terms miss a value by "
            f"{residual:.1e} of the largest (polynomial_degree finds the degree; activations, "
            "normalisations and training mode have none)"
        )
    return residual


def _outputs(outputs: Sequence[int] | None, count: int) -> tuple[int, ...]:
    chosen = tuple(range(count)) if outputs is None else tuple(int(k) for k in outputs)
    bad = [k for k in chosen if not 0 <= k < count]
    if bad:
        raise ValueError(f"degree_templates: outputs must lie in [0, {count}), got {bad[0]}")
    return chosen


def _templates(
    fn: Callable[[Tensor], Tensor],
    start: Tensor,
    step: Tensor,
    nodes: Tensor,
    solve: Tensor,
    chosen: tuple[int, ...],
) -> Tensor:
    """``T_n = Σ_j solve[n, j] t_j ∇f(c + t_j h) / n``, ``[N, B, K, *in_shape]``."""
    degrees = torch.arange(1, len(nodes), dtype=torch.float64, device=nodes.device)
    weights = solve[1:] * nodes / degrees[:, None]
    found = step.new_zeros(len(degrees), len(step), len(chosen), *step.shape[1:])
    for j, t in enumerate(nodes):
        at = (start + t * step).requires_grad_()
        with torch.enable_grad():
            out = fn(at).flatten(1)
            for k, output in enumerate(chosen):
                (gradient,) = torch.autograd.grad(
                    out[:, output].sum(), at, retain_graph=k + 1 < len(chosen)
                )
                found[:, :, k] += weights[:, j].view(-1, *[1] * gradient.dim()) * gradient
    return found
