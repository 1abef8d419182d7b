"""A window with meshes, point clouds and their graphs. Needs the extra ``[open3d]`` and a screen.

What is shown is worked out first, as plain arrays (`load_items`, `color_items`, `lay_out`); open3d
draws it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polygraph._files import read_regular
from polygraph.mesh.cloud import CLOUDS, as_open3d, import_open3d, poisson_disk, read_cloud
from polygraph.mesh.formats.ply import HEADER_BYTES, announces_faces
from polygraph.mesh.io import MOST_BYTES, READABLE, Mesh, MeshError, check_topology, read_mesh
from polygraph.report.render import error_colors

Floats = NDArray[np.float64]
HELP = "space plays and halts, left and right step, g shows the graph, r resets the view, q leaves"
_GREY = (0.52, 0.56, 0.62)
_DIM = 0.72  # open3d's lights add up to more than one: pale colours would all be white
_POINT = (0.05, 0.36, 0.68)
_LINE = (0.62, 0.68, 0.76)
_SPACE, _RIGHT, _LEFT = 32, 262, 263  # keys as GLFW counts them


@dataclass(frozen=True, eq=False)
class Frame:
    """One thing at one moment.

    Attributes:
        points: float64 [N, 3].
        faces: int64 [F, 3], or None for a point cloud.
        errors: [N] in mm, or None.
        colors: [N, 3] in [0, 1], or None for the plain colour.
        edges: int64 [E, 2] of the k-NN graph, or None.
    """

    points: Floats
    faces: NDArray[np.int64] | None
    errors: Floats | None = None
    colors: Floats | None = None
    edges: NDArray[np.int64] | None = None


@dataclass(frozen=True, eq=False)
class Item:
    """A file, or a folder of files that are played one after the other.

    Attributes:
        name: of the file or folder.
        frames: one at least.
    """

    name: str
    frames: list[Frame]


def load_items(
    paths: Sequence[str | Path], *, knn: int = 0, sample: int = 0, seed: int = 0
) -> list[Item]:
    """Read files and folders.

    Args:
        paths: meshes (.ply, .obj, .off, .stl), clouds (.pcd, .xyz, .ply without faces), and folders
            of them, whose files are read in natural order.
        knn: neighbours in the graph of each cloud; 0 draws none.
        sample: turn each mesh into a cloud of so many points by Poisson-disk sampling; 0 does not.
        seed: of the sampling.

    Raises:
        MeshError: a file is missing or damaged, a folder holds nothing that can be shown.
        ValueError: ``knn`` or ``sample`` is negative, ``knn`` exceeds the number of other points.
    """
    if knn < 0 or sample < 0:
        raise ValueError(f"view: knn and sample must be 0 or more, got {knn} and {sample}")
    items = []
    for path in map(Path, paths):
        frames = [_read(file) for file in _files(path)]
        if sample:
            frames = [_sampled(frame, sample, seed) for frame in frames]
        if knn:
            frames = [_with_graph(frame, knn, path) for frame in frames]
        items.append(Item(path.name, frames))
    return items


def _files(path: Path) -> list[Path]:
    from polygraph._files import natural_key

    if not path.is_dir():
        return [path]
    known = {*READABLE, *CLOUDS}
    files = [f for f in path.iterdir() if f.suffix.lower() in known and f.name[0] != "."]
    if not files:
        raise MeshError(f"{path}: no meshes or clouds here ({', '.join(sorted(known))})")
    return sorted(files, key=lambda file: natural_key(file.name))


def _read(path: Path) -> Frame:
    suffix = path.suffix.lower()
    if suffix in CLOUDS and (suffix not in READABLE or not _has_faces(path)):
        return Frame(read_cloud(path), None)
    mesh = read_mesh(path)
    return Frame(mesh.vertices, mesh.faces)


def _has_faces(path: Path) -> bool:
    """Whether the header of a .ply file announces faces."""
    head = read_regular(path, MOST_BYTES, MeshError, first=HEADER_BYTES)
    return announces_faces(head, str(path))


def _sampled(frame: Frame, count: int, seed: int) -> Frame:
    if frame.faces is None:
        return frame
    return Frame(poisson_disk(Mesh(frame.points, frame.faces), count, seed=seed), None)


def _with_graph(frame: Frame, k: int, path: Path) -> Frame:
    if frame.faces is not None:
        return frame
    if k >= len(frame.points):
        raise ValueError(f"view: knn must be below the {len(frame.points)} points of {path}")
    return replace(frame, edges=knn_edges(frame.points, k))


def knn_edges(points: Floats, k: int) -> NDArray[np.int64]:
    """Undirected edges ``[E, 2]`` between every point and its k nearest others, each edge once."""
    import torch

    from polygraph.ops import knn

    centered = torch.from_numpy(points - points.mean(axis=0)).float()
    index = knn(centered[None], k=k, exclude_self=True)[0][0].numpy()
    pairs = np.stack([np.repeat(np.arange(len(points)), k), index.reshape(-1)], axis=1)
    edges: NDArray[np.int64] = np.unique(np.sort(pairs, axis=1), axis=0)
    return edges


def color_items(
    items: Sequence[Item],
    reference: Item,
    *,
    to_mm: float = 1000.0,
    vmax: float | None = None,
) -> tuple[list[Item], float]:
    """Colour every mesh by the distance of its vertices from those of a reference.

    Args:
        items: meshes of the reference's topology.
        reference: one frame, for all frames, or as many as each item has.
        to_mm: millimetres per unit.
        vmax: where the scale ends; default the 98th percentile of all errors.

    Returns:
        The items with errors and colours, and the end of the scale in mm.

    Raises:
        MeshError: other topology.
        ValueError: another number of frames.
    """
    measured = [Item(item.name, _measured(item, reference, to_mm)) for item in items]
    frames = [frame for item in measured for frame in item.frames]
    errors = np.concatenate([frame.errors for frame in frames if frame.errors is not None])
    top = max(float(np.percentile(errors, 98)), 1e-9) if vmax is None else vmax
    painted = [
        Item(
            item.name,
            [
                replace(f, colors=None if f.errors is None else error_colors(f.errors, top))
                for f in item.frames
            ],
        )
        for item in measured
    ]
    return painted, top


def _measured(item: Item, reference: Item, to_mm: float) -> list[Frame]:
    count = len(reference.frames)
    if count not in (1, len(item.frames)):
        raise ValueError(
            f"view: the reference must have 1 frame or the {len(item.frames)} of {item.name}, "
            f"got {count}"
        )
    frames = []
    for number, frame in enumerate(item.frames):
        true = reference.frames[number % count]
        if frame.faces is None or true.faces is None:
            raise MeshError(f"view: errors are of meshes; {item.name} or the reference is a cloud")
        ours, theirs = Mesh(frame.points, frame.faces), Mesh(true.points, true.faces)
        check_topology(ours, theirs, item.name, reference.name)
        errors = to_mm * np.linalg.norm(frame.points - true.points, axis=1)
        frames.append(replace(frame, errors=errors))
    return frames


def lay_out(items: Sequence[Item], gap: float = 0.15) -> list[Item]:
    """Put items side by side along x, each on the middle of its first frame."""
    out, x = [], 0.0
    for item in items:
        first = item.frames[0].points
        low, high = first.min(axis=0), first.max(axis=0)
        width = float(high[0] - low[0]) or float((high - low).max()) or 1.0
        shift = np.array([x - low[0], *(-(low + high)[1:] / 2)])
        out.append(Item(item.name, [replace(f, points=f.points + shift) for f in item.frames]))
        x += (1 + gap) * width
    return out


class Window:
    """What is on the screen, and what the keys do.

    Args:
        items: laid out already.
        fps: frames per second when played.
        point_size: of clouds, in pixels.
        up: axis that points up.

    Raises:
        RuntimeError: there is no screen.
        ImportError: open3d is missing, see `polygraph.mesh.cloud.import_open3d`.
    """

    def __init__(
        self,
        items: Sequence[Item],
        *,
        fps: float = 12.0,
        point_size: float = 4.0,
        up: str = "y",
        size: tuple[int, int] = (1280, 800),
        title: str = "polygraph",
    ) -> None:
        self.items, self.fps = list(items), fps
        self.number, self.playing, self.graph = 0, False, True
        self.length = max(len(item.frames) for item in self.items)
        self._up = up
        self._turned = 0.0
        self._open3d = import_open3d()
        self._screen = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
        self._window = self._open3d.visualization.VisualizerWithKeyCallback()
        made = False
        with self._quiet():
            made = self._window.create_window(title, *size)
        if not made:
            raise RuntimeError(f"view: no window can be opened: {_no_screen()}")
        options = self._window.get_render_option()
        options.point_size = point_size
        options.background_color = np.array([0.975, 0.98, 0.985])
        options.mesh_show_back_face = True
        options.mesh_shade_option = self._open3d.visualization.MeshShadeOption.Color
        self._shown: list[Any] = []
        self.draw(first=True)
        self._bind()

    def _quiet(self) -> Any:
        utility = self._open3d.utility
        return utility.VerbosityContextManager(utility.VerbosityLevel.Error)

    def _bind(self) -> None:
        for key, action in (
            (_SPACE, self.toggle),
            (_RIGHT, lambda: self.step(1)),
            (_LEFT, lambda: self.step(-1)),
            (ord("G"), self.toggle_graph),
            (ord("R"), self.home),
        ):
            self._window.register_key_callback(key, _callback(action))
        self._window.register_animation_callback(_callback(self.advance))

    def draw(self, first: bool = False) -> None:
        """Put the current frames on the screen; the view stays as it is but for the first."""
        for shape in self._shown:
            self._window.remove_geometry(shape, reset_bounding_box=False)
        frames = [item.frames[self.number % len(item.frames)] for item in self.items]
        self._shown = [s for frame in frames for s in shapes(frame, self._open3d, self.graph)]
        for shape in self._shown:
            self._window.add_geometry(shape, reset_bounding_box=first)
        if first:
            self.home()

    def home(self) -> None:
        """Look at everything from the front, a little from above and from the side."""
        control = self._window.get_view_control()
        front = {"y": [0.2, 0.2, 1.0], "z": [0.2, -1.0, 0.2], "x": [0.2, 0.2, 1.0]}[self._up]
        self._window.reset_view_point(True)
        control.set_front(front)
        control.set_up({"x": [1, 0, 0], "y": [0, 1, 0], "z": [0, 0, 1]}[self._up])
        control.set_zoom(0.5)

    def step(self, by: int) -> None:
        """Go on by so many frames, from the last to the first."""
        self.number = (self.number + by) % self.length
        self.draw()

    def toggle(self) -> None:
        """Play or halt."""
        self.playing = not self.playing and self.length > 1

    def toggle_graph(self) -> None:
        """Show or hide the graphs."""
        self.graph = not self.graph
        self.draw()

    def advance(self) -> None:
        """The next frame, when it is time for it."""
        now = time.monotonic()
        if self.playing and now - self._turned >= 1 / self.fps:
            self._turned = now
            self.step(1)

    def run(self) -> None:
        """Show the window until it is closed.

        Raises:
            RuntimeError: there is no screen: the window would be drawn for nobody.
        """
        if sys.platform.startswith("linux") and not self._screen:
            self.close()
            raise RuntimeError(f"view: {_no_screen()}")
        self.playing = self.length > 1
        self._window.run()
        self.close()

    def screenshot(self, path: str | Path) -> Path:
        """Write what the window shows as a PNG."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._window.poll_events()
        self._window.update_renderer()
        self._window.capture_screen_image(str(path), do_render=True)
        if not path.is_file():
            raise OSError(f"view: no picture was written to {path}")
        return path

    def close(self) -> None:
        """Close the window."""
        self._window.destroy_window()


def _no_screen() -> str:
    where = os.environ.get("DISPLAY")
    why = f"the screen {where} does not answer" if where else "there is no screen"
    return f"{why} (DISPLAY); --screenshot out.png draws a picture without one"


def _callback(action: Any) -> Any:
    def called(_: Any) -> bool:
        action()
        return True

    return called


def shapes(frame: Frame, open3d: Any, graph: bool = True) -> list[Any]:
    """What open3d draws of a frame: a shaded mesh, or points and the lines of their graph."""
    vector = open3d.utility.Vector3dVector
    if frame.faces is not None:
        mesh = as_open3d(Mesh(frame.points, frame.faces), open3d)
        mesh.compute_vertex_normals()
        if frame.colors is None:
            mesh.paint_uniform_color(_GREY)
        else:
            mesh.vertex_colors = vector(_DIM * frame.colors)
        return [mesh]
    cloud = open3d.geometry.PointCloud(vector(frame.points))
    cloud.paint_uniform_color(_POINT)
    if frame.edges is None or not graph:
        return [cloud]
    lines = open3d.geometry.LineSet(
        vector(frame.points), open3d.utility.Vector2iVector(frame.edges.astype(np.int32))
    )
    lines.paint_uniform_color(_LINE)
    return [cloud, lines]
