"""
Point clouds: k-NN graphs, DynamicEdgeConv, DGCNN
=================================================

A point cloud has no edges. `knn_graph` makes them, `DynamicEdgeConv` makes them anew in every layer
from the features there, and `DGCNNClassifier` is the network of Wang et al. (2019) out of these.
"""

# %%
# Neighbours
# ----------
# The list of neighbours is exact, sorted, the same on every device and for every number of threads.
import tempfile

import matplotlib.pyplot as plt
import numpy as np
import plotly.graph_objects as go
import torch

from polygraph.data import ShapeDataConfig, open_shapes
from polygraph.nn import DynamicEdgeConv, knn_graph
from polygraph.ops import knn
from polygraph.tasks import points

shapes = open_shapes(ShapeDataConfig(num_shapes=60, num_points=256))
torus = torch.tensor(shapes.points[4])
edge_index = knn_graph(torus, k=8)
print(edge_index.shape, "edges: row 0 sources, row 1 targets, as PyG has them")

figure = plt.figure(figsize=(7, 3.6), layout="constrained")
for place, k in enumerate((4, 16), 1):
    axes = figure.add_subplot(1, 2, place, projection="3d")
    source, target = knn_graph(torus, k=k)
    lines = torch.stack([torus[source], torus[target]], 1).numpy()[:, :, [0, 2, 1]]
    for line in lines:
        axes.plot(*line.T, color="#5b2a86", linewidth=0.4, alpha=0.6)
    axes.scatter(*torus.numpy()[:, [0, 2, 1]].T, s=5, color="#e8743b")
    axes.set_title(f"k = {k}")
    axes.set_axis_off()
    axes.set_box_aspect((1, 1, 0.6), zoom=1.5)
plt.show()

# %%
# The cloud with its edges for k = 8, to be turned with a finger or the mouse. The colour of a point
# says of how many others it is a neighbour: a graph of nearest neighbours is not symmetric.
source, target = edge_index
gaps = torch.full((len(source), 3), torch.nan)  # between two lines
lines = torch.stack([torus[source], torus[target], gaps], 1).reshape(-1, 3)
count = torch.bincount(source, minlength=len(torus))
edges = go.Scatter3d(
    **dict(zip("xzy", lines.T.numpy())),
    mode="lines",
    line={"color": "#b8a6c9", "width": 1},
    hoverinfo="skip",
)
nodes = go.Scatter3d(
    **dict(zip("xzy", torus.T.numpy())),
    mode="markers",
    marker={"size": 4, "color": count, "colorscale": "Plasma", "colorbar_title": "neighbour of"},
)
hidden = {f"{axis}axis_visible": False for axis in "xyz"}
go.Figure(
    [edges, nodes],
    layout={
        "scene": hidden | {"aspectmode": "data"},
        "margin": dict(l=0, r=0, t=0, b=0),
        "showlegend": False,
    },
)

# %%
# `polygraph.ops.knn` gives tables instead of edges, for batches, and squared distances that can be
# differentiated.
clouds = torch.tensor(shapes.points[:8])  # [8, 256, 3]
index, dist2 = knn(clouds, k=16, exclude_self=True)
print(index.shape, dist2.shape)

# %%
# A dynamic layer
# ---------------
# The graph is made from the features that come in. Linear layers, BatchNorm and the activation are
# computed with the maximum in one kernel.
mlp = torch.nn.Sequential(torch.nn.Linear(6, 64), torch.nn.BatchNorm1d(64), torch.nn.LeakyReLU(0.2))
layer = DynamicEdgeConv(mlp, k=16)
batch = torch.arange(8).repeat_interleave(256)
features = layer(clouds.reshape(-1, 3), batch)
print(features.shape)

# %%
# Train a classifier
# ------------------
# Data may be an ``.npz`` archive, a pair of arrays, a data set, or the name of a built-in one. Here
# 200 clouds of five kinds, a small network and few steps; the defaults are those of the paper.
shapes = open_shapes(ShapeDataConfig(num_shapes=200, num_points=128))
run = points.train(
    (shapes.points, shapes.labels),
    tempfile.mkdtemp(),
    steps=80,
    batch_size=16,
    k=10,
    model={"edge_channels": [32, 32, 64], "embedding_channels": 128, "head_channels": [64]},
    seed=0,
)
test = run.evaluate()
print(f"accuracy on the test clouds: {test['accuracy']:.2f}")

# %%
# Use it
# ------
# `run.model` is a module like any other; `run.predict` takes arrays.
fresh = open_shapes(ShapeDataConfig(num_shapes=40, num_points=128, seed=1))
clouds, labels, names = fresh.points[:10], fresh.labels[:10], fresh.classes
guesses = run.predict(clouds)
figure = plt.figure(figsize=(8, 3.6), layout="constrained")
for place, (cloud, label, guess) in enumerate(zip(clouds, labels, guesses), 1):
    axes = figure.add_subplot(2, 5, place, projection="3d")
    right = guess == label
    axes.scatter(*cloud[:, [0, 2, 1]].T, s=3, color="#5b2a86" if right else "#d0342c")
    axes.set_title(names[guess] if right else f"{names[guess]}, not {names[label]}", fontsize=9)
    axes.set_axis_off()
    axes.set_box_aspect(np.ones(3), zoom=1.4)
plt.show()

# %%
# From the command line: ``polygraph train points --help``.
