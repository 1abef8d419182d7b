"""Mesh autoencoders: training, finished runs, walks in their codes."""

from polygraph.tasks import Command


def command() -> Command:
    """What `polygraph train mesh` calls."""
    from polygraph.tasks.mesh.arguments import parse_train_mesh
    from polygraph.tasks.mesh.training import describe_result, train_mesh

    return Command(parse_train_mesh, train_mesh, describe_result)
