"""The formats that meshes are written in, as bytes; ``.ply`` and ``.stl`` are binary."""

from __future__ import annotations

import numpy as np

from polygraph.mesh.formats.text import FloatArray, IntArray


def encode_ply(vertices: FloatArray, faces: IntArray) -> bytes:
    """Binary, in single precision where that is exact, else in double."""
    with np.errstate(over="ignore"):
        single = vertices.astype(np.float32)
    exact = bool((single == vertices).all())
    kind = "float" if exact else "double"
    header = (
        f"ply\nformat binary_little_endian 1.0\nelement vertex {len(vertices)}\n"
        f"property {kind} x\nproperty {kind} y\nproperty {kind} z\n"
        f"element face {len(faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    rows = np.empty(len(faces), dtype=[("n", "u1"), ("corners", "<i4", 3)])
    rows["n"], rows["corners"] = 3, faces
    body = single.astype("<f4") if exact else vertices.astype("<f8")
    return header.encode() + body.tobytes() + rows.tobytes()


def encode_obj(vertices: FloatArray, faces: IntArray) -> bytes:
    """Text; the numbers survive bit for bit."""
    lines = [f"v {x!r} {y!r} {z!r}" for x, y, z in vertices.tolist()]
    lines += [f"f {a} {b} {c}" for a, b, c in (faces + 1).tolist()]
    return ("\n".join(lines) + "\n").encode()


def encode_off(vertices: FloatArray, faces: IntArray) -> bytes:
    """Text; the numbers survive bit for bit."""
    lines = ["OFF", f"{len(vertices)} {len(faces)} 0"]
    lines += [f"{x!r} {y!r} {z!r}" for x, y, z in vertices.tolist()]
    lines += [f"3 {a} {b} {c}" for a, b, c in faces.tolist()]
    return ("\n".join(lines) + "\n").encode()


def encode_stl(vertices: FloatArray, faces: IntArray) -> bytes:
    """Binary: float32, loose triangles, normals of length 1 (0 where a triangle is flat)."""
    header = b"polygraph".ljust(80, b"\0") + len(faces).to_bytes(4, "little")
    corners = vertices[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    rows = np.zeros(
        len(corners), dtype=[("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("extra", "<u2")]
    )
    rows["normal"] = np.divide(normals, length, out=np.zeros_like(normals), where=length > 0)
    rows["corners"] = corners
    return header + rows.tobytes()


ENCODERS = {".ply": encode_ply, ".obj": encode_obj, ".off": encode_off, ".stl": encode_stl}
