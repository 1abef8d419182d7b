"""Models by name."""

import numpy as np
import pytest
import torch
from support.mesh_shapes import sphere

from polygraph.mesh import SpiralConfig, build_hierarchy
from polygraph.models import (
    PRESETS,
    DGCNNSegmenter,
    MeshAutoencoder,
    PolynomialGenerator,
    create_model,
    list_models,
)
from polygraph.models.denoiser.presets import DENOISER_PRESETS
from polygraph.models.images.image_vae import VAE_PRESETS
from polygraph.models.images.presets import CLASSIFIER_PRESETS
from polygraph.tasks.gan.presets import GAN_PRESETS

SMALL = {"encoder_channels": (4, 6), "decoder_channels": (6, 4, 3), "latent_channels": 3}
NOT_OF_MESHES = [name for name in list_models() if name not in PRESETS]


def test_names_are_those_of_the_presets():
    # A preset that ends in -b32 trains the pair of the same name otherwise.
    trained = {name.removesuffix("-b32") for name in GAN_PRESETS}
    pairs = {f"{name}/{side}" for name in trained for side in ("generator", "critic")}
    known = {*CLASSIFIER_PRESETS, *VAE_PRESETS, *DENOISER_PRESETS}
    others = {"dgcnn-classifier", "dgcnn-segmenter", "inception-v3"}
    assert set(list_models()) == set(PRESETS) | pairs | known | others
    assert list_models() == sorted(list_models())
    assert list_models("*spiral*") == ["first-order-spiralnet++", "spiralnet++"]
    assert list_models("full-[23]") == ["full-2", "full-3"]
    assert list_models("nothing*") == []


@pytest.mark.parametrize("name", NOT_OF_MESHES)
def test_every_name_makes_a_model(name):
    needs = {"num_classes": 4} if name == "dgcnn-classifier" else {}
    with torch.device("meta"):
        assert isinstance(create_model(name, **needs), torch.nn.Module)


def test_settings_replace_the_presets():
    generator = create_model("small/ncp/generator", latent_channels=5, order=3)
    assert isinstance(generator, PolynomialGenerator)
    assert (generator.config.latent_channels, generator.config.order) == (5, 3)
    assert generator.config.channels == GAN_PRESETS["small/ncp"].generator.channels
    segmenter = create_model("dgcnn-segmenter", num_parts=6)
    assert isinstance(segmenter, DGCNNSegmenter)
    assert segmenter.config.num_parts == 6


def test_mesh_models_take_a_template_or_a_hierarchy():
    vertices, faces = sphere()
    made = create_model("spiralnet++", template=(vertices, faces), factors=(3, 2), **SMALL)
    assert isinstance(made, MeshAutoencoder)
    spiral = SpiralConfig(convention="spiralnet++", length=9)
    hierarchy = build_hierarchy(vertices, faces, factors=(3, 2), spiral=spiral)
    assert made.hierarchy_hash == hierarchy.hash, "the preset's spirals"
    same = create_model("spiralnet++", hierarchy=hierarchy, **SMALL)
    assert same.config == made.config
    assert same(torch.zeros(1, len(vertices), 3)).shape == (1, len(vertices), 3)
    lstsq = create_model(
        "spiralnet++", template=(vertices, faces), factors=(3, 2), upsampling="lstsq", **SMALL
    )
    assert lstsq.hierarchy_hash != hierarchy.hash


@pytest.mark.parametrize(
    ("error", "message", "name", "settings"),
    [
        (ValueError, "unknown model 'ful-2'; did you mean 'full-2'", "ful-2", {}),
        (ValueError, "is a pair: name 'pi/ncp/generator' or 'pi/ncp/critic'", "pi/ncp", {}),
        (
            TypeError,
            r"\('full-2'\): unknown setting 'latents'; did you mean 'latent_channels'",
            "full-2",
            {"latents": 8},
        ),
        (ValueError, "give one of hierarchy .* and template", "full-2", {}),
        (
            ValueError,
            "factors: belongs to a template",
            "full-2",
            {"hierarchy": object(), "factors": (4,)},
        ),
        (ValueError, "num_classes must be set", "dgcnn-classifier", {}),
        (ValueError, "order must be", "small/ncp/generator", {"order": "two"}),
        (
            TypeError,
            "unknown setting 'classes'; known: num_classes",
            "inception-v3",
            {"classes": 2},
        ),
    ],
)
def test_what_does_not_fit_is_said(error, message, name, settings):
    with pytest.raises(error, match=message):
        create_model(name, **settings)


def test_weights_come_from_torchs_generator():
    models = []
    for _ in range(2):
        torch.manual_seed(3)
        models.append(create_model("lenet"))
    for a, b in zip(*(model.parameters() for model in models), strict=True):
        np.testing.assert_array_equal(a.detach().numpy(), b.detach().numpy())
