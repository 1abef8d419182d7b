"""A classifier of point clouds that trains in a second."""

from polygraph.data import ShapeDataConfig
from polygraph.models import DGCNNClassifierConfig
from polygraph.tasks.points.training import PointsRunConfig, points_train_config

MODEL = DGCNNClassifierConfig(
    k=6, edge_channels=(8, 8), embedding_channels=32, head_channels=(16, 12)
)
DATA = ShapeDataConfig(num_shapes=60, num_points=48)


def tiny_points(**train):
    """A run on a few built-in shapes."""
    settings = {"steps": 12, "batch_size": 8, "eval_every": 4, "accelerator": "cpu", **train}
    return PointsRunConfig(model=MODEL, data=DATA, train=points_train_config(**settings))
