"""Meshes, and a denoiser of their vertices that trains in a second."""

import numpy as np

from support.mesh_shapes import sphere

#: words of a run
QUICK_VERTICES = {
    "kind": "mesh",
    "width": 4,
    "model": {"blocks": 1, "k": 4, "rank": 2, "spiral_length": 7, "local_k": 6},
    "steps": 6,
    "batch_size": 4,
    "eval_every": 3,
    "accelerator": "cpu",
    "progress": False,
}


def few_meshes(count=8):
    """Spheres that are stretched; float32 ``[count, V, 3]`` and faces ``[F, 3]``."""
    vertices, faces = sphere()
    scales = 1 + np.random.default_rng(0).random((count, 1, 3))
    return (np.asarray(vertices) * scales).astype(np.float32), np.asarray(faces)
