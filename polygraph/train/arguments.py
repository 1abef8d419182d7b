"""Settings of `polygraph train mesh`: options, YAML files, presets."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Literal

import jsonargparse
import yaml  # type: ignore[import-untyped]

from polygraph.data import MeshDataConfig
from polygraph.mesh.spiral import SpiralConfig
from polygraph.models.mesh_autoencoder import MeshAutoencoderConfig
from polygraph.models.presets import get_preset
from polygraph.train.config import TrainConfig
from polygraph.train.mesh import LOSSES, NORMALIZATIONS, MeshRunConfig

PACKAGED = Path(__file__).parent.parent / "configs"
DEFAULT_PRESET = "full-2"
_OF_THE_RUN = ("upsampling", "normalization", "loss", "augmentation")
_NESTED = {"model": MeshAutoencoderConfig, "spiral": SpiralConfig, "data": MeshDataConfig}


def packaged_configs() -> list[str]:
    """Names that ``--config`` takes besides paths."""
    return sorted(path.stem for path in PACKAGED.glob("*.yaml"))


def config_path(name: str) -> str:
    """The path of a configuration: a file, or one that comes with polygraph by its name.

    Raises:
        ValueError: there is neither.
    """
    if Path(name).is_file():
        return name
    packaged = PACKAGED / f"{name}.yaml"
    if packaged.is_file():
        return str(packaged)
    raise ValueError(
        f"--config {name}: no such file, and not one of the names {', '.join(packaged_configs())}"
    )


def attribute_help(cls: type) -> dict[str, str]:
    """What the ``Attributes:`` section of a class says about each field, on one line."""
    text = (cls.__doc__ or "").partition("Attributes:")[2]
    found: dict[str, str] = {}
    for match in re.finditer(r"^ {8}(\w+): (.+(?:\n {12,}.+)*)", text, re.MULTILINE):
        found[match[1]] = " ".join(match[2].replace("``", "").split()).replace("%", "%%")
    return found


def make_parser(preset: str) -> Any:
    """The parser, with the settings of a preset as its defaults."""
    parser = jsonargparse.ArgumentParser(
        prog="polygraph train mesh",
        description="Train a mesh autoencoder.",
        exit_on_error=False,
        default_env=False,
    )
    parser.add_argument(
        "--config",
        action="config",
        help=f"YAML file with settings, or one of: {', '.join(packaged_configs())}",
    )
    parser.add_argument("--preset", type=str, default=preset, help="model to start from")
    parser.add_argument("--out", type=str, required=True, help="folder of the run")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument(
        "--factors", type=list[int], default=[4, 4, 4, 4], help="vertices divided by, per level"
    )
    parser.add_argument("--upsampling", type=str, default="barycentric")
    parser.add_argument("--augmentation", type=float, default=0.0)
    for name, choices in (("normalization", NORMALIZATIONS), ("loss", LOSSES)):
        parser.add_argument(f"--{name}", type=Literal[choices], default=choices[0])
    model, spiral = get_preset(preset)
    defaults: dict[str, Any] = {"model": model, "spiral": spiral, "data": MeshDataConfig()}
    for name, default in defaults.items():
        parser.add_class_arguments(_NESTED[name], name, fail_untyped=False)
        parser.set_defaults({f"{name}.{key}": value for key, value in asdict(default).items()})
    parser.add_class_arguments(TrainConfig, None)
    _add_help(parser)
    return parser


def _add_help(parser: Any) -> None:
    """Put the words of the docstrings into --help."""
    words = {
        f"{name}.{key}": text
        for name, cls in _NESTED.items()
        for key, text in attribute_help(cls).items()
    }
    words |= attribute_help(TrainConfig)
    words |= {k: v for k, v in attribute_help(MeshRunConfig).items() if k in _OF_THE_RUN}
    for action in parser._actions:
        if action.dest in words:
            action.help = words[action.dest]


def _first_look(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The preset that is asked for, and the arguments with names of configurations made paths."""
    look = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    look.add_argument("--preset")
    look.add_argument("--config", action="append", default=[])
    known, rest = look.parse_known_args(list(arguments))
    preset, paths = DEFAULT_PRESET, [config_path(name) for name in known.config]
    for path in paths:
        try:
            content = yaml.safe_load(Path(path).read_text())
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: not a YAML file ({' '.join(str(error).split())})") from error
        if not isinstance(content, dict):
            raise ValueError(f"{path}: must map names of settings to values")
        preset = str(content.get("preset", preset))
    preset = known.preset or preset
    again = [word for path in paths for word in ("--config", path)]
    return preset, [*again, "--preset", preset, *rest]


def parse_train_mesh(arguments: Sequence[str]) -> tuple[MeshRunConfig, str, bool]:
    """Read the command line of `polygraph train mesh`.

    Later settings win: defaults, the preset, configurations in their order, options.

    Returns:
        The run's configuration, its folder, whether to resume.

    Raises:
        ValueError: a setting is unknown or has a bad value; an unknown preset suggests the nearest.
    """
    preset, words = _first_look(arguments)
    parser = make_parser(preset)
    try:
        parsed = parser.parse_args(words)
    except (jsonargparse.ArgumentError, argparse.ArgumentError) as error:
        raise ValueError(_readable(str(error), parser)) from error
    values = parsed.as_dict()
    data = values["data"]
    if data["path"] is not None and not any(w.startswith("--data.kind") for w in words):
        # A path alone means a folder of registered meshes.
        data["kind"] = "registered" if data["kind"] == "synthetic" else data["kind"]
    nested = {
        name: cls(**{f.name: _tuple(values[name][f.name]) for f in fields(cls)})
        for name, cls in _NESTED.items()
    }
    train = TrainConfig(**{f.name: values[f.name] for f in fields(TrainConfig)})
    config = MeshRunConfig(
        preset=preset,
        train=train,
        factors=tuple(values["factors"]),
        **{name: values[name] for name in _OF_THE_RUN},
        **nested,
    )
    return config, values["out"], values["resume"]


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _readable(message: str, parser: Any) -> str:
    """The parser's message in one line and in our words."""
    text = " ".join(message.split())
    wrong = re.fullmatch(r'Parser key "(.+?)": Expected a (.+?)\. Got value: (.*)', text)
    if not wrong:
        union = r'Parser key "(.+?)": Does not .* Subtypes: \[(.+?)\] Errors: .* Given value: (.*)'
        wrong = re.fullmatch(union, text)
    if wrong:
        key, wanted, got = wrong.groups()
        wanted = re.sub(r"<class '(\w+)'>", r"\1", wanted).replace("NoneType", "null")
        wanted = wanted.replace("typing.Literal", "one of ").replace(", null", " or null")
        return f"{key} must be {wanted}, got {got!r}"
    unknown = re.fullmatch(r"unrecognized arguments: (--\S+).*", text, re.IGNORECASE)
    if unknown:
        options = [word for action in parser._actions for word in action.option_strings]
        near = difflib.get_close_matches(unknown[1].split("=")[0], options, n=1, cutoff=0.4)
        return f"unknown setting {unknown[1]}" + (f"; did you mean {near[0]}?" if near else "")
    return text
