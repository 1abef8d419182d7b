"""Presets by name."""

import dataclasses

import pytest

from polygraph.models import PRESETS, MeshAutoencoder, get_preset
from polygraph.models.mesh.mesh_autoencoder import OPERATORS

NAMES = [
    "first-order",
    *(f"{b}-{n}" for b in ("simple", "full", "skip") for n in (2, 3, 4)),
    *(f"skip-{n}-code" for n in (2, 3, 4)),
]


INSTANCE = {  # parameters with the vertices and spirals of CoMA; first-order has 47,491
    "simple-2": 47_638,
    "simple-3": 47_785,
    "simple-4": 47_932,
    "full-2": 73_846,
    "full-3": 130_234,
    "full-4": 186_622,
    "skip-2": 73_846,
    "skip-3": 130_234,
    "skip-4": 186_622,
}


def test_names():
    noact = [f"{name}-noact" for name in NAMES]
    batchnorm = [f"{name}-batchnorm" for name in ("simple-2", "full-2", "full-3")]
    instance = [f"{name}-instance{rest}" for name in INSTANCE for rest in ("", "-noact")]
    published = ["neural3dmm", "spiralnet++", "first-order-spiralnet++"]
    variational = [f"vae-{name}" for name in NAMES if not name.endswith("-code")]
    wanted = [*NAMES, *noact, *batchnorm, *instance, *OPERATORS[1:], *published, *variational]
    assert sorted(PRESETS) == sorted(wanted)


@pytest.mark.parametrize("name", OPERATORS[1:])
def test_competitors_differ_from_first_order_in_the_operator_alone(name):
    (config, spirals), (first, same_spirals) = get_preset(name), get_preset("first-order")
    assert dataclasses.replace(config, operator="spiral") == first
    assert config.operator == name
    assert spirals == same_spirals


@pytest.mark.parametrize("name", NAMES)
def test_comparison_presets_differ_in_the_block_alone(name):
    config, spirals = get_preset(name)
    assert config.encoder_channels == (16, 16, 16, 32)
    assert config.decoder_channels == (32, 32, 16, 16, 3)
    assert (config.latent_channels, config.activation, config.norm) == (16, "elu", "vertex_rms")
    block, order, *code = name.split("-")
    assert (config.block, config.order) == (
        ("first_order", 1) if name == "first-order" else ("_".join([block, *code]), int(order))
    )
    assert (spirals.convention, spirals.hops, spirals.dilation) == ("neural3dmm", (1,), (1,))
    without, same_spirals = get_preset(f"{name}-noact")
    assert without.activation == "none"
    assert without.block == config.block
    assert same_spirals == spirals


@pytest.mark.parametrize(("name", "parameters"), INSTANCE.items())
def test_instance_presets_have_few_parameters_besides_their_operators(name, parameters, coma_sized):
    """A scale per channel: simple has no more than first order but these, nothing per vertex."""
    config, spirals = get_preset(f"{name}-instance")
    plain, same = get_preset(name)
    assert config == dataclasses.replace(plain, norm="instance")
    assert get_preset(f"{name}-instance-noact")[0] == dataclasses.replace(config, activation="none")
    assert spirals == same
    model = MeshAutoencoder(config, coma_sized)
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_builds(name, coma_sized):
    model = MeshAutoencoder(get_preset(name)[0], coma_sized)
    assert model.num_vertices == 5023


@pytest.mark.parametrize("name", ["first-order", "full-2"])
def test_variational_presets_are_the_others_with_a_second_head(name, coma_sized):
    (config, spirals), plain = get_preset(f"vae-{name}"), get_preset(name)
    assert (dataclasses.replace(config, variational=False), spirals) == plain
    counts = [
        sum(p.numel() for p in MeshAutoencoder(made, coma_sized).parameters())
        for made in (config, plain[0])
    ]
    assert counts[0] - counts[1] == 20 * 32 * 16 + 16


def test_published_presets():
    config, spirals = get_preset("neural3dmm")
    assert config.encoder_channels == (16, 32, 64, 128)
    assert config.decoder_channels == (128, 64, 32, 32, 16, 3)
    assert (spirals.hops, spirals.dilation) == ((2, 2, 1), (2, 2, 1))
    config, spirals = get_preset("spiralnet++")
    assert config.encoder_channels == (32, 32, 32, 64)
    assert config.decoder_channels == (64, 64, 32, 32, 32, 3)
    assert (spirals.convention, spirals.length) == ("spiralnet++", 9)


def test_unknown_preset_names_the_nearest():
    with pytest.raises(ValueError, match="got 'ful-2'; did you mean 'full-2'"):
        get_preset("ful-2")
    with pytest.raises(ValueError, match=r"got 'zzz'$"):
        get_preset("zzz")
