"""Take the noise out of the vertices of a mesh or a point cloud, for `polygraph denoise`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from polygraph.cli.parser import UsageError

SHAPES = (".ply", ".obj", ".off", ".stl", ".pcd", ".xyz")
_CLOUDS = (".ply", ".xyz", ".npy")
_PLY = """ply
format binary_little_endian 1.0
element vertex {}
property double x
property double y
property double z
end_header
"""


def denoise_shape(chosen: Any) -> int:
    """Do what the words of `polygraph denoise` ask for, of a mesh or a cloud.

    Args:
        chosen: the parsed words.

    Returns:
        The exit status.

    Raises:
        UsageError: several runs, or an option that is of pictures.
    """
    if len(chosen.run) > 1:
        raise UsageError(f"denoise: --run of meshes and clouds must be one, got {len(chosen.run)}")
    if chosen.sigma is not None:
        raise UsageError("denoise: --sigma is of pictures: the run of a mesh or cloud is given")
    from polygraph.mesh.cloud import read_cloud
    from polygraph.mesh.io import READABLE, Mesh, read_mesh, write_mesh
    from polygraph.tasks.denoise.vertex_run import load_vertex_run

    source, out = Path(chosen.picture), Path(chosen.out)
    trained = load_vertex_run(chosen.run[0])
    suffixes = READABLE if trained.kind == "mesh" else _CLOUDS
    if out.suffix.lower() not in suffixes:
        raise UsageError(
            f"denoise: out must end in {', '.join(suffixes)} for a run of kind {trained.kind}, got "
            f"{chosen.out!r}"
        )
    faces = None
    if trained.kind == "mesh":
        mesh = read_mesh(source)
        vertices, faces = mesh.vertices, mesh.faces
    else:
        vertices = read_cloud(source)
    start = time.perf_counter()
    try:
        made = trained.denoise(vertices, faces)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    seconds = time.perf_counter() - start
    out.parent.mkdir(parents=True, exist_ok=True)
    if faces is not None:
        write_mesh(out, Mesh(made, faces))
    else:
        _write_cloud(out, made)
    moved = float(((made - vertices) ** 2).sum(1).mean() ** 0.5)
    row = {
        "shape": chosen.picture,
        "out": chosen.out,
        "run": str(trained.folder),
        "kind": trained.kind,
        "vertices": len(made),
        "moved_rms": moved,
        "trained_for": list(trained.sigma),
        "seconds": round(seconds, 3),
    }
    if chosen.json:
        print(json.dumps(row))
        return 0
    print(
        f"{chosen.picture}: {len(made):,} vertices, moved by {moved:.4g} (root mean square), "
        f"{seconds:.1f} s\n{out.resolve()}"
    )
    return 0


def _write_cloud(path: Path, points: Any) -> None:
    import io

    import numpy as np

    from polygraph._files import write_atomic

    suffix = path.suffix.lower()
    if suffix == ".npy":
        buffer = io.BytesIO()
        np.save(buffer, points, allow_pickle=False)
        write_atomic(path, buffer.getvalue())
    elif suffix == ".ply":
        write_atomic(path, _PLY.format(len(points)).encode() + points.astype("<f8").tobytes())
    else:
        lines = "".join(f"{x!r} {y!r} {z!r}\n" for x, y, z in points.tolist())
        write_atomic(path, lines.encode())
