"""Classifiers of point clouds (DGCNN)."""

from polygraph.tasks import Command


def command() -> Command:
    """What `polygraph train points` calls."""
    from polygraph.tasks.points.arguments import parse_train_points
    from polygraph.tasks.points.training import describe_result, train_points

    return Command(parse_train_points, train_points, describe_result)
