"""Multi-layer convolutional sparse coding over any linear operators, and its pursuits."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from polygraph._checks import check_choice
from polygraph._inputs import check_dtype, check_tensors
from polygraph.models.sparse_coding.adjoint import adjoint, squared_norm
from polygraph.nn.ordinary import is_ordinary

METHODS = ("layered", "ista", "fista", "lista", "basis-pursuit")
STEPS = ("power", "unit", "learned")
_FIRST_ITERATIONS, _MARGIN = 60, 1.02  # of power iteration, which comes from below


class MultiLayerSparseCoder(nn.Module):
    """Non-negative sparse codes of signals that are dictionaries of dictionaries: x = D₁ Γ₁, ...

    Layer i has an operator ``Γ ↦ D_iᵀ Γ + b_i``, a module such as a convolution, whose adjoint is
    the dictionary D_i. Of Γ_0 = x the codes Γ_i ≥ 0 are wanted with Γ_{i-1} near D_i Γ_i and few
    entries: with thresholds λ_i = -b_i (other signs are allowed) the objective is

    ``Σ_i ½ |Γ_{i-1} - D_i Γ_i|² - <b_i, Γ_i>``.

    =================== ============================================================================
    ``"layered"``       Γ_i = ReLU(D_iᵀ Γ_{i-1} + b_i): layered thresholding, the forward pass of a
                        network with ReLU, bit for bit
    ``"ista"``          from there, ``unfoldings`` times: Γ_i = D_{i+1} Γ_{i+1} downwards, then
                        upwards Γ_i = ReLU(Γ_i + c_i (D_iᵀ (Γ_{i-1} - D_i Γ_i) + b_i))
    ``"fista"``         the same with momentum on the last code
    ``"lista"``         as ``"ista"``, with operators of their own in place of D_iᵀ
    ``"basis-pursuit"`` each layer in turn, the code before it fixed: ``unfoldings`` steps of ISTA
                        from 0, after which the layer's share of the objective has never risen
    =================== ============================================================================

    Without unfoldings all of them are ``"layered"`` (``"lista"`` with its own operators).

    Source: Papyan, Romano and Elad, "Convolutional Neural Networks Analyzed via Convolutional
    Sparse Coding", JMLR 2017; Sulam, Aberdam, Beck and Elad, "On Multi-Layer Basis Pursuit,
    Efficient Algorithms and Convolutional Neural Networks", T-PAMI 2020, algorithms 1 and 2. We
    depart from it: b_i is multiplied by the step as well, as in a proximal gradient; with the step
    1 it is the same.

    Args:
        dictionaries: affine modules, each of the output of the one before: ``Conv2d``, ``Linear``,
            ``SpiralConv``, ``Resample``, graph convolutions on a fixed graph.
        shape: of one signal, without the batch.
        unfoldings: T, 0 or more.
        method: see above.
        steps: c_i: "power", ``1 / |D_i|²`` by power iteration (then descent of a layer is proved);
            "unit", 1; "learned", a parameter for each layer, first 1.

    Attributes:
        shapes: of a signal and of each code, without the batch.

    Raises:
        ValueError: no module, one that is not affine or does not fit its input, an unknown method.

    Example:
        >>> import torch
        >>> from polygraph.models import MultiLayerSparseCoder
        >>> layers = [torch.nn.Conv2d(1, 8, 6, stride=2), torch.nn.Conv2d(8, 16, 6, stride=2)]
        >>> coder = MultiLayerSparseCoder(layers, (1, 28, 28), unfoldings=3)
        >>> codes = coder.encode(torch.rand(2, 1, 28, 28))
        >>> [list(code.shape) for code in codes], coder.decode(codes[-1]).shape
        ([[2, 8, 12, 12], [2, 16, 4, 4]], torch.Size([2, 1, 28, 28]))

    See Also:
        `ConvexifiedCNN`, another reading of the same networks; `polygraph.nn.SpiralConv` and
        `polygraph.nn.Resample`, dictionaries of meshes.
    """

    step: Tensor

    def __init__(
        self,
        dictionaries: Sequence[nn.Module],
        shape: Sequence[int],
        unfoldings: int = 6,
        method: str = "ista",
        *,
        steps: str = "power",
    ) -> None:
        super().__init__()
        owner = type(self).__name__
        check_choice(owner, "method", method, METHODS)
        check_choice(owner, "steps", steps, STEPS)
        if isinstance(unfoldings, bool) or not isinstance(unfoldings, int) or unfoldings < 0:
            raise ValueError(
                f"{owner}: unfoldings must be an integer of 0 or more, got {unfoldings!r}"
            )
        if not dictionaries:
            raise ValueError(f"{owner}: dictionaries must have at least one module, got none")
        own = method == "lista"
        self.dictionaries = nn.ModuleList(map(_without_bias, dictionaries) if own else dictionaries)
        self.analysis = nn.ModuleList(dictionaries if own else [])
        self.unfoldings, self.method, self.steps = unfoldings, method, steps
        self.shapes = [tuple(shape)]
        for number, operator in enumerate(dictionaries):
            self.shapes.append(_checked_shape(owner, number, operator, self.shapes[-1]))
        first = _empty_of(dictionaries[0]).new_ones(len(dictionaries))
        if steps == "learned":
            self.step = nn.Parameter(first)
        else:
            self.register_buffer("step", first)
        if steps == "power":
            generator = torch.Generator().manual_seed(0)
            for number, size in enumerate(self.shapes[:-1]):
                vector = torch.randn(1, *size, generator=generator, device="cpu")
                self.register_buffer(f"vector_{number}", vector.to(first))
            self.refresh_steps(_FIRST_ITERATIONS)

    @property
    def depth(self) -> int:
        """Number of layers."""
        return len(self.dictionaries)

    def refresh_steps(self, iterations: int = _FIRST_ITERATIONS) -> None:
        """Steps of "power" for the weights as they are now; in training `encode` does one each."""
        if self.steps != "power" or self.step.is_meta:
            return
        found = self.step.clone()  # what an earlier call computed with stays as it was
        for number in range(self.depth):
            vector = getattr(self, f"vector_{number}")
            operator, size = self._dictionary(number), self.shapes[number]
            value, vector = squared_norm(operator, size, vector, iterations)
            getattr(self, f"vector_{number}").copy_(vector)
            found[number] = 1 / (_MARGIN * value) if value > 0 else 1.0
        self.step = found

    def encode(self, x: Tensor) -> list[Tensor]:
        """Codes of all layers.

        Args:
            x: ``[B, *shape]``, floating point, of the dictionaries' dtype.

        Returns:
            ``[B, *shapes[i]]`` for i from 1 on, 0 or more.

        Raises:
            ValueError: another shape or dtype.
        """
        self._check(x)
        if self.training and self.unfoldings:
            self.refresh_steps(1)
        if self.method == "basis-pursuit" and self.unfoldings:
            return self._basis_pursuit(x)
        operators = self._operators()
        codes = self._layered(x, operators)
        if self.method == "layered":
            return codes
        ahead, momentum = codes[-1], 1.0
        for _ in range(self.unfoldings):
            before = codes[-1]
            codes = self._unfold(x, ahead, operators)
            if self.method == "fista":
                grown = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
                ahead = codes[-1] + (momentum - 1) / grown * (codes[-1] - before)
                momentum = grown
            else:
                ahead = codes[-1]
        return codes

    def _operators(self) -> nn.ModuleList:
        """What has the biases, and makes codes of signals."""
        return self.analysis if self.method == "lista" else self.dictionaries

    def _layered(self, x: Tensor, operators: nn.ModuleList) -> list[Tensor]:
        codes = []
        for operator in operators:
            x = torch.relu(operator(x))
            codes.append(x)
        return codes

    def _unfold(self, x: Tensor, last: Tensor, operators: nn.ModuleList) -> list[Tensor]:
        """One pass down and one up."""
        down, codes = self.intermediate(last), [x]
        for number, operator in enumerate(operators):
            codes.append(self._improved(number, operator, codes[-1], down[number + 1]))
        return codes[1:]

    def _improved(self, number: int, operator: nn.Module, given: Tensor, code: Tensor) -> Tensor:
        """A proximal gradient step of a layer's code, the one before it given."""
        rest = given - adjoint(self._dictionary(number), code, given)
        return torch.relu(code + self.step[number] * operator(rest))

    def _basis_pursuit(self, x: Tensor) -> list[Tensor]:
        codes = [x]
        for number in range(self.depth):
            operator = self._dictionary(number)
            # The first step from 0: the adjoint of 0 need not be computed.
            code = torch.relu(self.step[number] * operator(codes[-1]))
            for _ in range(self.unfoldings - 1):
                code = self._improved(number, operator, codes[-1], code)
            codes.append(code)
        return codes[1:]

    def _dictionary(self, number: int) -> nn.Module:
        found = self.dictionaries[number]
        assert isinstance(found, nn.Module)
        return found

    def intermediate(self, last: Tensor) -> list[Tensor]:
        """Signal and codes that the last code makes: ``[D₁...D_L Γ, ..., D_L Γ, Γ]``.

        Args:
            last: ``[B, *shapes[-1]]``.

        Raises:
            ValueError: another shape.
        """
        if tuple(last.shape[1:]) != self.shapes[-1]:
            raise ValueError(
                f"{type(self).__name__}: the last code must have shape [B, "
                f"{', '.join(map(str, self.shapes[-1]))}], got {list(last.shape)}"
            )
        made = [last]
        for number in reversed(range(self.depth)):
            like = last.new_empty(len(last), *self.shapes[number])
            made.insert(0, adjoint(self._dictionary(number), made[0], like))
        return made

    def decode(self, last: Tensor) -> Tensor:
        """The signal ``D₁ ... D_L Γ`` of the last code ``[B, *shapes[-1]]``."""
        return self.intermediate(last)[0]

    def objective(self, x: Tensor, codes: Sequence[Tensor]) -> Tensor:
        """``Σ_i ½ |Γ_{i-1} - D_i Γ_i|² - <b_i, Γ_i>`` of each signal: ``[B]``.

        Args:
            x: ``[B, *shape]``.
            codes: of all layers; negative ones are not codes, and not refused.

        Raises:
            ValueError: another number of codes, or other shapes.
        """
        self._check(x)
        total = x.new_zeros(len(x))
        for value in self.objectives(x, codes):
            total = total + value
        return total

    def objectives(self, x: Tensor, codes: Sequence[Tensor]) -> list[Tensor]:
        """The shares ``[B]`` of the layers in the objective."""
        shapes = [tuple(code.shape[1:]) for code in codes]
        if shapes != self.shapes[1:]:
            raise ValueError(
                f"{type(self).__name__}: codes must have the shapes {self.shapes[1:]} behind the "
                f"batch, got {shapes}"
            )
        found, given = [], x
        for number, code in enumerate(codes):
            operator = self._dictionary(number)
            rest = given - adjoint(operator, code, given)
            bias = self._operators()[number](given.new_zeros(1, *self.shapes[number]))
            found.append(rest.square().flatten(1).sum(1) / 2 - (bias * code).flatten(1).sum(1))
            given = code
        return found

    def effective(self, number: int, place: int | Sequence[int] | None = None) -> Tensor:
        """The atoms of layer ``number`` (from 1 on) as signals: ``D₁ ... D_number`` of one place.

        Args:
            number: of the layer.
            place: in the code: row and column in a map, or a vertex; default: the middle of a map,
                the first of vertices. A code of channels alone has none.

        Returns:
            ``[C, *shape]``, an atom for each channel of the code.

        Raises:
            ValueError: there is no such layer, or no such place in its code.
        """
        if not 1 <= number <= self.depth:
            raise ValueError(
                f"{type(self).__name__}: number must be in [1, {self.depth}], got {number}"
            )
        size = self.shapes[number]
        grid = size[1:] if len(size) == 3 else size[:-1]  # where a code has its channels
        channels = size[0] if len(size) == 3 else size[-1]
        if place is None:
            where = tuple(n // 2 for n in grid) if len(size) == 3 else (0,) * len(grid)
        else:
            where = (place,) if isinstance(place, int) else tuple(place)
        if len(where) != len(grid) or not all(0 <= w < n for w, n in zip(where, grid, strict=True)):
            raise ValueError(
                f"{type(self).__name__}: place must be in [0, {list(grid)}) for layer {number}, "
                f"got {place}"
            )
        code = self.step.detach().new_zeros(channels, *size)
        every = torch.arange(channels)
        index: tuple[Any, ...] = (every, *where, every)
        if len(size) == 3:
            index = (every, every, *where)
        code[index] = 1
        for layer in reversed(range(number)):
            like = code.new_empty(channels, *self.shapes[layer])
            code = adjoint(self._dictionary(layer), code, like)
        return code

    def forward(self, x: Tensor) -> Tensor:
        """The last code ``[B, *shapes[-1]]`` of ``x [B, *shape]``."""
        return self.encode(x)[-1]

    def _check(self, x: Any) -> None:
        owner = type(self).__name__
        check_tensors(owner, x=x)
        if tuple(x.shape[1:]) != self.shapes[0] or x.dim() < 2:
            raise ValueError(
                f"{owner}: x must have shape [B, {', '.join(map(str, self.shapes[0]))}], got "
                f"{list(x.shape)}"
            )
        check_dtype(owner, "x", x, self.step, what="dictionaries")

    def __repr__(self) -> str:
        """One line: the method, sizes."""
        sizes = " -> ".join(" x ".join(map(str, size)) for size in self.shapes)
        return (
            f"MultiLayerSparseCoder({sizes}, method={self.method!r}, "
            f"unfoldings={self.unfoldings}, steps={self.steps!r})"
        )


def _without_bias(operator: nn.Module) -> nn.Module:
    """A copy; where its bias is a parameter called so, without it: an adjoint has none."""
    made = copy.deepcopy(operator)
    if isinstance(getattr(made, "bias", None), nn.Parameter):
        made.register_parameter("bias", None)
    return made


def _empty_of(operator: nn.Module) -> Tensor:
    """A tensor of the dtype and on the device of a module's numbers; of the default ones."""
    for tensor in (*operator.parameters(), *operator.buffers()):
        if tensor.is_floating_point():
            return tensor.new_empty(0)
    return torch.empty(0)


def _convolved(
    operator: nn.Conv2d, padding: tuple[int, ...], shape: tuple[int, ...]
) -> tuple[int, ...]:
    """The shape of one output of a convolution."""
    sizes = zip(
        shape[1:], padding, operator.dilation, operator.kernel_size, operator.stride, strict=True
    )
    made = ((n + 2 * pad - d * (kernel - 1) - 1) // step + 1 for n, pad, d, kernel, step in sizes)
    return (operator.out_channels, *made)


@torch.no_grad()
def _checked_shape(
    owner: str, number: int, operator: nn.Module, shape: tuple[int, ...]
) -> tuple[int, ...]:
    """What comes out of a module, which must be affine: tried with two inputs and their sum."""
    like = _empty_of(operator)
    if like.is_meta and isinstance(operator, nn.Conv2d) and is_ordinary(operator, nn.Conv2d):
        if not isinstance(operator.padding, str):
            # Without a call: torch takes seconds to load what it knows of the meta device.
            return _convolved(operator, operator.padding, shape)
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 8, *shape, generator=generator, device="cpu").to(like)
    try:
        zero, ofs = operator(torch.zeros_like(a)), [operator(x) for x in (a, b, a + b)]
    except RuntimeError as error:
        raise ValueError(
            f"{owner}: dictionaries[{number}] does not take [B, {', '.join(map(str, shape))}]: "
            f"{error}"
        ) from error
    wrong = (ofs[0] + ofs[1] - ofs[2] - zero).abs().max()
    if wrong.is_meta:  # sizes alone
        return tuple(zero.shape[1:])
    if not wrong <= 1e-3 * max(1e-6, float((ofs[2] - zero).abs().max())):
        raise ValueError(
            f"{owner}: dictionaries[{number}] must be affine in its input, but "
            f"{type(operator).__name__} is not (or is not finite)"
        )
    return tuple(zero.shape[1:])
