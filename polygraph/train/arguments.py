"""Settings from the command line: options, YAML files, the words of docstrings as help."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import jsonargparse
import yaml  # type: ignore[import-untyped]

from polygraph._files import read_regular
from polygraph._names import nearest_name
from polygraph.train.config import TrainConfig

PACKAGED = Path(__file__).parent.parent / "configs"
_MOST_BYTES = 1 << 20  # of a configuration


def packaged_configs(kind: str = "mesh") -> list[str]:
    """Names that ``--config`` takes besides paths, for a kind of model."""
    return sorted(path.stem for path in PACKAGED.glob(f"{kind}-*.yaml"))


def config_path(name: str, kind: str = "mesh") -> str:
    """The path of a configuration: a file, or one that comes with polygraph by its name.

    Raises:
        ValueError: there is neither.
    """
    if Path(name).is_file():
        return name
    known = packaged_configs(kind)
    if name in known:
        return str(PACKAGED / f"{name}.yaml")
    names = f", and not one of the names {', '.join(known)}" if known else ""
    raise ValueError(f"--config {name}: no such file{names}")


def attribute_help(cls: type) -> dict[str, str]:
    """What the ``Attributes:`` section of a class says about each field, on one line."""
    text = (cls.__doc__ or "").partition("Attributes:")[2]
    found: dict[str, str] = {}
    for match in re.finditer(r"^ {8}(\w+): (.+(?:\n {12,}.+)*)", text, re.MULTILINE):
        found[match[1]] = " ".join(match[2].replace("``", "").split()).replace("%", "%%")
    return found


def base_parser(kind: str, description: str, known: Sequence[str]) -> Any:
    """A parser with what every kind of run has: configurations, folder, resume."""
    parser = jsonargparse.ArgumentParser(
        prog=f"polygraph train {kind}",
        description=description,
        exit_on_error=False,
        default_env=False,
    )
    names = f", or one of: {', '.join(known)}" if known else ""
    parser.add_argument("--config", action="config", help=f"YAML file with settings{names}")
    parser.add_argument("--out", type=str, required=True, help="folder of the run")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    return parser


def add_nested(parser: Any, nested: dict[str, Any], defaults: dict[str, Any]) -> None:
    """Add the fields of each class under its name, and those of training as they are."""
    for name, default in defaults.items():
        parser.add_class_arguments(nested[name], name, fail_untyped=False)
        parser.set_defaults({f"{name}.{key}": value for key, value in asdict(default).items()})
    parser.add_class_arguments(TrainConfig, None)


def add_help(parser: Any, nested: dict[str, Any], run: type, own: Sequence[str]) -> None:
    """Put the words of the docstrings into --help."""
    words = {
        f"{name}.{key}": text
        for name, cls in nested.items()
        for key, text in attribute_help(cls).items()
    }
    words |= attribute_help(TrainConfig)
    words |= {k: v for k, v in attribute_help(run).items() if k in own}
    for action in parser._actions:
        if action.dest in words:
            action.help = words[action.dest]


def read_configs(
    arguments: Sequence[str], kind: str
) -> tuple[list[dict[str, Any]], list[str], list[str]]:
    """What the configurations hold, the words that name them by path, and all other words."""
    look = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    look.add_argument("--config", action="append", default=[])
    known, rest = look.parse_known_args(list(arguments))
    contents, words = [], []
    for path in [config_path(name, kind) for name in known.config]:
        try:
            content = yaml.safe_load(read_regular(path, _MOST_BYTES).decode())
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"{path}: not a YAML file ({' '.join(str(error).split())})") from error
        if not isinstance(content, dict):
            raise ValueError(f"{path}: must map names of settings to values")
        contents.append(content)
        words += ["--config", path]
    return contents, words, rest


def parse_values(parser: Any, words: Sequence[str], nested: dict[str, Any]) -> dict[str, Any]:
    """The values of all settings; those of ``nested`` classes and ``train`` are still values."""
    try:
        values: dict[str, Any] = parser.parse_args(list(words)).as_dict()
    except (jsonargparse.ArgumentError, argparse.ArgumentError) as error:
        raise ValueError(_readable(str(error), parser)) from error
    for name, cls in nested.items():
        values[name] = {f.name: _tuple(values[name][f.name]) for f in fields(cls)}
    values["train"] = {f.name: values[f.name] for f in fields(TrainConfig)}
    return values


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
        near = nearest_name(unknown[1].split("=")[0], options)
        return f"unknown setting {unknown[1]}" + (f"; did you mean {near}?" if near else "")
    return text
