"""
Your own meshes, end to end
===========================

From a folder of files to a trained autoencoder that encodes, decodes and walks between shapes. All
meshes must share their faces (they are *registered*): the same vertex is the same place of the body
in each of them.
"""

# %%
# A folder of meshes
# ------------------
# 120 dented balls of 642 vertices stand for yours. Any of .ply, .obj, .off and .stl will do;
# see :doc:`what is read </docs/files>`.
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import plotly.graph_objects as go
import torch

from polygraph.mesh import Mesh, read_mesh, write_mesh
from polygraph.models import MeshAutoencoder
from polygraph.report.render import draw_mesh, error_colormap, make_view
from polygraph.tasks import mesh


def icosphere(times):
    """Vertices [V, 3] and triangles [T, 3] of a ball: an icosahedron, divided again and again."""
    g = (1 + 5**0.5) / 2
    corners = [(-1, g, 0), (1, g, 0), (-1, -g, 0), (1, -g, 0), (0, -1, g), (0, 1, g)]
    corners += [(0, -1, -g), (0, 1, -g), (g, 0, -1), (g, 0, 1), (-g, 0, -1), (-g, 0, 1)]
    near = 2.0 + 1e-6  # the length of an edge
    v = np.array(corners, float)
    close = np.linalg.norm(v[:, None] - v, axis=-1) < near
    triples = [(a, b, c) for a in range(12) for b in range(a) for c in range(b)]
    faces = [t for t in triples if close[t[0], t[1]] and close[t[1], t[2]] and close[t[0], t[2]]]
    faces = [(a, b, c) if np.linalg.det(v[[a, b, c]]) > 0 else (a, c, b) for a, b, c in faces]
    for _ in range(times):
        middles, v, finer = {}, list(v), []
        for a, b, c in faces:
            new = []
            for pair in ((a, b), (b, c), (c, a)):
                key = tuple(sorted(pair))
                if key not in middles:
                    middles[key] = len(v)
                    v.append((v[pair[0]] + v[pair[1]]) / 2)
                new.append(middles[key])
            p, q, r = new
            finer += [(a, p, r), (b, q, p), (c, r, q), (p, q, r)]
        faces = finer
    v = np.array(v)
    return v / np.linalg.norm(v, axis=1, keepdims=True), np.array(faces)


ball, faces = icosphere(3)
folder = Path(tempfile.mkdtemp()) / "balls"
folder.mkdir()
rng = np.random.default_rng(0)
for number in range(120):
    way, stretch = rng.normal(size=3), 1 + 0.4 * rng.random(3)
    way /= np.linalg.norm(way)
    dent = np.exp(-((ball @ way - 1) ** 2) / 0.1)[:, None]
    vertices = 0.1 * ball * stretch * (1 - 0.5 * dent)
    write_mesh(folder / f"{number:03d}.ply", Mesh(vertices, faces))

# %%
# Train
# -----
# The depth of the network and how it coarsens are chosen from the mesh. Lengths are metres unless
# ``to_mm`` says otherwise. A few hundred steps are enough to see something; the default is 16,000.
run = mesh.train(folder, folder.parent / "run", steps=250, latent=8, seed=0)
error = run.evaluate()
print(f"error of the test meshes: {error.mean:.2f} mm (median {error.median:.2f} mm)")

# %%
# Look
# ----
# A mesh that the network has never seen, and what eight numbers keep of it.
seen = read_mesh(folder / "009.ply")
made = run.reconstruct(seen.vertices)
errors = np.linalg.norm(made - seen.vertices, axis=1) * run.to_mm

figure, axes = plt.subplots(1, 2, figsize=(7, 3.4), layout="constrained")
view = make_view(seen.vertices)
draw_mesh(axes[0], seen.vertices, faces, view)
draw_mesh(axes[1], made, faces, view, values=errors, vmax=errors.max())
axes[0].set_title("input")
axes[1].set_title(f"reconstruction, {errors.mean():.1f} mm")
scale = plt.cm.ScalarMappable(plt.Normalize(0, errors.max()), error_colormap())
figure.colorbar(scale, ax=axes, label="vertex error (mm)", shrink=0.8)
plt.show()

# %%
# The same in three dimensions: turn it with a finger or the mouse.
x, y, z = made.T
i, j, k = faces.T
surface = go.Mesh3d(
    x=x, y=y, z=z, i=i, j=j, k=k, intensity=errors, colorscale="Magma_r", colorbar_title="mm"
)
scene = {"xaxis_visible": False, "yaxis_visible": False, "zaxis_visible": False}
go.Figure(
    surface, layout={"scene": scene | {"aspectmode": "data"}, "margin": dict(l=0, r=0, t=0, b=0)}
)

# %%
# Walk between two shapes
# -----------------------
# Codes are vectors; a line between two of them is a sequence of shapes.
first, last = (read_mesh(folder / name).vertices for name in ("009.ply", "019.ply"))
codes = run.encode(np.stack([first, last]))
steps = torch.linspace(0, 1, 5)[:, None]
walk = run.decode((1 - steps) * codes[0] + steps * codes[1])
figure, axes = plt.subplots(1, 5, figsize=(9, 2.2), layout="constrained")
for place, shape in zip(axes, walk):
    draw_mesh(place, shape, faces, view)
plt.show()

# %%
# Keep it
# -------
# The exported folder needs neither the run nor its data.
exported = run.export(folder.parent / "model")
model = MeshAutoencoder.from_pretrained(exported)
print(sorted(path.name for path in exported.iterdir()))
print(f"{sum(p.numel() for p in model.parameters()):,} parameters")

# %%
# From the command line: ``polygraph train mesh DIR --out RUN``, ``polygraph reconstruct``,
# ``polygraph latent``, ``polygraph export``.
