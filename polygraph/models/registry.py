"""Models by name: `create_model` makes one, `list_models` finds the names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from torch import nn

from polygraph._names import did_you_mean
from polygraph.mesh.hierarchy import build_hierarchy
from polygraph.models.denoiser.presets import DENOISER_PRESETS, build_denoiser
from polygraph.models.images.families import build
from polygraph.models.images.image_vae import VAE_PRESETS
from polygraph.models.images.inception import InceptionV3
from polygraph.models.images.presets import CLASSIFIER_PRESETS, PAIRS
from polygraph.models.mesh.mesh_autoencoder import MeshAutoencoder
from polygraph.models.mesh.presets import PRESETS
from polygraph.models.points.dgcnn import (
    DGCNNClassifier,
    DGCNNClassifierConfig,
    DGCNNSegmenter,
    DGCNNSegmenterConfig,
)


def list_models(pattern: str = "*") -> list[str]:
    """The names that `create_model` knows, sorted.

    Args:
        pattern: which of them: ``*`` stands for anything, ``?`` for one character, ``[ab]`` for a
            or b, as in names of files.

    Example:
        >>> from polygraph.models import list_models
        >>> list_models("*spiral*")
        ['first-order-spiralnet++', 'spiralnet++']
        >>> list_models("dgcnn-*")
        ['dgcnn-classifier', 'dgcnn-segmenter']
        >>> list_models("pi/style*/generator")
        ['pi/style-ncp/generator', 'pi/style/generator']

    See Also:
        `create_model`.
    """
    return [name for name in sorted(_MODELS) if fnmatchcase(name, pattern)]


def create_model(name: str, **settings: Any) -> nn.Module:
    """A new model, its weights drawn from torch's global generator, in training mode.

    ====================================  ==========================================================
    ``full-2``, ``neural3dmm``, ...       `MeshAutoencoder`, the presets of `get_preset`. Needs
                                          ``hierarchy``, a `polygraph.mesh.MeshHierarchy` with
                                          spirals of its own; or ``template``, a
                                          `polygraph.mesh.Mesh` or ``(vertices, faces)``, of which
                                          the hierarchy is built with the preset's spirals, and
                                          ``factors`` and ``upsampling`` as of
                                          `polygraph.mesh.build_hierarchy` (by default 4 for each of
                                          the preset's encoder layers).
    ``pi/ncp/generator``,                 Generators and critics of images, the pairs of
    ``pi/ncp/critic``, ...                `polygraph.models.images.presets.PAIRS`.
    ``dgcnn-classifier``                  `DGCNNClassifier`; needs ``num_classes``.
    ``dgcnn-segmenter``                   `DGCNNSegmenter`.
    ``lenet``, ``bed/conv``,              Classifiers of images: `LeNet`, `PixelClassifier`,
    ``spline/small-cnn``, ``resnet18``,   `SplineCNN`, `ResNet`, `SparseCodingClassifier`; the
    ``prodpoly-2211``, ``pinet18``,       names of
    ``sparse/ista``, ...                  `polygraph.models.images.presets.CLASSIFIER_PRESETS`.
    ``vae/conv``, ``vae/bernoulli``       `ImageVAE`; of meshes ``vae-full-2`` and so on.
    ``gcdn``, ``dncnn-10``, ...           Denoisers of pictures: `GCDN`, `DnCNN`; the names of
                                          `polygraph.models.denoiser.presets.DENOISER_PRESETS`.
    ``inception-v3``                      `InceptionV3` without weights, which `load_inception`
                                          reads.
    ====================================  ==========================================================

    Args:
        name: one of `list_models`.
        **settings: what the table says, and fields of the model's config, such as
            ``latent_channels=8`` or ``k=16``, instead of the preset's.

    Returns:
        The module.

    Raises:
        ValueError: an unknown name (the nearest is suggested); a setting that is missing, or has a
            bad value.
        TypeError: an unknown setting (the nearest is suggested).

    Example:
        >>> import torch
        >>> from polygraph.models import create_model
        >>> model = create_model("dgcnn-classifier", num_classes=5, k=4).eval()
        >>> model(torch.randn(2, 32, 3)).shape
        torch.Size([2, 5])
        >>> generator = create_model("small/ncp/generator", latent_channels=16)
        >>> generator(torch.randn(2, 16)).shape
        torch.Size([2, 3, 32, 32])

        A mesh autoencoder, here of a piece of ground:

        >>> import numpy as np
        >>> from scipy.spatial import Delaunay
        >>> vertices = np.random.default_rng(0).random((100, 3))
        >>> faces = Delaunay(vertices[:, :2]).simplices
        >>> model = create_model(
        ...     "full-2", template=(vertices, faces), factors=(2, 2, 2, 2), latent_channels=8
        ... )
        >>> model.encode(torch.rand(16, 100, 3)).shape
        torch.Size([16, 8])

    See Also:
        `list_models`; `MeshAutoencoder.from_pretrained` for a trained model.
    """
    if name not in _MODELS:
        pair = [f"{name}/{side}" for side in ("generator", "critic")]
        if pair[0] in _MODELS:
            raise ValueError(f"create_model: {name!r} is a pair: name {pair[0]!r} or {pair[1]!r}")
        raise ValueError(
            f"create_model: unknown model {name!r}{did_you_mean(name, _MODELS)}; "
            "polygraph.models.list_models() has all names"
        )
    return _MODELS[name](name, settings)


def _config(name: str, config: Any, settings: Mapping[str, Any], more: Sequence[str] = ()) -> Any:
    """The config with these settings; ``more`` are settings that it has no fields for."""
    known = [field.name for field in fields(config)]
    for setting in settings:
        if setting not in known:
            names = [*more, *known]
            raise TypeError(
                f"create_model({name!r}): unknown setting {setting!r}"
                f"{did_you_mean(setting, names)}; known: {', '.join(names)}"
            )
    return replace(config, **settings)


def _make_mesh(name: str, settings: dict[str, Any]) -> nn.Module:
    config, spiral = PRESETS[name]
    own = ("hierarchy", "template", "factors", "upsampling")
    given = {key: settings.pop(key) for key in own if key in settings}
    config = _config(name, config, settings, own)
    hierarchy, template = given.pop("hierarchy", None), given.pop("template", None)
    if (hierarchy is None) == (template is None):
        raise ValueError(
            f"create_model({name!r}): give one of hierarchy (a polygraph.mesh.MeshHierarchy) and "
            "template (a polygraph.mesh.Mesh, or vertices and faces)"
        )
    if hierarchy is not None:
        if given:
            raise ValueError(
                f"create_model({name!r}): {', '.join(given)}: belongs to a template, of which a "
                "hierarchy is built; a hierarchy is given"
            )
        return MeshAutoencoder(config, hierarchy)
    vertices, faces = (
        (template.vertices, template.faces) if hasattr(template, "vertices") else template
    )
    factors = given.pop("factors", (4,) * len(config.encoder_channels))
    built = build_hierarchy(vertices, faces, factors=factors, spiral=spiral, **given)
    return MeshAutoencoder(config, built)


def _make_image(side: str, name: str, settings: dict[str, Any]) -> nn.Module:
    config = getattr(PAIRS[name.rpartition("/")[0]], side)
    return build(_config(name, config, settings))


def _make_known(known: Mapping[str, Any], name: str, settings: dict[str, Any]) -> nn.Module:
    return build(_config(name, known[name], settings))


def _make_denoiser(name: str, settings: dict[str, Any]) -> nn.Module:
    return build_denoiser(_config(name, DENOISER_PRESETS[name], settings))


def _make(
    module: Callable[[Any], nn.Module], config: Any, name: str, settings: dict[str, Any]
) -> nn.Module:
    return module(_config(name, config, settings))


def _make_inception(name: str, settings: dict[str, Any]) -> nn.Module:
    for setting in settings:
        if setting != "num_classes":
            raise TypeError(
                f"create_model({name!r}): unknown setting {setting!r}; known: num_classes"
            )
    return InceptionV3(**settings)


_MODELS: dict[str, Callable[[str, dict[str, Any]], nn.Module]] = {
    **dict.fromkeys(PRESETS, _make_mesh),
    **{
        f"{name}/{side}": partial(_make_image, side)
        for name in PAIRS
        for side in ("generator", "critic")
    },
    "dgcnn-classifier": partial(_make, DGCNNClassifier, DGCNNClassifierConfig()),
    "dgcnn-segmenter": partial(_make, DGCNNSegmenter, DGCNNSegmenterConfig()),
    **dict.fromkeys(CLASSIFIER_PRESETS, partial(_make_known, CLASSIFIER_PRESETS)),
    **dict.fromkeys(VAE_PRESETS, partial(_make_known, VAE_PRESETS)),
    **dict.fromkeys(DENOISER_PRESETS, _make_denoiser),
    "inception-v3": _make_inception,
}
