"""Generators and critics of images, and the classifier that images are scored through."""

from polygraph.tasks import Command


def command() -> Command:
    """What `polygraph train gan` calls."""
    from polygraph.tasks.images.arguments import parse_train_gan
    from polygraph.tasks.images.training import describe_result, train_gan

    return Command(parse_train_gan, train_gan, describe_result)
