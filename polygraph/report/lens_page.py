"""A page of the regions in a plane, to look around in: one HTML file without network or server.

Under the pointer are the region's code, its affine map and its outputs; all of it is what
`SplineLens` says, packed into the page, and the script only looks it up.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polygraph._files import write_atomic
from polygraph.analysis.codes import PackedCodes, pack_codes
from polygraph.analysis.spline import AffineMap, Slice, SplineLens
from polygraph.analysis.spline.slices import TooManyRegions
from polygraph.report.lens_pictures import plane_through
from polygraph.report.page import embedded, fill, script
from polygraph.report.render import ERROR_COLORS

MAX_MB = 12.0
#: of outputs, in turn: Okabe and Ito's colours, then Tol's muted ones
CLASS_COLORS = (
    *("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#f0e442", "#8b95a3"),
    *("#332288", "#aa4499", "#117733", "#882255", "#44aa99", "#999933", "#ddcc77", "#cc6677"),
)
_ROOM = 1.4  # bytes of the page for a byte packed
_CODES = 0.4  # of what is left for codes and maps, at most for codes
_HALVINGS = 24  # of a plane that has too many regions
_LARGEST = 65_536  # numbers of an input or template that is drawn

Point = tuple[float, float, str]  # a, b, label


def write_slice_page(
    path: str | Path,
    lens: SplineLens,
    origin: Tensor,
    u: Tensor,
    v: Tensor,
    *,
    found: Slice | None = None,
    names: Sequence[str] | None = None,
    points: Sequence[Point] = (),
    title: str = "Regions in a plane",
    max_mb: float = MAX_MB,
) -> Path:
    """Write the regions of ``origin + a u + b v`` as a page in which one looks around.

    The pointer asks for a place: the page shows the input there, the outputs, each as ``⟨A, x⟩ +
    b``, the template of the largest one, and what the network chooses at each layer. A click pins a
    region, and others are told by how many choices differ.

    Args:
        path: of the page, .html; its folder is made.
        lens: of the network.
        origin: float64 ``[*in_shape]``, as of `SplineLens.slice`.
        u: ditto.
        v: ditto.
        found: that slice, if it is there already.
        names: of the outputs; default: their numbers.
        points: places to mark: (a, b, label).
        title: heading of the page.
        max_mb: size to stay below, in millions of bytes: templates of all outputs, then those of
            the largest output, and the codes of the widest layers are left out to fit.

    Returns:
        The path of the page.

    Raises:
        ValueError: another ending than .html, other names than outputs, the network is not
            piecewise affine, or the regions alone do not fit into ``max_mb``.
        NotImplementedError: see `SplineLens.slice`.
        OSError: the file cannot be written.

    Example:
        >>> import tempfile, torch
        >>> from pathlib import Path
        >>> from polygraph.analysis import SplineLens
        >>> from polygraph.report.lens_page import write_slice_page
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2))
        >>> lens, eye = SplineLens(net.double()), torch.eye(2, dtype=torch.float64)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     page = write_slice_page(Path(folder) / "a.html", lens, 0 * eye[0], eye[0], eye[1])
        ...     "polygraph lens" in page.read_text()
        True

    See Also:
        `polygraph.report.lens_pictures.slice_figure`.
    """
    path = Path(path)
    if path.suffix.lower() != ".html":
        raise ValueError(f"write_slice_page: path must end in .html, got {path.name!r}")
    found = lens.slice(origin, u, v) if found is None else found
    content = slice_payload(lens, (origin, u, v), found, names, points, budget=1e6 * max_mb)
    values = {"title": title, "data": embedded(content), "script": script("slice_main.js")}
    text = fill("slice.html", values, styles=("report.css", "slice.css"))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text.encode())
    return path


def widest_slice(
    lens: SplineLens, x: Tensor, y: Tensor, z: Tensor, most: int
) -> tuple[tuple[Tensor, Tensor, Tensor], Slice, float]:
    """The plane through three inputs, or as much of it around the first as has few regions.

    Args:
        lens: of the network.
        x: float64 ``[*in_shape]``.
        y: ditto.
        z: ditto.
        most: regions.

    Returns:
        ``origin, u, v``; the slice; which part of the distances from x to y and z the plane reaches
        to every side of x: 0: it is the one of `polygraph.report.lens_pictures.plane_through`.

    Raises:
        ValueError: as of `SplineLens.slice`, or there is no part of the plane with so few regions.
    """
    plane = plane_through(x, y, z)
    try:
        return plane, lens.slice(*plane, most=most), 0.0
    except TooManyRegions:
        pass
    for halvings in range(1, _HALVINGS):
        part = 0.5**halvings
        plane = (x, part * (y - x), part * (z - x))
        try:
            return plane, lens.slice(*plane, most=most), part
        except TooManyRegions:
            continue
    raise ValueError(f"widest_slice: no part of the plane has at most {most:,} regions")


def slice_payload(
    lens: SplineLens,
    plane: tuple[Tensor, Tensor, Tensor],
    found: Slice,
    names: Sequence[str] | None = None,
    points: Sequence[Point] = (),
    *,
    budget: float = 1e6 * MAX_MB,
) -> dict[str, Any]:
    """Everything that the page shows, as JSON values; arguments as of `write_slice_page`."""
    outputs = found.values[0].shape[1]
    names = [str(k) for k in range(outputs)] if names is None else [str(n) for n in names]
    if len(names) != outputs:
        raise ValueError(
            f"write_slice_page: names must be those of {outputs} outputs, got {len(names)}"
        )
    origin, u, v = (t.detach() for t in plane)
    places = torch.from_numpy(np.array([corners.mean(0) for corners in found.polygons]))
    inputs = origin + torch.tensordot(places.to(origin), torch.stack([u, v]), dims=1)
    affine, codes = _looked_at(lens, inputs)
    pieces = found.by_class() if outputs > 1 else [(0, p) for p in found.polygons]
    marked = torch.stack([origin, *(origin + a * u + b * v for a, b, _ in points)])
    content: dict[str, Any] = {
        "names": names,
        "colors": [CLASS_COLORS[k % len(CLASS_COLORS)] for k in range(outputs)],
        "ramp": list(ERROR_COLORS),
        "points": [[float(a), float(b), str(label)] for a, b, label in points],
        "polygons": _polygons(found.polygons),
        "pieces": {"class": [k for k, _ in pieces], **_polygons([p for _, p in pieces])},
        "planes": _packed(_planes(found)),
        "bias": _packed(affine.b.double().cpu().numpy().astype("<f4")),
        "picture": _picture(plane, marked),
        "network": repr(lens),
    }
    left = budget - len(json.dumps(content)) - 60_000  # the script, the style
    if left < 0:
        raise ValueError(
            f"write_slice_page: {found.regions:,} regions do not fit into {budget / 1e6:g} MB: "
            "choose a smaller plane, or raise max_mb"
        )
    content["codes"] = _codes(codes, _CODES * left)
    left -= len(json.dumps(content["codes"]))
    content["templates"] = _templates(affine, content["picture"], left)
    return content


def _looked_at(lens: SplineLens, inputs: Tensor) -> tuple[AffineMap, PackedCodes]:
    """Affine maps and codes at some inputs."""
    if lens.batched:
        parts = [pack_codes(lens.codes(part)) for part in torch.split(inputs, 64)]
        return lens.affine(inputs), PackedCodes.cat(parts)
    maps = [lens.affine(x) for x in inputs]
    chosen = [{n: c[None] for n, c in lens.codes(x).items()} for x in inputs]
    joined = AffineMap(
        torch.cat([m.A for m in maps]),
        torch.cat([m.b for m in maps]),
        torch.cat([m.value for m in maps]),
        maps[0].outputs,
        max(m.residual for m in maps),
    )
    return joined, PackedCodes.cat([pack_codes(c) for c in chosen])


def _packed(values: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode("ascii")


def _polygons(polygons: Sequence[NDArray[np.float64]]) -> dict[str, Any]:
    """Corners of all of them one after the other, and how many each has."""
    return {
        "count": [len(p) for p in polygons],
        "corners": _packed(np.concatenate(polygons).astype("<f4")),
    }


def _planes(found: Slice) -> NDArray[np.float32]:
    """``[R, K, 3]``: outputs are ``p0 + p1 a + p2 b`` in a region."""
    solved = []
    for corners, values in zip(found.polygons, found.values, strict=True):
        middle = corners.mean(0)
        near = corners - middle
        slope, *_ = np.linalg.lstsq(near, values - values.mean(0), rcond=None)
        start = values.mean(0) - middle @ slope
        solved.append(np.column_stack([start, slope.T]))
    return np.array(solved, dtype="<f4")


def _picture(plane: tuple[Tensor, Tensor, Tensor], marked: Tensor) -> dict[str, Any] | None:
    """How inputs are drawn, and the plane; None: they are too large."""
    shape = list(plane[0].shape)
    if plane[0].numel() > _LARGEST:
        return None
    image = len(shape) == 3 and shape[0] in (1, 3)
    channels, size = (shape[0], shape[1:]) if image else (1, _rows_and_columns(shape))
    return {
        "channels": channels,
        "height": size[0],
        "width": size[1],
        "image": image,
        "low": float(marked.min()),
        "high": float(marked.max()),
        "plane": [_packed(t.double().cpu().numpy().astype("<f4")) for t in plane],
    }


def _rows_and_columns(shape: Sequence[int]) -> list[int]:
    """Of the table that an input which is no image is drawn as."""
    if len(shape) < 2:
        return [1, shape[0] if shape else 1]
    return [int(shape[0]), int(np.prod(shape[1:]))]


def _codes(codes: PackedCodes, budget: float) -> list[dict[str, Any]]:
    """What is chosen at each site, a row of bytes for each region; the widest ones may lack."""
    width = {name: t.shape[1] * t.element_size() for name, t in codes.sites.items()}
    kept, room = set(), budget / _ROOM / max(1, len(codes))
    for name in sorted(width, key=lambda n: width[n]):
        if width[name] <= room:
            kept.add(name)
            room -= width[name]
    return [
        {
            "name": name,
            "entries": codes.entries[name],
            "bytes": 0 if t.dtype == torch.uint64 else t.element_size(),
            "rows": _packed(t.contiguous().numpy()) if name in kept else None,
        }
        for name, t in codes.sites.items()
    ]


def _templates(
    affine: AffineMap, picture: dict[str, Any] | None, budget: float
) -> dict[str, Any] | None:
    """Templates as bytes, the largest of a template's numbers being 127; None: there is no room.

    Of images they are the means over channels; of all outputs, or of the largest in the middle of
    each region.
    """
    if picture is None:
        return None
    count, outputs = affine.b.shape
    pixels = picture["height"] * picture["width"]
    size = _ROOM * count * pixels
    winner = affine.value.argmax(1)
    if outputs * size <= budget:
        shown, every = affine.A, True
    elif size <= budget:
        shown, every = affine.A[torch.arange(count), winner][:, None], False
    else:
        return None
    flat = shown.reshape(count, shown.shape[1], picture["channels"], pixels).mean(2)
    limit = flat.abs().amax(2, keepdim=True).clamp_min(1e-30)
    return {
        "every": every,
        "of": winner.tolist(),
        "limit": _packed(limit.double().cpu().numpy().astype("<f4")),
        "bytes": _packed((127 * flat / limit).round().cpu().numpy().astype(np.int8)),
    }
