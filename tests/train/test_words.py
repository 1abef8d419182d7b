"""Settings as people write them."""

import numpy as np
import pytest

from polygraph.train.words import Spelling, call_words, dashed, settings_words, spelled

SPELLING = Spelling(
    ("factors", "model.encoder_channels"),
    {"latent": "model.latent_channels", "kind": "data.kind"},
    {"synthetic": {"kind": "synthetic", "path": None}},
)


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["--batch-size", "8"], ["--batch_size=8"]),
        (["--batch_size=8"], ["--batch_size=8"]),
        (["--factors", "4,4,4"], ["--factors=[4,4,4]"]),
        (["--factors", "[4,4,4]"], ["--factors=[4,4,4]"]),
        (["--factors", "4", "4", "4", "--resume"], ["--factors=[4,4,4]", "--resume"]),
        (["--factors", "[4,", "4]"], ["--factors=[4,4]"]),
        (["--factors", "4"], ["--factors=[4]"]),
        (["--factors=null"], ["--factors=null"]),
        (["--model.encoder-channels", "8,16"], ["--model.encoder_channels=[8,16]"]),
        (["--latent", "8"], ["--model.latent_channels=8"]),
        (["--data", "a-folder/x"], ["--data.path=a-folder/x"]),
        (["a-folder"], ["--data.path=a-folder"]),
        (["--resume", "a-folder"], ["--resume", "--data.path=a-folder"]),
        (["--data", "synthetic"], ["--data.kind=synthetic", "--data.path=null"]),
        (["--kind", "coma"], ["--data.kind=coma"]),
        (["--epochs", "5"], ["--epochs=5", "--steps=null"]),
        (["--epochs", "5", "--steps", "7"], ["--epochs=5", "--steps=7"]),
        (["--out", "my_run"], ["--out=my_run"]),
        (["--low", "-0.5"], ["--low=-0.5"]),
    ],
)
def test_one_spelling_for_all(words, meant):
    assert spelled(words, SPELLING) == meant


def test_two_words_alone_are_refused():
    with pytest.raises(ValueError, match="one word alone names the data, got 'a' and 'b'"):
        spelled(["a", "b"], SPELLING)


def test_calls_and_command_lines_say_the_same():
    settings = {"steps": 5, "model": {"order": np.int64(2)}, "factors": (4, 4), "resume": True}
    words = call_words("d", "run", "full-2", {**settings, "config": "mesh-quick"})
    assert spelled(words[:3], SPELLING) == ["--steps=5", "--model.order=2", "--factors=[4,4]"]
    assert words[3:] == [
        "--preset=full-2", "--data=d", "--config", "mesh-quick", "--resume", "--out=run"
    ]  # fmt: skip
    assert settings_words({"a": None, "b": True, "c": 5e-5}) == [
        "--a=null",
        "--b=true",
        "--c=5e-05",
    ]
    with pytest.raises(TypeError, match="no setting can be"):
        settings_words({"a": object()})


def test_options_are_shown_with_dashes():
    assert dashed("--batch_size N of batch_size") == "--batch-size N of batch_size"
