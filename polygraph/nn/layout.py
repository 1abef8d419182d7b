"""Where the channels of a tensor are, and over which dimensions its statistics run."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from polygraph._checks import check_choice


class Layout(NamedTuple):
    """The meaning of a tensor's trailing dimensions.

    Polynomial blocks work on any linear operator; this is all they need to know about its output.

    Attributes:
        name: ``"vectors"``, ``"vertices"`` or ``"images"``.
        channel_dim: the (negative) dimension that holds the channels.
        statistic_dims: the dimensions over which a sample's statistics run: all that are
            neither batch nor channel; for plain vectors, which have none, the channels.

    Example:
        >>> from polygraph.nn import LAYOUTS
        >>> LAYOUTS["images"]
        Layout(name='images', channel_dim=-3, statistic_dims=(-2, -1))

    See Also:
        `layout_of`.
    """

    name: str
    channel_dim: int
    statistic_dims: tuple[int, ...]

    def per_channel(self, values: Tensor) -> Tensor:
        """``values [D]`` in a shape that broadcasts along the channels of this layout."""
        return values if self.channel_dim == -1 else values.view(-1, 1, 1)


LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout("vectors", -1, (-1,)),  # [..., C]
        Layout("vertices", -1, (-2,)),  # [V, C] or [B, V, C]
        Layout("images", -3, (-2, -1)),  # [C, H, W] or [B, C, H, W]
    )
}


def layout_of(operator: nn.Module, name: str | None = None) -> Layout:
    """The layout called ``name``, or by default the one that ``operator`` returns.

    An operator may declare its layout by an attribute ``layout`` (a name), as
    `polygraph.nn.SpiralConv` does. Of torch's own, Linear has vectors ``[B, C]`` and Conv2d has
    images ``[B, C, H, W]``; anything else has vertices ``[B, V, C]``. A Linear that maps each
    vertex of a mesh needs ``layout="vertices"``: its shapes alone cannot tell.

    Example:
        >>> import torch
        >>> from polygraph.nn import layout_of
        >>> layout_of(torch.nn.Linear(3, 3)).name, layout_of(torch.nn.Conv2d(3, 3, 1)).name
        ('vectors', 'images')
        >>> layout_of(torch.nn.Linear(3, 3), "vertices").name
        'vertices'
    """
    if name is None:
        if isinstance(operator, nn.Linear):
            name = "vectors"
        elif isinstance(operator, nn.Conv2d):
            name = "images"
        else:
            name = str(getattr(operator, "layout", "vertices"))
    check_choice("layout_of", "layout", name, LAYOUTS)
    return LAYOUTS[name]
