"""Settings as words of a command line: one spelling for all that people write.

``--batch-size 8``, ``--batch_size=8`` and, from Python, ``batch_size=8`` are the same; lists are
``4,4,4``, ``[4,4,4]`` or ``4 4 4``; ``--data`` names a folder, a file or a built-in set. Nothing
here needs torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

#: words of every kind of run -> the settings they stand for
DATA_WORDS = {
    "kind": "data.kind",
    "split": "data.split",
    "to_mm": "data.to_mm",
    "every": "data.every",
}


#: words of variational autoencoders -> the settings they stand for
OBJECTIVE_WORDS = {name: f"objective.{name}" for name in ("beta", "warmup_steps", "free_bits")}


FLAGS = ("resume", "help", "print_config")  #: settings without a value


@dataclass(frozen=True)
class Spelling:
    """What the words of a kind of run stand for.

    Attributes:
        lists: settings whose values are lists of numbers.
        short: words that stand for settings in a group, such as ``latent``.
        built_in: names that ``data`` takes besides paths -> the settings that they stand for.
    """

    lists: Collection[str] = ()
    short: Mapping[str, str] = field(default_factory=dict)
    built_in: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def settings_words(settings: Mapping[str, Any], prefix: str = "--") -> list[str]:
    """Settings as words: ``{"steps": 5, "model": {"order": 2}}`` is --steps=5 --model.order=2."""
    words = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            words += settings_words(value, f"{prefix}{name}.")
        else:
            words.append(f"{prefix}{name}={_text(value)}")
    return words


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if hasattr(value, "__fspath__"):
        return str(value)
    return json.dumps(value, default=_plain)


def _plain(value: Any) -> Any:
    """Numbers and arrays of numpy as Python's own."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"no setting can be {value!r}")


def dashed(text: str) -> str:
    """Options as they are shown: ``--batch-size``, and ``--model.latent-channels``."""
    return re.sub(r"--[A-Za-z][\w.]*", lambda option: option[0].replace("_", "-"), text)


def spelled(words: Sequence[str], spelling: Spelling) -> list[str]:
    """The same words, each setting by its full name with its value behind ``=`` where it is short.

    ``--epochs`` takes back a number of steps that was set before it, by a preset for example.

    Raises:
        ValueError: several words stand alone.
    """
    found: list[str] = []
    bare: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):  # the data, as of other programs
            bare.append(word)
            found += _data_words(word, spelling)
            continue
        if not word.startswith("--") or word == "--":
            found.append(word)
            continue
        name, equals, value = word[2:].partition("=")
        name = name.replace("-", "_")
        name = spelling.short.get(name, name)
        listed = name in spelling.lists
        values = [value] if equals else []
        takes = not equals and name not in FLAGS
        while rest and takes and not rest[0].startswith("--") and (listed or not values):
            values.append(rest.pop(0))
        if not values:
            found.append(f"--{name}")
        elif name == "data":
            found += _data_words(values[0], spelling)
        else:
            found.append(f"--{name}={_list_text(values) if listed else values[0]}")
    if len(bare) > 1:
        raise ValueError(f"one word alone names the data, got {' and '.join(map(repr, bare))}")
    names = {word.partition("=")[0] for word in found}
    if "--epochs" in names and "--steps" not in names:
        found.append("--steps=null")
    return found


def _list_text(values: Sequence[str]) -> str:
    text = ",".join(values).strip()
    if "[[" in text or text == "null":
        return text
    items = [item for item in re.split(r"[\s,]+", text.strip("[]() ")) if item]
    return f"[{','.join(items)}]"


def _data_words(value: str, spelling: Spelling) -> list[str]:
    """What ``--data VALUE`` stands for: a built-in set, a configuration's settings, or a path."""
    if value in spelling.built_in:
        return settings_words(spelling.built_in[value], "--data.")
    if value.startswith("{"):
        return [f"--data={value}"]
    return [f"--data.path={value}"]


def call_words(data: Any, out: Any, preset: str | None, settings: Mapping[str, Any]) -> list[str]:
    """What a call from Python would be on the command line.

    Args:
        data: a path or a name; None where it is in ``settings``, or in memory.
        out: folder of the run.
        preset: None: the default.
        settings: the rest; ``config`` and ``resume`` are words of their own.
    """
    rest = {name: value for name, value in settings.items() if name not in ("config", "resume")}
    words = settings_words(rest)
    if preset is not None:
        words.append(f"--preset={preset}")
    if data is not None:
        words.append(f"--data={_text(data)}")
    if settings.get("config") is not None:
        words += ["--config", _text(settings["config"])]
    if settings.get("resume"):
        words.append("--resume")
    return [*words, f"--out={_text(out)}"]
