"""What a layer says of inputs that are not its own: in words of the user's argument."""

import inspect
import re

import pytest
import torch

from support.layer_calls import is_float


class LayerInputs:
    """Part of `LayerContract`."""

    takes_any_width: bool = False
    #: names of cases in which torch's or PyG's code reads the input first, and says what it says
    foreign: tuple = ()

    def _given(self, case):
        """The layer in float32, its arguments in float64, and the name of the first argument."""
        torch.manual_seed(0)
        layer = self.cases[case].make().eval()
        name = next(iter(inspect.signature(layer.forward).parameters))
        return layer.to(torch.float32), self.cases[case].inputs(), name

    @staticmethod
    def _weights(layer):
        """What it computes with: parameters, or tables of weights."""
        found = [*layer.parameters(), *layer.buffers()]
        return [t for t in found if t.is_floating_point()]

    def test_says_whose_dtype_differs(self, case):
        """Float64 vertices, as numpy gives them, and a layer as torch makes it."""
        layer, inputs, name = self._given(case)
        if not self._weights(layer):  # it takes any dtype
            layer(*inputs)
            return
        if case in self.foreign:
            return
        wanted = (
            r"float64, but this layer's \w+ (is|are) float32: (\w+)\.float\(\) or layer\.double\(\)"
        )
        with pytest.raises(ValueError, match=wanted) as caught:
            layer(*inputs)
        assert re.search(wanted, str(caught.value))[2] in ("x", "edge_attr", name)

    def test_says_how_an_array_becomes_a_tensor(self, case):
        """An array of NumPy's in the place of the first argument."""
        layer, inputs, name = self._given(case)
        first, rest = inputs[0], inputs[1:]
        if isinstance(first, tuple):
            first = tuple(part if part is None else part.numpy() for part in first)
        else:
            first = first.numpy()
        with pytest.raises(TypeError, match=rf"(x|{name})(\[0\])? must be a torch\.Tensor, got a"):
            layer(first, *rest)

    @pytest.mark.parametrize("more", [1, -1], ids=["wider", "narrower"])
    def test_says_that_the_width_differs(self, case, more):
        """One channel more, or less, than the layer was made for; nothing is answered."""
        layer, inputs, name = self._given(case)
        if self.takes_any_width or case in self.foreign:
            return
        layer = layer.double()
        dim = -3 if isinstance(inputs[0], torch.Tensor) and inputs[0].dim() == 4 else -1

        def changed(t):
            return (
                torch.cat([t, t.narrow(dim, 0, 1)], dim)
                if more > 0
                else t.narrow(dim, 0, t.shape[dim] - 1)
            )

        first = inputs[0]
        first = tuple(map(changed, first)) if isinstance(first, tuple) else changed(first)
        with pytest.raises(ValueError, match=rf"\b(x|{name}|nn) must") as caught:
            layer(first, *inputs[1:])
        assert re.search(r"\d", str(caught.value))

    def test_says_that_the_vertices_differ(self, case):
        """Of a layer for one mesh: vertices of another."""
        layer, inputs, name = self._given(case)
        sources = getattr(layer, "num_sources", None)
        if sources is None or not is_float(inputs[0]):
            return
        for count in (sources - 1, sources + 1):
            x = torch.zeros(2, count, inputs[0].shape[-1])
            wanted = rf"{name} must have shape \[B, {sources}, .*, got \[2, {count}, "
            with pytest.raises(ValueError, match=wanted):
                layer(x)
