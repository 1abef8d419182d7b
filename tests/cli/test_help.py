"""Help: quick, short, and naming what there is."""

import re

import pytest

from polygraph.cli import main
from polygraph.models.denoiser.presets import DENOISER_PRESETS
from polygraph.models.denoiser.vertices import VERTEX_PRESETS
from polygraph.models.images.image_vae import VAE_PRESETS
from polygraph.models.images.presets import CLASSIFIER_PRESETS
from polygraph.models.mesh.presets import PRESETS
from polygraph.tasks import TASKS
from polygraph.tasks.gan.presets import GAN_PRESETS
from polygraph.train.arguments import packaged_configs

COMMANDS = [*(f"train {kind}" for kind in TASKS), "benchmark mesh"]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_long_commands_is_short(command, capsys):
    assert main([*command.split(), "--help"]) == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) < 50
    assert max(map(len, text.splitlines())) <= 100
    assert f"polygraph {command}" in text
    assert "--help-all" in text
    assert not re.search(r"--\w+_\w", text), "options have dashes"


@pytest.mark.parametrize("command", COMMANDS[:-1])
def test_help_all_has_the_rest(command, capsys):
    with pytest.raises(SystemExit) as left:
        main([*command.split(), "--help-all"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert "--weight-decay" in text
    assert "<class" not in text


def test_the_help_names_every_preset(capsys):
    main(["train", "mesh", "--help"])
    text = capsys.readouterr().out
    for name in PRESETS:
        plain = re.sub(r"-(noact|instance|instance-noact|batchnorm)$", "", name)
        plain = re.sub(r"-(instance)$", "", plain)
        assert re.sub(r"-[234]", "-N", plain) in text, name
    for name in packaged_configs("mesh"):
        assert name in text
    main(["train", "images", "--help"])
    text = capsys.readouterr().out
    for name in [*CLASSIFIER_PRESETS, *packaged_configs("images")]:
        assert re.sub(r"-(bare|coordinates)$|cifar-(?!layered)", "", name) in text, name
    main(["train", "audio", "--help"])
    text = capsys.readouterr().out
    for name in packaged_configs("audio"):
        assert name in text, name
    main(["train", "denoise", "--help"])
    text = capsys.readouterr().out
    for name in [*DENOISER_PRESETS, *VERTEX_PRESETS, *packaged_configs("denoise")]:
        assert name in text, name
    main(["train", "verify", "--help"])
    text = capsys.readouterr().out
    for name in ("dgcnn", "lenet", *packaged_configs("verify")):
        assert name in text
    main(["train", "vae", "--help"])
    text = capsys.readouterr().out
    for name in (*VAE_PRESETS, *(f"vae-{kind}" for kind in ("first-order", "full-N", "skip-N"))):
        assert name in text, name
    main(["train", "gan", "--help"])
    text = capsys.readouterr().out
    for name in GAN_PRESETS:
        short = re.sub(r"^(thesis|small)/(?!.*cp)", "", name.removesuffix("-residual"))
        short = re.sub(r"^(critic|both)-", "", short.removesuffix("-b32"))
        assert re.sub(r"^(edge|edge-max|ecc|light)-k\d+", r"\1-kK", short) in text, name
