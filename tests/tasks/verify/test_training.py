"""Training embedders: result, resume, parts without common identities, bad settings."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.tiny_points import MODEL as CLOUD_MODEL
from support.tiny_verify import DATA, MODEL, clouds, tiny_clouds, tiny_verify, write_faces

from polygraph.cli import main
from polygraph.data.identities import IdentityDataConfig, open_identities
from polygraph.data.pairs import make_pairs
from polygraph.models import DGCNNClassifierConfig, LeNetConfig
from polygraph.tasks import verify
from polygraph.tasks.verify.arguments import parse_train_verify
from polygraph.tasks.verify.config import VerifyRunConfig, verify_train_config
from polygraph.tasks.verify.protocol import halves, identification_summary
from polygraph.tasks.verify.run import in_memory, load_embedder, load_run
from polygraph.tasks.verify.training import train_verify
from polygraph.train.augment import AugmentConfig
from polygraph.train.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from polygraph.train.log import read_log


def with_train(config, **train):
    return replace(config, train=replace(config.train, **train))


def tensors(path):
    """All tensors of a checkpoint, by their places."""
    found = {}

    def walk(value, place):
        if isinstance(value, dict):
            for key, part in value.items():
                walk(part, f"{place}/{key}")
        elif isinstance(value, torch.Tensor):
            found[place] = value

    walk(load_checkpoint(path)[0], "")
    return found


def test_a_run_writes_everything(tmp_path):
    result = train_verify(tiny_verify(), tmp_path / "run")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {
        "run.json", "result.json", "last.safetensors", "best.safetensors", "log.jsonl", "curve.csv",
    }  # fmt: skip
    written = json.loads((tmp_path / "run" / "result.json").read_text())
    assert written == json.loads(json.dumps(result))
    data = open_identities(DATA)
    test = result["test"]
    pairs = make_pairs(data.labels, data.test, folds=3, per_fold=20)
    assert test["pairs"]["sha256"] == pairs.sha256
    assert test["pairs"]["num_genuine"] == test["pairs"]["num_impostors"] == 60
    assert test["num_identities"] == 3
    assert len(test["pairs"]["fold_accuracy"]) == 3
    assert not test["pairs"]["disjoint_folds"]  # three digits are too few for three folds
    assert test["pairs"]["intervals"]["by"] == "identities"
    everything = len(data.test) * (len(data.test) - 1) // 2
    assert sum(test["all_pairs"][f"num_{k}"] for k in ("genuine", "impostors")) == everything
    searches = test["identification"]
    assert searches["num_gallery"] == 3
    assert 0 <= searches["rank1"] <= searches["rank5"] == 1
    assert (
        searches["open_set"]["num_mated"] + searches["open_set"]["num_strangers"]
        == (searches["num_probes"])
    )
    assert searches["rank1_with_distractors"].keys() == {"10"}
    log = [r for r in read_log(tmp_path / "run" / "log.jsonl") if "val_eer" in r]
    best = min(log, key=lambda record: (record["val_eer"], -record["val_separation"]))
    assert result["best_step"] == best["step"]
    assert result["val"]["pairs"]["eer"] == best["val_eer"]
    assert result["identities"] == [data.classes[n] for n in np.unique(data.labels[data.train])]
    run = load_run(tmp_path / "run")
    again = run.evaluate(pairs, resamples=20)
    assert again.items() <= test["pairs"].items()
    assert run.threshold == result["val"]["threshold"]


@pytest.mark.parametrize("kind", ["images", "clouds"])
def test_resume_ends_with_the_same_bits(tmp_path, kind):
    """Crops, BatchNorm's statistics, the head and Adam's moments among them."""
    pytest.importorskip("pytorch_metric_learning")
    make = tiny_verify if kind == "images" else tiny_clouds
    config = make(loss="arcface", train={"schedule": "constant"}, resamples=0)
    dataset = None if kind == "images" else in_memory(clouds(), config.data)
    whole = train_verify(config, tmp_path / "whole", dataset=dataset)
    train_verify(with_train(config, steps=4), tmp_path / "parts", dataset=dataset)
    with pytest.raises(CheckpointError, match="already holds a run"):
        train_verify(config, tmp_path / "parts", dataset=dataset)
    parts = train_verify(config, tmp_path / "parts", resume=True, dataset=dataset)
    for name in ("last.safetensors", "best.safetensors"):
        one, two = (tensors(tmp_path / run / name) for run in ("whole", "parts"))
        assert one.keys() == two.keys()
        assert all(torch.equal(one[place], two[place]) for place in one)
        assert any("head" in place for place in one)
    assert (parts["test"], parts["val"]) == (whole["test"], whole["val"])


@pytest.mark.parametrize("loss", ["softmax", "arcface"])
def test_faces_never_seen_are_told_apart(tmp_path, monkeypatch, loss):
    if loss != "softmax":
        pytest.importorskip("pytorch_metric_learning")
    monkeypatch.setenv("POLYGRAPH_CACHE", str(tmp_path / "cache"))
    root = write_faces(tmp_path / "faces", people=16, suffix="pgm")
    data = IdentityDataConfig("folder", str(root), size=12, channels=1, test_fraction=0.4)
    config = tiny_verify(
        data, loss=loss, resamples=0, augment=AugmentConfig(), folds=3,
        train={"steps": 40, "eval_every": 20, "learning_rate": 0.02, "batch_size": 16},
    )  # fmt: skip
    result = train_verify(config, tmp_path / "run")
    assert result["test"]["pairs"]["auc"] > 0.8  # 0.5 is a guess
    assert result["test"]["pairs"]["disjoint_folds"]


def test_identities_of_shuffled_labels_are_not_told(tmp_path):
    """The negative control: accuracy of verification is that of a guess."""
    data = open_identities(DATA)
    shuffled = np.random.default_rng(0).permutation(data.labels)
    config = tiny_verify(pairs_per_fold=200, resamples=0)
    parts = in_memory(replace(data, labels=shuffled), DATA)
    result = train_verify(config, tmp_path / "run", dataset=parts)
    assert 0.4 < result["test"]["pairs"]["auc"] < 0.6


def test_another_run_is_refused(tmp_path):
    config = tiny_verify(train={"steps": 1}, resamples=0)
    train_verify(config, tmp_path / "run")
    for change, what in (
        ({"loss": "norm-softmax"}, "loss"),
        ({"augment": AugmentConfig()}, "augment.crop_padding"),
        ({"data": replace(DATA, seed=1)}, "dataset_hash"),
        ({"data": replace(DATA, split_seed=1)}, "split_hash"),
        ({"pair_seed": 1}, "val_pairs_hash"),
        ({"mirror": True}, "mirror"),
        ({"embedding_dim": 9}, "embedding_dim"),
        ({"model": LeNetConfig(size=12)}, "model.channels"),
    ):
        if what == "loss":
            pytest.importorskip("pytorch_metric_learning")
        other = replace(config, **change)
        assert other.digest() != config.digest()
        with pytest.raises(CheckpointError, match=f"{what} is"):
            train_verify(other, tmp_path / "run", resume=True)


def test_models_and_data_must_fit(tmp_path):
    run = tmp_path / "run"
    for config, message in (
        (tiny_verify(model=CLOUD_MODEL), "must take images, those of glyphs.*takes point clouds"),
        (tiny_verify(model=replace(MODEL, size=16)), "size must be 12"),
        (tiny_verify(model=replace(MODEL, num_classes=5)), "num_classes must be 8, for glyphs"),
        (tiny_verify(train={"batch_size": 1}), "batch_size must be at least 2"),
        (tiny_verify(replace(DATA, test_names="1,x")), "no identity 'x'"),
    ):
        with pytest.raises(ValueError, match=message):
            train_verify(config, run)
    few = in_memory(clouds(points=5), IdentityDataConfig("arrays"))
    with pytest.raises(ValueError, match="k must be at most 5"):
        train_verify(tiny_clouds(), run, dataset=few)
    assert not run.exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"embedding_dim": 1}, "embedding_dim must be at least 2"),
        ({"folds": 1}, "folds must be at least 2"),
        ({"pairs_per_fold": 0}, "pairs_per_fold must be at least 1"),
        ({"resamples": -1}, "resamples must be at least 0"),
        ({"point_scale": 0.5}, "point_scale must be finite and at least 1"),
        ({"margin": 28.6}, r"margin must be in \[0, 3.14\)"),
        ({"loss": "arc"}, "loss must be one of"),
        ({"model": DGCNNClassifierConfig(), "mirror": True}, "mirror is for images"),
    ],
)
def test_bad_configurations(settings, message):
    with pytest.raises(ValueError, match=message):
        VerifyRunConfig(**settings)
    with pytest.raises(TypeError, match="model must be a config of an embedder, got 3"):
        VerifyRunConfig(model=3)


def test_halves_are_apart():
    labels = np.array([1, 0, 1, 1, 2, 0, 0, 0])
    enrolled, probes = halves(labels)
    assert enrolled.tolist() == [0, 1, 2, 4, 5]
    assert probes.tolist() == [3, 6, 7]
    assert identification_summary(np.eye(3), np.arange(3), np.eye(3)) is None
    rows = np.eye(4)[[0, 0, 1, 1, 2, 2]]
    found = identification_summary(rows, np.arange(6) // 2, np.repeat(np.eye(4)[3:], 10, 0))
    assert (found["rank1"], found["rank1_with_distractors"]) == (1.0, {"10": 1.0})
    assert found["open_set"]["num_strangers"] == 1
    assert [point["resolved"] for point in found["open_set"]["tpir_at_fpir"]] == [False, False]


def test_checkpoints_of_something_else(tmp_path):
    path = tmp_path / "x.safetensors"
    for meta in ({}, {"family": "pixel", "config": {"model": {"k": "x"}}}, {"family": "none"}):
        save_checkpoint(path, {"modules": {"model": {"w": torch.zeros(2)}}}, meta)
        with pytest.raises(CheckpointError, match="not a checkpoint of an embedder"):
            load_embedder(path)


def parsed(*words):
    return parse_train_verify([*words, "--out", "x"])[0]


def test_what_a_command_line_stands_for():
    plain = parsed()
    assert plain.train == verify_train_config()
    assert (plain.preset, plain.data.kind, plain.augment) == (
        "bed/conv", "glyphs", AugmentConfig(),
    )  # fmt: skip
    assert parsed("DIR").data == IdentityDataConfig("folder", "DIR")
    faces = parsed("DIR", "--kind", "orl", "--mirror", "true", "--margin", "0.3")
    assert (faces.augment, faces.mirror, faces.margin) == (AugmentConfig(4, True), True, 0.3)
    words = ["DIR", "--kind", "omniglot", "--test-names", "Greek,Latin", "--size", "28"]
    assert parsed(*words).data == IdentityDataConfig(
        "omniglot", "DIR", size=28, test_names="Greek,Latin"
    )
    bodies = parsed("DIR", "--kind", "meshes", "--k", "8", "--every", "4")
    assert (bodies.preset, bodies.model.k, bodies.data.every) == ("dgcnn", 8, 4)
    assert parsed("a.npz", "--kind", "points").preset == "dgcnn"
    sgd = parsed("--config", "verify-sgd").train
    assert (sgd.optimizer, sgd.batch_size, sgd.milestones) == ("sgd", 512, (10, 16, 22))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--preset", "bed/cov"], "did you mean 'bed/conv'"),
        (["--loss", "arcfaec"], "did you mean 'arcface'"),
        (["--kind", "orll", "--data", "x"], "did you mean 'orl'"),
        (["--mirror", "maybe"], "mirror must be bool, got 'maybe'"),
        (["--margin", "x"], "margin must be float or null, got 'x'"),
        (["--preset", "dgcnn", "--width", "6"], "unknown setting --model.width"),
    ],
)
def test_wrong_settings_are_usage_errors(tmp_path, capsys, words, message):
    out = tmp_path / "run"
    assert main(["train", "verify", "--out", str(out), *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not out.exists()


def test_the_command_line(tmp_path, capsys, monkeypatch):
    """Train, resume, verify two pictures; what no run can do yet."""
    monkeypatch.setenv("POLYGRAPH_CACHE", str(tmp_path / "cache"))
    root, out = write_faces(tmp_path / "faces"), str(tmp_path / "run")
    words = ["train", "verify", str(root), "--width", "4", "--size", "12", "--loss", "softmax"]
    words += ["--batch-size", "8", "--embedding-dim", "8", "--folds", "2", "--resamples", "5"]
    words += ["--accelerator", "cpu", "--schedule", "constant", "--mirror", "true", "--out", out]
    assert main([*words, "--steps", "2"]) == 0
    printed = capsys.readouterr().out
    assert "20 of 5 train, 8 of 2 validate, 12 of 3 test" in printed
    assert "of 3 identities never seen" in printed
    assert main(["train", "verify", "--out", out, "--resume", "--steps", "3"]) == 0
    assert "3 steps" in capsys.readouterr().out
    one, other = (str(root / f"s{n}" / "0.pgm") for n in (0, 1))
    assert main(["verify", "--run", out, one, other, "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    run = verify.load(out)
    assert row["threshold"] == run.threshold
    assert row["similarity"] == run.similarity(run.read(one), run.read(other))[0]
    assert row["same"] == (row["similarity"] >= run.threshold)
    assert main(["verify", "--run", out, one, one]) == 0
    assert ": same (similarity 1.000, threshold" in capsys.readouterr().out
    mirrored = run.read(one)[..., ::-1].copy()
    assert run.similarity(run.read(one), mirrored)[0] == pytest.approx(1)
    for bad in (run.read(one)[:, None], run.read(one) / 2, np.zeros((0, 3, 12, 12), np.uint8)):
        with pytest.raises(ValueError, match=r"images must be uint8 of shape \[B, 3, H, W\]"):
            run.embed(bad)
    assert main(["predict", "--run", out, one]) == 1
    assert "holds a network for verification" in capsys.readouterr().err
    (tmp_path / "run" / "result.json").unlink()
    assert main(["verify", "--run", out, one, other]) == 1
    assert "no threshold yet" in capsys.readouterr().err


@pytest.mark.parametrize("preset", ["ir50", "prodpoly-ir50"])
def test_networks_of_faces(tmp_path, preset):
    """Their head gives embeddings of the size that is asked for; a picture and its mirror, one."""
    draw = np.random.default_rng(0)
    images, people = draw.integers(0, 256, (40, 3, 16, 16)).astype(np.uint8), np.arange(40) % 8
    run = verify.train(
        (images, people), tmp_path / "run", preset=preset, loss="softmax", say=lambda line: None,
        steps=2, batch_size=8, width=4, size=16, embedding_dim=24, mirror=True, folds=2,
        resamples=0, accelerator="cpu", model={"depths": [1, 1]},
    )  # fmt: skip
    config = run.model.config
    assert (config.block, config.embedding_only, config.order) == (
        "ir", True, 2 if preset.startswith("prodpoly") else 1,
    )  # fmt: skip
    found = run.embed(images[:3])
    assert found.shape == (3, 24)
    np.testing.assert_allclose(run.embed(images[:3, ..., ::-1].copy()), found, atol=1e-5)


def test_clouds(tmp_path):
    """From arrays: embeddings do not depend on the order of points; files are read."""
    points, labels = clouds()
    run = verify.train(
        (points, labels), tmp_path / "run", loss="softmax", say=lambda line: None, folds=2,
        steps=3, batch_size=8, k=6, embedding_dim=8, resamples=0, accelerator="cpu",
        model={"edge_channels": [8, 8], "embedding_channels": 32, "head_channels": [16, 12]},
    )  # fmt: skip
    turned = points[:2, ::-1].copy()
    np.testing.assert_allclose(run.embed(turned), run.embed(points[:2]), atol=1e-5)
    path = tmp_path / "a.xyz"
    np.savetxt(path, points[0])
    assert main(["verify", "--run", str(tmp_path / "run"), str(path), str(path)]) == 0
    with pytest.raises(ValueError, match="as many second samples as first ones, 2, got 1"):
        run.similarity(points[:2], points[0])
    for bad, message in ((points[0, :, :2], r"clouds must have shape \[B, N, 3\]"),):
        with pytest.raises(ValueError, match=message):
            run.embed(bad)
    with pytest.raises(TypeError, match="data must be a folder"):
        verify.train(3, tmp_path / "other")
    with pytest.raises(ValueError, match="has 48 samples, and the pairs name"):
        run.evaluate(make_pairs(np.arange(200) // 2))


def test_bodies(tmp_path, monkeypatch):
    """Vertices of registered meshes, by the command line; a mesh's cloud is read, centred."""
    monkeypatch.setenv("POLYGRAPH_CACHE", str(tmp_path / "cache"))
    points, labels = clouds(points=30)
    np.save(tmp_path / "vertices.npy", points.astype(np.float32) + 3)
    np.save(tmp_path / "faces.npy", np.array([[0, 1, 2], [1, 2, 3]]))
    frames = [{"identity": f"p{n}"} for n in labels.tolist()]
    (tmp_path / "frames.json").write_text(json.dumps(frames))
    words = ["train", "verify", str(tmp_path), "--kind", "meshes", "--data.num-points", "20"]
    words += ["--k", "6", "--model.edge-channels", "8", "8", "--model.embedding-channels", "16"]
    words += ["--model.head-channels", "8", "--loss", "softmax", "--steps", "2", "--folds", "2"]
    words += ["--batch-size", "8", "--resamples", "0", "--accelerator", "cpu"]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    np.savetxt(tmp_path / "a.xyz", points[0] + 3)
    run = verify.load(tmp_path / "run")
    assert run.read(tmp_path / "a.xyz").shape == (20, 3)
    assert np.abs(run.read(tmp_path / "a.xyz")).max() < 2
    assert run.result["identities"][0].startswith("p")
