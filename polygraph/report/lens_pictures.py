"""Pictures of what the spline lens sees: templates of images, the regions of a plane."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polygraph.analysis.spline import AffineMap, Slice
from polygraph.report.figures import save_figure
from polygraph.report.render import pyplot


def template_figure(
    path: str | Path,
    images: Tensor,
    found: AffineMap,
    names: Sequence[str] | None = None,
    *,
    shown: int = 3,
) -> Path:
    """Each image, beside it the templates of its largest outputs and of the smallest one.

    Over a template stands ``⟨A_k, x⟩ + b_k``, the two parts that add up to the output. Where a
    template is red the output grows with the pixel, where it is blue it falls.

    Source: Balestriero and Baraniuk, "A Spline Theory of Deep Learning", ICML 2018, figure 1.

    Args:
        path: of the picture, .png or .svg.
        images: ``[B, C, H, W]``, the inputs, C of 1 or 3.
        found: `SplineLens.affine` of them.
        names: of the outputs, in the order of ``found.outputs``; default: their numbers.
        shown: templates beside each image, at least 1.

    Raises:
        ValueError: shapes do not go together.
    """
    if images.dim() != 4 or images.shape[1] not in (1, 3) or shown < 1:
        raise ValueError(
            f"template_figure: images must be [B, 1 or 3, H, W] and shown at least 1, got "
            f"{list(images.shape)} and {shown}"
        )
    if found.A.shape[:1] + found.A.shape[2:] != images.shape:
        raise ValueError(
            f"template_figure: the templates are of inputs {list(found.A.shape[2:])}, of "
            f"{len(found.A)} samples, the images are {list(images.shape)}"
        )
    names = [str(k) for k in found.outputs] if names is None else list(names)
    plt = pyplot()
    shown = min(shown, len(names))
    figure, axes = plt.subplots(
        len(images), 1 + shown, figsize=(1.7 * (1 + shown), 1.95 * len(images)), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for row, image in enumerate(images):
        order = found.value[row].argsort(descending=True).tolist()
        chosen = [*order[: shown - 1], order[-1]] if shown > 1 else order[:1]
        limit = float(found.A[row, chosen].abs().max()) or 1.0
        _show(axes[row, 0], _brightness(image), "gray", None)
        axes[row, 0].set_title("input", fontsize=8)
        for place, k in enumerate(chosen):
            panel = axes[row, 1 + place]
            _show(panel, found.A[row, k].mean(0).cpu().numpy(), "RdBu_r", limit)
            inner, b = float(found.inner[row, k]), float(found.b[row, k])
            panel.set_title(
                f"{names[k]}: {inner:.1f} {'+' if b >= 0 else '−'} {abs(b):.1f}", fontsize=8
            )
    return save_figure(plt, figure, path)


def _brightness(image: Tensor) -> NDArray[np.float64]:
    low, high = image.min(), image.max()
    scaled = ((image - low) / (high - low).clamp_min(1e-12)).double()
    found: NDArray[np.float64] = scaled.movedim(0, -1).squeeze(-1).cpu().numpy()
    return found


def _show(axes: Any, picture: NDArray[np.float64], colors: str, limit: float | None) -> None:
    axes.imshow(picture, cmap=colors, vmin=None if limit is None else -limit, vmax=limit)
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)


def slice_figure(
    path: str | Path,
    found: Slice,
    *,
    classes: Sequence[str] | None = None,
    points: Sequence[tuple[float, float, str]] = (),
) -> Path:
    """The regions of a plane, coloured by their largest output, with all borders.

    Args:
        path: of the picture, .png or .svg.
        found: from `SplineLens.slice`.
        classes: names of the outputs, for the legend.
        points: places to mark: (a, b, label).
    """
    plt = pyplot()
    from matplotlib import colormaps
    from matplotlib.collections import PolyCollection
    from matplotlib.patches import Patch

    figure, axes = plt.subplots(figsize=(6.4, 6.0), layout="constrained")
    pieces = found.by_class()
    palette = colormaps["tab10" if len(found.values[0][0]) <= 10 else "tab20"]
    colors = [palette(k % palette.N) for k, _ in pieces]
    filled = PolyCollection([p for _, p in pieces], facecolors=colors, alpha=0.45)
    filled.set_antialiased(False)  # no seams between pieces of one colour
    axes.add_collection(filled)
    axes.add_collection(
        PolyCollection(found.polygons, facecolors="none", edgecolors="#202020", linewidths=0.35)
    )
    for a, b, label in points:
        axes.plot([a], [b], "o", color="black", markersize=4)
        axes.annotate(label, (a, b), textcoords="offset points", xytext=(5, 5), fontsize=9)
    axes.set(xlim=(-1, 1), ylim=(-1, 1), aspect="equal", xlabel="a", ylabel="b")
    axes.set_title(f"{found.regions:,} regions", fontsize=10)
    if classes is not None:
        present = sorted({k for k, _ in pieces})
        handles = [
            Patch(color=palette(k % palette.N), alpha=0.45, label=classes[k]) for k in present
        ]
        axes.legend(handles=handles, fontsize=8, loc="upper right", framealpha=0.9)
    return save_figure(plt, figure, path)


def plane_through(x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``origin, u, v`` of a slice such that x, y and z lie at (-½, -½), (½, -½) and (-½, ½).

    Example:
        >>> import torch
        >>> from polygraph.report.lens_pictures import plane_through
        >>> x, y, z = torch.tensor([[0.0, 0], [1, 0], [0, 1]])
        >>> origin, u, v = plane_through(x, y, z)
        >>> torch.equal(origin + 0.5 * u - 0.5 * v, y)
        True
    """
    u, v = y - x, z - x
    return x + (u + v) / 2, u, v


def top_names(found: AffineMap, names: Sequence[str], row: int, count: int = 3) -> list[str]:
    """``name: ⟨A, x⟩ + b = f`` of the largest outputs of a sample, largest first."""
    order = torch.argsort(found.value[row], descending=True)[:count].tolist()
    return [
        f"{names[k]}: {float(found.inner[row, k]):+.2f} {float(found.b[row, k]):+.2f} = "
        f"{float(found.value[row, k]):+.2f}"
        for k in order
    ]
