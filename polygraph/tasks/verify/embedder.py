"""Embeddings: the network of a classifier whose numbers are no logits, but say whom it sees."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from typing import Any

from torch import Tensor, nn

from polygraph._checks import check_choice
from polygraph.models.images.families import CLASSIFIERS
from polygraph.models.images.presets import CLASSIFIER_PRESETS
from polygraph.models.points.dgcnn import DGCNNClassifier, DGCNNClassifierConfig

#: family -> class of the config, class of the module: of images, and of point clouds
EMBEDDERS: dict[str, tuple[type, type[nn.Module]]] = {
    **CLASSIFIERS,
    "dgcnn": (DGCNNClassifierConfig, DGCNNClassifier),
}
#: name -> config of a family; what it says of inputs and of numbers that come out is the data's
EMBEDDER_PRESETS: dict[str, Any] = {**CLASSIFIER_PRESETS, "dgcnn": DGCNNClassifierConfig()}


def embedder_family(config: Any) -> str:
    """The family that the config of an embedder belongs to.

    Raises:
        TypeError: it is no such config.
    """
    for name, (cls, _) in EMBEDDERS.items():
        if type(config) is cls:
            return name
    raise TypeError(f"train: model must be a config of an embedder, got {config!r}")


def embedder_config(family: str, values: Any) -> Any:
    """The config of a family from its fields, as a checkpoint holds them.

    Raises:
        ValueError: an unknown family, or a field has a bad value.
        TypeError: an unknown field.
    """
    check_choice("checkpoint", "family", family, EMBEDDERS)
    return EMBEDDERS[family][0](**values)


def is_of_points(config: Any) -> bool:
    """Whether an embedder takes point clouds, and no images."""
    return isinstance(config, DGCNNClassifierConfig)


def embedding_fields(config: Any, size: int) -> dict[str, Any]:
    """The fields by which the network of a config gives embeddings of a size.

    Networks for faces have a head for embeddings, with batch normalisation; others give them in the
    place of logits.
    """
    if getattr(config, "block", None) == "ir":
        return {"embedding_channels": size, "embedding_only": True}
    return {"num_classes": size}


def fitted(config: Any, found: dict[str, Any], name: str, preset: str = "") -> Any:
    """The config with the sizes that the data and the embedding want.

    Args:
        config: of a family.
        found: field -> value.
        name: of the data, for messages.
        preset: that the config started from, whose sizes count as left out.

    Raises:
        ValueError: the config says otherwise.
    """
    usual = [{f.name: f.default for f in fields(config)}]
    start: Any = EMBEDDER_PRESETS.get(preset)
    if type(start) is type(config):
        usual.append(asdict(start))
    for field, value in found.items():
        given = getattr(config, field)
        if given not in (value, *(values[field] for values in usual)):
            raise ValueError(
                f"model: {field} must be {value}, for {name}, or be left out, got {given}"
            )
    return replace(config, **found)


class Embedder(nn.Module):
    """A network that gives embeddings, with batch normalisation behind it.

    Only the direction of an embedding counts.

    Args:
        config: of a family of `EMBEDDERS`, with the fields of `embedding_fields` for D.

    Attributes:
        embedding_dim: D.

    Call it with what the family takes, images ``[B, C, H, W]`` in [-1, 1] or clouds ``[B, N, 3]``;
    in training B is at least 2. It returns embeddings ``[B, D]``.

    Example:
        >>> import torch
        >>> from polygraph.models import LeNetConfig
        >>> from polygraph.tasks.verify.embedder import Embedder
        >>> Embedder(LeNetConfig(num_classes=64)).eval()(torch.rand(2, 1, 32, 32)).shape
        torch.Size([2, 64])
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.network = EMBEDDERS[embedder_family(config)][1](config)
        has_head = bool(getattr(config, "embedding_only", False))
        size = config.embedding_channels if has_head else config.num_classes
        self.embedding_dim: int = size
        self.norm = nn.Identity() if has_head else nn.BatchNorm1d(size)

    def forward(self, inputs: Tensor) -> Tensor:
        """Embeddings ``[B, D]``."""
        found: Tensor = self.norm(self.network(inputs))
        return found
