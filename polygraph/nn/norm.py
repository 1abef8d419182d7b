"""Normalisation of the second-order terms of a polynomial block."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn, ones, zeros

from polygraph._checks import check_choice, check_positive
from polygraph._inputs import check_dtype, check_tensors
from polygraph.nn.layout import LAYOUTS, Layout

NORMS = (
    "rms",
    "vertex_rms",
    "instance",
    "instance_vertex",
    "batch",
    "batch_channel",
    "tanh",
    "none",
)


class SecondOrderNorm(nn.Module):
    """``scale · N(t)`` of a second-order term ``t``, with the learned scale that keeps it stable.

    Products of features grow with the square of their size: bare, they diverge within a few
    hundred steps. A scale per channel that starts small (0.1) lets training begin near the linear
    layer and earn its higher order.

    ====================  =====================================================================
    ``rms`` (default)     ``scale · t / √(1 + mean t²)``. Small terms pass as they are, large ones
                          are bounded; no state, no difference between training and evaluation.
    ``vertex_rms``        ``rms`` with a scale and a shift of its own at every vertex, ``[V, D]``:
                          what the published BatchNorm over V·D learns, without its statistics.
    ``instance``          ``scale · (t - mean t) / √(var t + 1e-5)``: the papers' "vertex-wise
                          instance normalization", read as torch's instance normalisation.
    ``instance_vertex``   The same with the statistics of each vertex over its channels, the
                          other way to read it.
    ``batch``             BatchNorm over every vertex and channel, V·D features (the published
                          code). Trains, but may explode in evaluation mode. Has no ``scale``.
    ``batch_channel``     BatchNorm over the D channels. Same caution. Has no ``scale``.
    ``tanh``              ``scale · tanh t``: bounded entry by entry, as the papers have it for
                          ImageNet and for faces.
    ``none``              ``scale · t``: the block stays exactly a polynomial of its order.
    ====================  =====================================================================

    Where it stands: the term that a step adds to the linear one is normalised, each in every step,
    which the public code of the mesh experiments calls ``2nd``. Its two other placements are not
    offered. ``final`` normalises the last step's term alone and leaves those within bare, which
    diverge; ``all`` normalises the sum with the linear term and the residual, so that the block no
    longer begins near the linear layer. The paper has neither.

    The statistics of ``rms``, ``vertex_rms`` and ``instance`` are those of one sample and one
    channel, over vertices or pixels; plain vectors, which have neither, are normalised over their
    channels.

    Args:
        channels: channels D of ``t``.
        kind: one of the above.
        layout: what the dimensions of ``t`` mean.
        num_vertices: V, for ``batch`` and ``vertex_rms`` only.
        dummy_vertex: count one vertex more in ``batch``, as the published code does, for the count
            of its parameters. Here it is zero and no output depends on it. In the published code
            outputs do: see ``dummy_vertex`` of `polygraph.models.MeshAutoencoderConfig`.
        initial_scale: where ``scale`` starts.

    Example:
        >>> import torch
        >>> from polygraph.nn import SecondOrderNorm
        >>> norm = SecondOrderNorm(2)
        >>> norm(torch.tensor([[3.0, 0.1], [-3.0, 0.1]])).detach()  # large ones are bounded
        tensor([[ 0.0949,  0.0100],
                [-0.0949,  0.0100]])

    See Also:
        `polygraph.ops.poly_step`, in which ``"rms"`` and ``"vertex_rms"`` are fused.
    """

    scale: nn.Parameter | None
    shift: nn.Parameter | None
    batch_norm: nn.BatchNorm1d | nn.BatchNorm2d | None

    def __init__(
        self,
        channels: int,
        kind: str = "rms",
        layout: Layout = LAYOUTS["vertices"],
        *,
        num_vertices: int | None = None,
        dummy_vertex: bool = False,
        initial_scale: float = 0.1,
    ) -> None:
        super().__init__()
        check_choice("SecondOrderNorm", "kind", kind, NORMS)
        check_positive("SecondOrderNorm", channels=channels)
        if kind in ("batch", "vertex_rms") and (num_vertices is None or layout.name != "vertices"):
            raise ValueError(
                f"SecondOrderNorm: kind {kind!r} needs num_vertices, on layout 'vertices'; "
                f"got num_vertices={num_vertices} on {layout.name!r}"
            )
        self.kind = kind
        self.channels = channels
        self.num_vertices = num_vertices if kind in ("batch", "vertex_rms") else None
        self.layout = layout
        self.padding = int(dummy_vertex)
        self.initial_scale = initial_scale
        self.fused = kind in ("rms", "vertex_rms", "none") and layout.name != "vectors"
        self.batch_norm = None
        if kind == "batch":
            self.batch_norm = nn.BatchNorm1d(((num_vertices or 0) + self.padding) * channels)
        elif kind == "batch_channel":
            make = nn.BatchNorm2d if layout.name == "images" else nn.BatchNorm1d
            self.batch_norm = make(channels)
        vertices = [num_vertices or 0] if kind == "vertex_rms" else []
        self.register_parameter(
            "scale",
            nn.Parameter(initial_scale * ones(*vertices, channels))
            if self.batch_norm is None
            else None,
        )
        self.register_parameter(
            "shift", nn.Parameter(zeros(*vertices, channels)) if vertices else None
        )

    def reset_parameters(self) -> None:
        """Set the scale, or the BatchNorm, to where it starts."""
        if self.scale is not None:
            nn.init.constant_(self.scale, self.initial_scale)
        if self.shift is not None:
            nn.init.zeros_(self.shift)
        if self.batch_norm is not None:
            self.batch_norm.reset_parameters()

    def forward(self, t: Tensor) -> Tensor:
        """Normalise ``t``; same shape.

        Raises:
            ValueError: ``t`` has other channels, vertices or another dtype than the layer.
        """
        self._check(t)
        if self.batch_norm is not None:
            return self._batch(t, self.batch_norm)
        assert self.scale is not None
        dims = self.layout.statistic_dims
        if self.kind in ("rms", "vertex_rms"):
            t = t * (1 + t.square().mean(dims, keepdim=True)).rsqrt()
        elif self.kind in ("instance", "instance_vertex"):
            dims = (self.layout.channel_dim,) if self.kind == "instance_vertex" else dims
            t = t - t.mean(dims, keepdim=True)
            t = t * (t.square().mean(dims, keepdim=True) + 1e-5).rsqrt()
        elif self.kind == "tanh":
            t = t.tanh()
        if self.shift is not None:
            return self.scale * t + self.shift
        return self.layout.per_channel(self.scale) * t

    def _check(self, t: Tensor) -> None:
        check_tensors("SecondOrderNorm", t=t)
        rank, dim = len(self.layout.statistic_dims) + 1, self.layout.channel_dim
        rank = 1 if self.layout.name == "vectors" else rank
        if t.dim() < rank or t.shape[dim] != self.channels:
            raise ValueError(
                f"SecondOrderNorm: t must have {self.channels} channels in dimension {dim} (layout "
                f"{self.layout.name!r}), got shape {list(t.shape)}"
            )
        if self.num_vertices is not None and t.shape[-2] != self.num_vertices:
            raise ValueError(
                f"SecondOrderNorm: t must have {self.num_vertices} vertices in dimension -2, got "
                f"shape {list(t.shape)}"
            )
        like = self.scale if self.batch_norm is None else self.batch_norm.weight
        if like is not None:
            check_dtype("SecondOrderNorm", "t", t, like)

    def _batch(self, t: Tensor, batch_norm: nn.Module) -> Tensor:
        out: Tensor
        if self.kind == "batch":
            batch = t.unsqueeze(0) if t.dim() == 2 else t
            padded = F.pad(batch, (0, 0, 0, self.padding)) if self.padding else batch
            out = batch_norm(padded.flatten(1)).view(padded.shape)
            return out[:, : batch.shape[1]].view(t.shape) if self.padding else out.view(t.shape)
        if self.layout.name == "images":
            out = batch_norm(t)
            return out
        out = batch_norm(t.reshape(-1, t.shape[-1]))
        return out.view(t.shape)

    def __repr__(self) -> str:
        """One line: kind and layout."""
        return f"SecondOrderNorm({self.kind!r}, {self.layout.name!r})"
