"""Mesh files as they are written by hand, and what is said of damaged ones."""

import re
import struct

import numpy as np
import pytest

from polygraph.mesh import MeshError, read_mesh

CUBE = np.array([[x, y, z] for x in (0.0, 1) for y in (0, 1) for z in (0, 1)])
QUADS = [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]
SIDES = np.array([t for a, b, c, d in QUADS for t in ([a, b, c], [a, c, d])])


def ply_head(order, num_vertices, num_faces, more="", kind="float", index="int", counts="uchar"):
    axes = "".join(f"property {kind} {axis}\n" for axis in "xyz")
    faces = f"element face {num_faces}\nproperty list {counts} {index} vertex_indices\n"
    return (
        f"ply\nformat {order} 1.0\nelement vertex {num_vertices}\n{axes}{more}{faces}end_header\n"
    )


def write_text(path, vertices, faces):
    """An .obj, .off or text .ply file of polygons."""
    points = "".join(" ".join(f"{x!r}" for x in map(float, p)) + "\n" for p in vertices)
    rows = "".join(f"{len(f)} {' '.join(map(str, f))}\n" for f in faces)
    if path.suffix == ".off":
        text = f"OFF\n{len(vertices)} {len(faces)} 0\n{points}{rows}"
    elif path.suffix == ".ply":
        text = ply_head("ascii", len(vertices), len(faces)) + points + rows
    else:
        text = re.sub("(?m)^", "v ", points.rstrip("\n")) + "\n"
        text += "".join(f"f {' '.join(str(i + 1) for i in f)}\n" for f in faces)
    path.write_text(text)
    return path


def binary_ply(order, vertices, faces):
    sign = "<" if order == "little" else ">"
    data = ply_head(f"binary_{order}_endian", len(vertices), len(faces)).encode()
    data += np.asarray(vertices, sign + "f4").tobytes()
    return data + b"".join(struct.pack(f"{sign}B{len(f)}i", len(f), *f) for f in faces)


def refused(path, words, read=read_mesh):
    with pytest.raises(MeshError, match=words) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ")


def put(tmp_path, name, data):
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path
