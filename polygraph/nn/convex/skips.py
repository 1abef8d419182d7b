"""A sequence of layers to whose values maps of the input are added."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn


class InputSkips(nn.Module):
    """``h_n = step_n(h_(n-1)) + skip_n(x)``, with ``h_0 = x``: layers with skips from the input.

    Where the skips are affine and free, the layers may be made convex (`convex_`): a network with
    weights >= 0 then still has ways around them.

    Source: Amos, Xu and Kolter, "Input Convex Neural Networks", ICML 2017, eq. 2.

    Args:
        steps: the layers and activations, in order; the parts of a `torch.nn.Sequential`.
        skips: place of a step, from 0 -> what is added to its value. None: a `torch.nn.Linear`
            without bias for every `torch.nn.Linear` but the first.

    Raises:
        ValueError: a place is none of a step; or there is no skip.

    Example:
        >>> import torch
        >>> from polygraph.nn.convex import InputSkips, convex_, is_input_convex
        >>> steps = [torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1)]
        >>> network = convex_(InputSkips(steps))
        >>> list(network.skips), network(torch.rand(5, 4)).shape, bool(is_input_convex(network))
        (['2'], torch.Size([5, 1]), True)

    See Also:
        `convex_`; with its first weights skips are not needed to train.
    """

    def __init__(
        self,
        steps: nn.Sequential | list[nn.Module],
        skips: Mapping[int, nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.steps = nn.ModuleList(steps)
        skips = _linear_skips(list(self.steps)) if skips is None else skips
        wrong = [place for place in skips if place not in range(len(self.steps))]
        if wrong or not skips:
            raise ValueError(
                f"InputSkips: skips must name some of {len(self.steps)} steps, from 0, got "
                f"{sorted(skips)}"
            )
        self.skips = nn.ModuleDict({str(place): skip for place, skip in skips.items()})

    def forward(self, x: Tensor) -> Tensor:
        """What the first step takes, to what the last gives."""
        h = x
        for place, step in enumerate(self.steps):
            h = step(h)
            if str(place) in self.skips:
                h = h + self.skips[str(place)](x)
        return h


def _linear_skips(steps: list[nn.Module]) -> dict[int, nn.Module]:
    places = [n for n, step in enumerate(steps) if isinstance(step, nn.Linear)]
    made: dict[int, nn.Module] = {}
    for place in places[1:]:
        first, layer = steps[places[0]], steps[place]
        assert isinstance(first, nn.Linear)
        assert isinstance(layer, nn.Linear)
        made[place] = nn.Linear(
            first.in_features, layer.out_features, bias=False,
            device=first.weight.device, dtype=first.weight.dtype,
        )  # fmt: skip
    return made
