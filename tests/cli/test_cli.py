"""The command line: output, one-line errors, exit status, life without extras or library."""

import contextlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.tiny import write_meshes

import polygraph
from polygraph import _load
from polygraph.cli import describe, main
from polygraph.cli.doctor import EXTRAS
from polygraph.cli.main import COMMANDS
from polygraph.tasks import TASKS, load_command

PACKAGE = Path(polygraph.__file__).parent
TINY = [
    "--factors", "[4,4]", "--model.encoder_channels", "[4,6]", "--model.decoder_channels",
    "[6,4,3]", "--batch_size", "4", "--accelerator", "cpu", "--latent", "3",
    "--learning-rate", "1e-3", "--schedule", "constant",
]  # fmt: skip


def fails(capsys, arguments, status=1):
    """Run, expect a failure, return its only line."""
    assert main(arguments) == status
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("polygraph: ")
    assert "Traceback" not in captured.out
    return lines[0]


def run_python(code, **env):
    """Run code in a fresh process that finds the package through PYTHONPATH."""
    path = env.pop("path", PACKAGE.parent)
    env = {**os.environ, "PYTHONPATH": str(path), "OMP_NUM_THREADS": "1", **env}
    return subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120, cwd="/"
    )


@pytest.fixture
def words(tmp_path, monkeypatch):
    """Settings for a tiny run under tmp_path."""
    monkeypatch.setenv("POLYGRAPH_CACHE", str(tmp_path / "cache"))
    path = write_meshes(tmp_path / "meshes")
    return [*TINY, "--data.path", str(path), "--data.cache_dir", str(tmp_path / "cache")]


def test_train_evaluate_reconstruct(tmp_path, words, capsys):
    out = str(tmp_path / "run")
    assert main(["train", "mesh", *words, "--out", out, "--steps", "4"]) == 0
    printed = capsys.readouterr().out
    assert "4 steps" in printed
    assert out in printed
    test = json.loads((tmp_path / "run" / "result.json").read_text())["test"]
    assert main(["evaluate", "--run", out, "--json"]) == 0
    short = json.loads(capsys.readouterr().out)
    assert main(["evaluate", "--run", out, "--json", "--per-vertex"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert short == {key: measured[key] for key in measured if key != "per_vertex"}
    assert {key: measured[key] for key in test} == test
    assert len(measured["per_vertex"]) == 162
    assert main(["evaluate", "--run", out, "--part", "train", "--data", words[-3]]) == 0
    assert "train: " in capsys.readouterr().out
    sphere = tmp_path / "in.ply"
    vertices = np.load(tmp_path / "meshes" / "vertices.npy")[0]
    faces = np.load(tmp_path / "meshes" / "faces.npy")
    from polygraph.mesh import Mesh, write_mesh

    write_mesh(sphere, Mesh(vertices.astype(np.float64), faces.astype(np.int64)))
    assert main(["reconstruct", str(sphere), str(tmp_path / "out.ply"), "--run", out]) == 0
    assert (tmp_path / "out.ply").stat().st_size > 1000
    line = fails(capsys, ["train", "mesh", *words, "--out", out, "--steps", "4"])
    assert "already holds a run" in line
    more = ["--steps", "6", "--resume"]
    assert main(["train", "mesh", *words, "--out", out, *more]) == 0
    line = fails(capsys, ["train", "mesh", *words, "--out", out, *more, "--learning_rate", "0.1"])
    assert "train.learning_rate is 0.001 there and 0.1 here" in line


def test_settings_from_preset_yaml_and_options(tmp_path):
    from polygraph.tasks.mesh.arguments import parse_train_mesh
    from polygraph.train.arguments import attribute_help, packaged_configs
    from polygraph.train.config import TrainConfig

    path = tmp_path / "my.yaml"
    path.write_text(
        "preset: spiralnet++\nsteps: 7\nmodel: {latent_channels: 5}\nlearning_rate: 1.0e-2\n"
    )
    config, out, resume = parse_train_mesh(["--config", str(path), "--out", "x", "--steps", "8"])
    assert (out, resume) == ("x", False)
    assert config.preset == "spiralnet++"
    assert config.model.encoder_channels == (32, 32, 32, 64)
    assert config.model.latent_channels == 5
    assert (config.spiral.convention, config.spiral.length) == ("spiralnet++", 9)
    assert (config.train.steps, config.train.learning_rate) == (8, 0.01)
    other, _, _ = parse_train_mesh(["--config", str(path), "--out", "x", "--preset", "full-3"])
    assert (other.model.block, other.model.order, other.model.latent_channels) == ("full", 3, 5)
    assert other.spiral.convention == "neural3dmm"
    plain, _, _ = parse_train_mesh(["--out", "x", "--data.path", "somewhere"])
    assert (plain.preset, plain.data.kind) == ("full-2", "registered")
    assert (plain.train.batch_size, plain.train.weight_decay) == (16, 0)
    won, _, _ = parse_train_mesh(["--config", "mesh-benchmark", "--out", "x"])
    assert replace(plain, data=won.data) == won, "the recipe that wins is the default"
    published, _, _ = parse_train_mesh(["--config", "mesh-published", "--out", "x"])
    assert published.train == TrainConfig(), "the published recipe is that of the papers"
    assert (published.loss, published.normalization, published.augmentation) == ("l1", "vertex", 0)
    for name in packaged_configs():
        assert parse_train_mesh(["--config", name, "--out", "x"])[0].train.batch_size == 16
    assert packaged_configs() == ["mesh-benchmark", "mesh-published", "mesh-quick"]
    assert attribute_help(TrainConfig)["lr_decay"] == "factor per epoch of the published schedule."


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--preset", "full2"], "did you mean 'full-2'"),
        (["--model.latent_channels", "0"], "latent_channels must be a positive integer, got 0"),
        (["--model.latent_channels", "many"], "model.latent_channels must be int, got 'many'"),
        (["--steps", "1.5"], "steps must be int or null, got '1.5'"),
        (["--steps", "0"], "steps must be at least 1, got 0"),
        (["--stepps", "3"], "unknown setting --stepps; did you mean --steps?"),
        (["--model.block", "ful"], "model.block must be one of ['first_order'"),
        (["--data.kind", "nothing"], "unknown kind 'nothing'"),
        (["--config", "nothing.yaml"], "nothing.yaml: no such file"),
        (["--model.encoder_channels", "[1,2]"], "decoder_channels must be one or two more"),
        (
            ["--factors", "4,4", "--model.encoder_channels", "16,16,16,32"],
            "factors must have one entry per encoder layer, 4 (encoder_channels are 16, 16, 16, 32)"
            ", got 2",
        ),
    ],
)
def test_wrong_settings_are_usage_errors(tmp_path, capsys, words, message):
    out = tmp_path / "run"
    assert message in fails(capsys, ["train", "mesh", "--out", str(out), *words], status=2)
    assert not out.exists()


@pytest.mark.parametrize("text", ["a: [", "- 1", "stepps: 3\npreset: full-2"])
def test_bad_yaml_is_a_usage_error(tmp_path, capsys, text):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    fails(capsys, ["train", "mesh", "--out", str(tmp_path / "run"), "--config", str(path)], 2)


@pytest.mark.parametrize(
    "kind", ["mesh", "points", "gan", "images", "audio", "vae", "verify", "denoise"]
)
def test_a_bomb_of_yaml_aliases_is_refused_by_name(tmp_path, capsys, kind):
    """Nothing is expanded: nine names of nine stand for 3.5e8 numbers."""
    levels = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    path = tmp_path / "bomb.yaml"
    path.write_text("\n".join(["steps: 3", "a0: &a0 [1, 2, 3]", *levels]))
    assert main(["train", kind, "--config", str(path), "--out", str(tmp_path / "run")]) == 2
    line = capsys.readouterr().err
    assert "bomb.yaml: line 2: anchors and aliases are not read, got 'a0'" in line
    assert len(line) < 500
    path.write_text("steps: *undefined")
    assert main(["train", kind, "--config", str(path), "--out", str(tmp_path / "run")]) == 2
    assert "line 1: anchors and aliases are not read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message", "status"),
    [
        (["tran"], "unknown command 'tran'; did you mean 'train'?", 2),
        (["train", "mash"], "unknown kind of model 'mash'; did you mean 'mesh'?", 2),
        (["train", "mesh"], "out", 2),
        (["evaluate"], "--run", 2),
        (["evaluate", "--run", "/nowhere"], "/nowhere: no run here", 1),
        (["reconstruct", "a.ply", "b.ply", "--run", "/nowhere"], "/nowhere: no run here", 1),
        (["demo", "--steps", "x"], "invalid int value", 2),
        (["demo", "--presets", "full2"], "did you mean 'full-2'", 1),
    ],
)
def test_wrong_commands(capsys, words, message, status):
    assert message in fails(capsys, words, status)


def test_missing_and_empty_data(tmp_path, capsys, words):
    out = ["--out", str(tmp_path / "run"), "--steps", "1"]
    missing = [*TINY, "--data.path", str(tmp_path / "none"), *out]
    assert "no such file or folder" in fails(capsys, ["train", "mesh", *missing])
    np.save(tmp_path / "meshes" / "vertices.npy", np.zeros((1, 162, 3), np.float32))
    fails(capsys, ["train", "mesh", *words, *out])


def test_debug_shows_the_traceback(monkeypatch):
    monkeypatch.setenv("POLYGRAPH_DEBUG", "1")
    with pytest.raises(RuntimeError, match="no run here"):
        main(["evaluate", "--run", "/nowhere"])


def test_version_and_help(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"polygraph {polygraph.__version__}\n"
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for command in ("demo", "train", "evaluate", "reconstruct", "doctor"):
        assert f"  {command} " in text
    assert main([]) == 2


def test_errors_that_describe_themselves_badly_get_their_type():
    assert describe(KeyError("x")) == "KeyError: 'x'"
    assert describe(ValueError("")) == "ValueError: "
    assert describe(OSError(28, "No space left on device", "/a/b")) == (
        "/a/b: No space left on device"
    )
    assert describe(ValueError("two\nlines")) == "two lines"


def test_doctor(capsys):
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    for word in (
        "torch",
        "python",
        "CUDA",
        "instructions",
        "scipy",
        "jsonargparse",
        "matplotlib",
    ):
        assert word in text


def test_doctor_explains_a_library_that_does_not_load(capsys, monkeypatch):
    def fail():
        raise _load.LibraryError("polygraph: _C does not load with torch 9.9")

    monkeypatch.setattr(_load, "load_libraries", fail)
    assert main(["doctor"]) == 1
    text = capsys.readouterr().out
    assert "does not load with torch 9.9" in text
    assert "extra mesh" in text


def test_without_the_library_doctor_and_help_work_and_the_rest_says_why(tmp_path):
    shutil.copytree(
        PACKAGE, tmp_path / "polygraph", ignore=shutil.ignore_patterns("*.so", "__pycache__")
    )
    code = "import sys; from polygraph.cli import main; sys.exit(main({}))"
    done = run_python(code.format(["doctor"]), path=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "polygraph/_C is missing" in done.stdout
    assert "rebuild with" in done.stdout
    assert run_python(code.format(["--help"]), path=tmp_path).returncode == 0
    done = run_python(code.format(["demo", "--steps", "1"]), path=tmp_path)
    assert done.returncode == 1
    assert "polygraph/_C is missing" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_extras_doctor_and_help_work_and_the_rest_names_the_extra():
    modules = [module for packages in EXTRAS.values() for module in packages]
    code = f"import sys; sys.modules.update(dict.fromkeys({modules}));"
    code += "from polygraph.cli import main; sys.exit(main({}))"
    assert run_python(code.replace("{}", "['--help']")).returncode == 0
    assert run_python(code.replace("{}", "['doctor']")).returncode == 0
    done = run_python(code.replace("{}", "['train', 'mesh', '--out', 'x']"))
    assert done.returncode == 1
    assert "pip install 'polygraph-nn[train]'" in done.stderr


def test_help_does_not_import_torch():
    code = "import sys; from polygraph.cli import main; main(['--help']);"
    code += "print('torch' in sys.modules)"
    assert run_python(code).stdout.strip().endswith("False")


def test_help_of_train_lists_the_tasks():
    """One line each, from the folder of the task; nothing that trains is imported for it."""
    code = "import sys; from polygraph.cli import main; main(['train', '--help']);"
    code += "print('torch' in sys.modules)"
    words = run_python(code).stdout
    for kind in TASKS:
        line = importlib.import_module(f"polygraph.tasks.{kind}").__doc__.splitlines()[0]
        assert re.search(rf"^  polygraph train {kind} +{re.escape(line)}$", words, re.MULTILINE)
    assert words.strip().endswith("False")


@pytest.mark.parametrize("kind", TASKS)
def test_every_task_has_one_shape(kind):
    """The modules that a reader finds by name, and what the command line calls."""
    command = load_command(kind)
    folder = f"polygraph.tasks.{kind}"
    assert command.parse.__module__ == f"{folder}.arguments"
    assert command.train.__module__ == command.describe.__module__ == f"{folder}.training"
    assert importlib.util.find_spec(f"{folder}.run") is not None


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_a_file_of_its_name(name, capsys):
    module = importlib.import_module(f"polygraph.cli.{name.replace('-', '_')}")
    with contextlib.suppress(SystemExit):
        assert module.run(["--help"]) == 0
    assert f"polygraph {name}" in capsys.readouterr().out


def test_demo_end_to_end(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("POLYGRAPH_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "demo"
    words = ["--steps", "2", "--frames", "60", "--presets", "first-order", "full-2"]
    assert main(["demo", "--out", str(out), *words]) == 0
    text = capsys.readouterr().out
    for word in ("first-order", "full-2", "pca", "mean-shape", "error mm", "heatmaps.png"):
        assert word in text
    assert (out / "heatmaps.png").is_file()


def test_no_name_is_no_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for words in (
        ["train", "mesh", "--out", ""],
        ["train", "points", "--out", " "],
        ["train", "gan", "--out", ""],
        ["demo", "--out", ""],
        ["demo-gan", "--out", ""],
        ["benchmark", "mesh", "--out", ""],
        ["latent", "sample", "--run", "run", "--out", ""],
    ):
        assert main(words) == 2
        assert "--out must name a folder, got '" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words",
    [
        ["latent", "sample", "--run", "r"],
        ["sample", "--run", "r"],
        ["score", "--run", "r"],
        ["neighbours", "--run", "r"],
    ],
)
def test_seeds_have_a_range(words, capsys):
    for seed in ("-1", str(2**63)):
        assert main([*words, "--seed", seed]) == 2
        assert "seed must be" in capsys.readouterr().err


def test_an_error_has_a_bounded_length():
    assert len(describe(ValueError("x" * 5_000_000))) < 1100
