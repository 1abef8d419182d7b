"""Settings from the command line: options, YAML files, the words of docstrings as help."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import jsonargparse
import yaml  # type: ignore[import-untyped]

from polygraph._files import read_regular
from polygraph._names import nearest_name
from polygraph.data.known import recall
from polygraph.data.shapes import ARRAYS
from polygraph.train.checkpoint import CheckpointError
from polygraph.train.config import TrainConfig
from polygraph.train.words import Spelling, dashed, settings_words, spelled

PACKAGED = Path(__file__).parent.parent / "configs"
_MOST_BYTES = 1 << 14  # of a configuration; ours have 400, those of runs 4,000
_RUN = "run.json"
_WORDS = {"data.test_path": "test"}  # of places that are no group's own


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
    """What ``Attributes:`` of a class, and of those it inherits from, say of each field."""
    found: dict[str, str] = {}
    for part in reversed(cls.__mro__):
        text = (part.__doc__ or "").partition("Attributes:")[2]
        for match in re.finditer(r"^ {8}(\w+): (.+(?:\n {12,}.+)*)", text, re.MULTILINE):
            found[match[1]] = " ".join(match[2].replace("``", "").split()).replace("%", "%%")
    return found


def list_settings(nested: dict[str, Any], own: Sequence[str] = ()) -> frozenset[str]:
    """Names of the settings that are lists of numbers."""
    groups = [("", TrainConfig), *((f"{name}.", cls) for name, cls in nested.items())]
    found = {
        f"{group}{f.name}"
        for group, cls in groups
        for f in fields(cls)
        if str(f.type).startswith("tuple[")
    }
    return frozenset(found | set(own))


class _Parser(jsonargparse.ArgumentParser):
    """jsonargparse whose help has dashes, and words for its groups."""

    def format_help(self, *given: Any, **named: Any) -> str:
        """The help."""
        text = dashed(str(super().format_help(*given, **named)))
        text = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", text)
        # The settings of a group are options of their own: nobody needs a file for it.
        return re.sub(r"\n  --\w+ CONFIG +Path to a configuration file\.", "", text)


def base_parser(kind: str, description: str, known: Sequence[str]) -> Any:
    """A parser with what every kind of run has: configurations, folder, resume."""
    parser = _Parser(
        prog=f"polygraph train {kind}",
        description=description,
        exit_on_error=False,
        default_env=False,
    )
    names = f", or one of: {', '.join(known)}" if known else ""
    # Configurations are read before, see `read_told`: here they are for --help.
    words = f"YAML file with settings, RUN/run.json{names}"
    parser.add_argument("--config", action="config", help=words)
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


@dataclass(frozen=True)
class Told:
    """What a command line tells, before it is parsed.

    Attributes:
        words: settings of configurations in their order, then those of options, each by its full
            name; later ones win.
    """

    words: list[str]

    def names(self, *settings: str) -> bool:
        """Whether one of the settings is named."""
        given = {word[2:].partition("=")[0] for word in self.words}
        return not given.isdisjoint(settings)

    def last(self, setting: str) -> str | None:
        """The last value of a setting as it is written; None where it is not named."""
        values = [w.partition("=")[2] for w in self.words if w.startswith(f"--{setting}=")]
        return values[-1] if values else None


def read_told(
    arguments: Sequence[str], kind: str, spelling: Spelling, data: str | None = None
) -> Told:
    """Spell the words of a command line out, configurations and a run to be resumed among them.

    ``--resume`` goes on with the settings in the ``run.json`` of the folder, as far as no others
    are given. A ``run.json`` is a configuration, too: what it says of places is followed only where
    this user trained on them (see `polygraph.data.known`).

    Args:
        arguments: the words after the kind.
        kind: prefix of the packaged configurations.
        spelling: of the kind's settings.
        data: what places of the data are known as, where they have no kind of their own.

    Raises:
        ValueError: a configuration is missing or damaged.
        CheckpointError: a run names a place that is not known here.
    """
    look = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    look.add_argument("--config", action="append", default=[])
    known, rest = look.parse_known_args(list(arguments))
    own = spelled(rest, spelling)
    asked = Told(own)
    paths = [config_path(name, kind) for name in known.config]
    out = asked.last("out")
    if asked.names("resume") and out and (Path(out) / _RUN).is_file():
        paths.insert(0, str(Path(out) / _RUN))
    contents = [_read_config(path) for path in paths]
    parts = [spelled(settings_words(_settings(content)), spelling) for content in contents]
    words: list[str] = []
    for at, (path, content) in enumerate(zip(paths, contents, strict=True)):
        words += parts[at]
        if _is_run(content):
            later = Told([word for part in [*parts[at + 1 :], own] for word in part])
            words += _places(later, content["config"], path, data)
    return Told([*words, *own])


def _is_run(content: dict[str, Any]) -> bool:
    """Whether a configuration is the ``run.json`` of a run."""
    return isinstance(content.get("config"), dict)


def _settings(content: dict[str, Any]) -> dict[str, Any]:
    """The settings of a configuration; those of training lie in a group of their own in a run's."""
    found = dict(content["config"]) if _is_run(content) else dict(content)
    train = found.pop("train", {})
    return {**found, **train} if isinstance(train, dict) else {**found, "train": train}


def _places(later: Told, run: dict[str, Any], path: str, kind: str | None) -> list[str]:
    """The cache of a run's data as words: what was used when this user trained on them.

    Args:
        later: the words behind the run's own.
        run: its configuration.
        path: of its file, for messages.
        kind: what its data are known as; None: their own kind.

    Raises:
        CheckpointError: a place is not known.
    """
    data = run.get("data")
    data = data if isinstance(data, dict) else {}
    cache = None
    for place, what, option in (
        (data.get("path"), kind or data.get("kind"), "data.path"),
        (data.get("test_path"), kind or data.get("kind"), "data.test_path"),
        (run.get("classifier"), "classifier", "classifier"),
    ):
        if place is None or place == ARRAYS or later.names(option):
            continue
        known = recall(str(what), str(place))
        if known is None:
            raise CheckpointError(
                f"{path}: the run names {str(place)!r}, where nothing was trained on from here: "
                f"say where it is, --{_WORDS.get(option, option.partition('.')[0])} PATH"
            )
        cache = known.cache_dir or cache
    return settings_words({"cache_dir": cache}, "--data.") if "cache_dir" in data else []


def _read_config(path: str) -> dict[str, Any]:
    """What a configuration holds, YAML or JSON."""
    try:
        text = read_regular(path, _MOST_BYTES).decode()
        _refuse_aliases(path, text)
        content = json.loads(text) if path.endswith(".json") else yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not a YAML file ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: must map names of settings to values")
    return content


def _refuse_aliases(path: str, text: str) -> None:
    """Refuse the names by which a few lines of YAML can stand for more than any memory holds."""
    for event in yaml.parse(text, yaml.SafeLoader):
        name = getattr(event, "anchor", None)
        if name is not None:
            line = event.start_mark.line + 1
            raise ValueError(
                f"{path}: line {line}: anchors and aliases are not read, got {str(name)[:40]!r}"
            )


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
        name = unknown[1].split("=")[0]
        options = [word for action in parser._actions for word in action.option_strings]
        near = nearest_name(name, options)
        hint = f"; did you mean {dashed(near)}?" if near else ""
        return f"unknown setting {dashed(name)}{hint}"
    return text
