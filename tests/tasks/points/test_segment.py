"""Training segmenters of point clouds: data, metrics, result, resume, prediction, bad input."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.tiny_points import tiny_points

from polygraph.cli import main
from polygraph.data import ShapeDataConfig, ShapeDataset, make_objects, open_shapes
from polygraph.mesh.cloud import read_cloud
from polygraph.models import DGCNNSegmenterConfig
from polygraph.tasks import points
from polygraph.tasks.points.run import load_classifier, load_network
from polygraph.tasks.points.segment import segmentation_summary
from polygraph.tasks.points.training import train_points
from polygraph.train.batches import PartBatches, PointBatches
from polygraph.train.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from polygraph.train.log import read_log

MODEL = DGCNNSegmenterConfig(
    num_parts=None,
    num_categories=None,
    k=6,
    edge_channels=((8, 8), (8,)),
    embedding_channels=32,
    category_channels=8,
    head_channels=(16, 12),
)
DATA = ShapeDataConfig(num_shapes=48, num_points=48, built_in="objects")


def tiny_segment(**train):
    return replace(tiny_points(**train), task="segment", model=MODEL, data=DATA)


def flat(state):
    return {k: v for k, v in state["modules"]["model"].items() if isinstance(v, torch.Tensor)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("segment") / "run"
    config = tiny_segment(steps=150, eval_every=50, learning_rate=0.02)
    return folder, train_points(replace(config, label_smoothing=0.0), folder)


def archive(path, **changes):
    arrays = {**make_objects(24, 32), **changes}
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    return str(path)


def test_objects_have_parts():
    arrays = make_objects(40, 200, seed=3)
    data = open_shapes(replace(DATA, num_shapes=40, num_points=200, seed=3))
    assert np.array_equal(data.parts.labels, arrays["part"])
    assert data.classes == ("mug", "table", "lamp", "rocket")
    assert data.parts.numbers() == [[0, 1], [2, 3], [4, 5, 6], [7, 8, 9]]
    xyz = arrays["xyz"] / 32767
    assert np.abs(np.linalg.norm(xyz, axis=2).max(1) - 1).max() < 1e-4
    for cloud, part, label in zip(xyz, arrays["part"], arrays["label"], strict=True):
        if label == 1:  # the top of a table lies above its legs
            assert cloud[part == 2, 1].min() >= cloud[part == 3, 1].max() - 1e-4
        if label == 3:  # the nose of a rocket above its hull
            assert cloud[part == 8, 1].min() >= cloud[part == 7, 1].max() - 1e-4
    again = make_objects(8, 200, seed=3)
    assert np.array_equal(again["xyz"], arrays["xyz"][:8])  # each from seed and number alone


def test_iou_by_hand():
    of_class = np.array([[True, True, False, False], [False, False, True, True]])
    parts = np.array([[0, 0, 1, 1], [0, 0, 0, 0], [2, 2, 3, 3]])
    found = np.array([[0, 1, 1, 1], [0, 0, 0, 0], [2, 2, 2, 0]])
    result = segmentation_summary(found, parts, np.array([0, 0, 1]), of_class, ("a", "b"))
    one = (1 / 2 + 2 / 3) / 2  # part 0: one of two; part 1: two of three
    two = 1.0  # part 1 is neither there nor answered
    three = (2 / 3 + 0) / 2  # an answer of another class is merely wrong
    assert result["mean_iou"] == pytest.approx((one + two + three) / 3)
    assert result["per_class"] == pytest.approx({"a": (one + two) / 2, "b": three})
    assert result["mean_class_iou"] == pytest.approx(((one + two) / 2 + three) / 2)
    assert result["accuracy"] == pytest.approx(9 / 12)
    assert result["num_samples"] == 3


def test_batches_give_the_parts_of_their_points():
    data, config = open_shapes(DATA), tiny_segment().train
    batches = PartBatches(data, config, scale=1.5, shift=0.2)
    shared = [PartBatches(data, config, scale=1.5, shift=0.2, rank=r, world=2) for r in range(2)]
    table = {row.tobytes(): part for row, part in zip(data.points, data.parts.labels, strict=True)}
    plain = PartBatches(data, config)
    for step in range(8):
        clouds, parts, classes = batches(step)
        assert parts.dtype == classes.dtype == torch.int64
        same = PointBatches(data, config, scale=1.5, shift=0.2)(step)
        assert torch.equal(clouds, same[0])
        assert torch.equal(classes, same[1])
        for cloud, part in zip(*plain(step)[:2], strict=True):
            assert np.array_equal(table[cloud.numpy().tobytes()], part.numpy())
        halves = torch.stack([batch(step)[1] for batch in shared], 1).flatten(0, 1)
        assert torch.equal(halves, parts)


def test_training_learns(trained):
    folder, result = trained
    data = open_shapes(DATA)
    assert result["test"]["num_samples"] == len(data.test)
    assert set(result["test"]["per_class"]) == set(data.classes)
    # The most frequent part of each class alone gives 0.31.
    assert result["test"]["mean_iou"] > 0.5
    assert json.loads((folder / "result.json").read_text()) == json.loads(json.dumps(result))
    log = [record for record in read_log(folder / "log.jsonl") if "val_error" in record]
    best = min(log, key=lambda record: record["val_score"])
    assert best["step"] == result["best_step"]
    assert 1 - result["val"]["mean_iou"] == best["val_error"]
    assert result["config"]["model"]["num_parts"] == 10
    assert result["config"]["model"]["num_categories"] == 4


def test_resume_ends_with_the_same_bits(tmp_path):
    config = tiny_segment(schedule="constant")
    whole = train_points(config, tmp_path / "whole")
    short = replace(config, train=replace(config.train, steps=5, checkpoint_every=5))
    train_points(short, tmp_path / "parts")
    parts = train_points(config, tmp_path / "parts", resume=True)
    for name in ("last.safetensors", "best.safetensors"):
        one, two = (flat(load_checkpoint(tmp_path / run / name)[0]) for run in ("whole", "parts"))
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one)
    assert (parts["test"], parts["val"]) == (whole["test"], whole["val"])
    data = open_shapes(DATA)
    other = replace(data, parts=replace(data.parts, labels=data.parts.labels[:, ::-1]))
    with pytest.raises(CheckpointError, match="parts_hash is"):
        train_points(config, tmp_path / "parts", resume=True, dataset=other)


def test_the_run(trained):
    folder, result = trained
    run, data = points.load(folder), open_shapes(DATA)
    assert run.parts == data.parts.names
    assert run.takes_class
    assert run.evaluate() == result["test"]
    assert run.evaluate(data, part="val") == result["val"]
    clouds = data.points[data.test]
    names = [data.classes[label] for label in data.labels[data.test]]
    found = run.predict(clouds, names)
    assert found.shape == clouds.shape[:2]
    assert found.dtype == np.int64
    right = float((found == data.parts.labels[data.test]).mean())
    assert right == pytest.approx(result["test"]["accuracy"])
    assert np.array_equal(run.predict(clouds, data.labels[data.test]), found)
    assert np.allclose(run.predict_proba(clouds[:2], "mug").sum(-1), 1)
    with pytest.raises(CheckpointError, match="a segmenter of points, not a classifier"):
        load_classifier(folder / "best.safetensors")
    for classes, message in (
        (None, "name one of mug, table, lamp, rocket"),
        ("mugg", "unknown class 'mugg'; did you mean 'mug'"),
        (4, "unknown class '4'"),
        (-1, "unknown class '-1'"),
        (["mug"], "classes must be of 3 clouds, got 1"),
    ):
        with pytest.raises(ValueError, match=message):
            run.predict(clouds[:3], classes)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("parts", ["a"]),
        ("parts", None),
        ("parts_of_class", [[0], [1]]),
        ("parts_of_class", [[0, 1], [2, 3], [4, 5, 6], [7, 10]]),
        ("parts_of_class", [[0, 1], [2, 3], [4, 5, 6], []]),
        ("classes", ["a", "b"]),
        ("config", [1]),
    ],
    ids=["few-parts", "no-parts", "few-classes", "part-10", "class-without", "classes", "config"],
)
def test_damaged_descriptions(trained, tmp_path, name, value):
    state, meta = load_checkpoint(trained[0] / "best.safetensors")
    path = tmp_path / "x.safetensors"
    save_checkpoint(path, state, {**meta, name: value})
    with pytest.raises(CheckpointError, match=r"not a checkpoint of a point cloud network"):
        load_network(path)


def test_evaluating_other_data(trained, tmp_path):
    run = points.load(trained[0])
    arrays = make_objects(24, 32, seed=5)
    names = {"classes": arrays["classes"], "part_names": arrays["parts"]}
    clouds, labels = arrays["xyz"] / 32767, arrays["label"]
    good = ShapeDataset.from_arrays(clouds, labels, parts=arrays["part"], **names)
    assert run.evaluate(good)["num_samples"] == len(good.test)
    with pytest.raises(ValueError, match="its points have no labels"):
        run.evaluate(ShapeDataset.from_arrays(clouds, labels, classes=arrays["classes"]))
    renamed = {**names, "part_names": [*"abcdefghij"]}
    with pytest.raises(ValueError, match="has the parts a, b"):
        run.evaluate(ShapeDataset.from_arrays(clouds, labels, parts=arrays["part"], **renamed))
    mixed = arrays["part"].copy()
    mixed[0, 0] = 9
    with pytest.raises(ValueError, match="'mug' has points of part 'rocket fins'"):
        run.evaluate(ShapeDataset.from_arrays(clouds, labels, parts=mixed, **names))


def test_from_python_with_arrays(tmp_path):
    arrays = make_objects(24, 32)
    clouds, labels = torch.from_numpy(arrays["xyz"] / 32767), np.zeros(24, np.int64)
    small = {"edge_channels": [[8], [8]], "embedding_channels": 16, "head_channels": [12, 8]}
    settings = {"steps": 2, "batch_size": 4, "accelerator": "cpu", "k": 4, "model": small}
    run = points.train(
        (clouds, labels, arrays["part"] % 2),
        tmp_path / "run",
        task="segment",
        say=lambda line: None,
        **settings,
    )
    assert not run.takes_class  # there is one class: nothing is told
    assert run.parts == ("0", "1")
    assert run.predict(clouds[0]).shape == (1, 32)
    assert run.evaluate() == run.result["test"]
    with pytest.raises(ValueError, match="not told the class"):
        run.predict(clouds, "0")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"part": None, "parts": None}, "its points have no labels"),
        ({"part": None}, "parts names parts, but the array part is missing"),
        ({"part": np.zeros((24, 31), int)}, r"part must be integers of shape \[24, 32\].*24, 31"),
        ({"part": np.zeros((24, 32))}, "part must be integers.*float64"),
        ({"part": np.full((24, 32), 10)}, r"in \[0, 10\), got 10 for point 0 of cloud 0"),
        ({"part": np.full((24, 32), -1)}, r"in \[0, 10\), got -1 for point 0 of cloud 0"),
        ({"part": np.full((24, 32), 3), "parts": None}, "got none of part 0 .*may be absent"),
        ({"part": np.zeros((24, 32), int), "parts": None}, "at least 2 parts, got 1"),
        ({"parts": np.arange(10)}, r"parts must be strings of shape \[number of parts\]"),
    ],
    ids=[
        "no-parts", "names-alone", "shape", "floats", "too-large", "negative", "gap", "one-part",
        "names",
    ],
)  # fmt: skip
def test_bad_parts(tmp_path, changes, message):
    path = archive(tmp_path / "bad.npz", **changes)
    config = replace(tiny_segment(steps=1), data=ShapeDataConfig(path))
    with pytest.raises(ValueError, match=f"bad.npz: .*{message}"):
        train_points(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_part_that_only_tests(tmp_path):
    arrays = make_objects(24, 32)
    part = np.zeros((24, 32), int)
    part[arrays["is_test"], 0] = 1
    config = ShapeDataConfig(archive(tmp_path / "x.npz", part=part))
    with pytest.raises(ValueError, match="got none of part 1 "):
        open_shapes(config)


def test_models_that_do_not_fit(tmp_path):
    config = tiny_segment(steps=1)
    for change, message in (
        ({"num_parts": 9}, "num_parts must be 10.*got 9"),
        ({"num_categories": 3}, "num_categories must be 4.*got 3"),
        ({"k": 49}, "k must be at most 48"),
    ):
        with pytest.raises(ValueError, match=message):
            train_points(replace(config, model=replace(MODEL, **change)), tmp_path / "run")
    with pytest.raises(ValueError, match="must be DGCNNClassifierConfig for task 'classify'"):
        replace(config, task="classify")


def test_the_command_line(tmp_path, capsys):
    out, data = str(tmp_path / "run"), archive(tmp_path / "a.npz")
    words = ["train", "points", data, "--task", "segment", "--out", out, "--k", "4"]
    words += ["--model.edge-channels", "[[8,8],[8]]", "--model.head-channels", "12,8"]
    words += ["--model.embedding-channels", "16", "--batch-size", "4", "--accelerator", "cpu"]
    assert main([*words, "--steps", "2", "--schedule", "constant"]) == 0
    assert "mean IoU" in capsys.readouterr().out
    assert main(["train", "points", "--out", out, "--resume", "--steps", "3"]) == 0
    cloud = make_objects(1, 40)["xyz"][0] / 32767
    for name in ("mug", "cup"):
        np.savetxt(tmp_path / f"{name}.xyz", cloud * 3 + 5)
    files = [str(tmp_path / f"{name}.xyz") for name in ("mug", "cup")]
    capsys.readouterr()
    words = ["predict", "--run", out, *files, "--unit-sphere", "--class", "mug"]
    assert main([*words, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [sum(row["parts"].values()) for row in rows] == [40, 40]
    written = tmp_path / "mug.parts.ply"
    assert rows[0]["file"] == str(written)
    assert np.array_equal(read_cloud(written), read_cloud(files[0]))
    assert main([*words, "--npy", "--out", str(tmp_path / "new")]) == 0
    assert "mug.parts.npy" in capsys.readouterr().out
    labels = np.load(tmp_path / "new" / "mug.parts.npy")
    assert labels.shape == (40,)
    assert labels.dtype == np.int64
    body = written.read_bytes().partition(b"end_header\n")[2]
    kinds = [*((axis, "<f8") for axis in "xyz"), ("rgb", "u1", 3), ("part", "<i4")]
    assert np.array_equal(np.frombuffer(body, kinds)["part"], labels)
    assert main(["predict", "--run", out, files[0]]) == 1
    assert "name one of mug, table, lamp, rocket" in capsys.readouterr().err
    assert main(["predict", "--run", out, files[0], files[0], "--class", "mug"]) == 2
    assert "would both be" in capsys.readouterr().err


def test_wrong_words_are_usage_errors(tmp_path, capsys):
    out = str(tmp_path / "run")
    assert main(["train", "points", "--task", "segmnt", "--out", out]) == 2
    assert "unknown task 'segmnt'; did you mean 'segment'" in capsys.readouterr().err
    assert main(["train", "points", "--data.built_in", "object", "--out", out]) == 2
    assert "unknown built_in 'object'" in capsys.readouterr().err
    assert main(["train", "points", "shapes", "--task", "segment", "--out", out]) == 1
    assert "its points have no labels" in capsys.readouterr().err


def test_options_of_segmenters(tmp_path, capsys):
    train_points(tiny_points(steps=1), tmp_path / "run")
    np.savetxt(tmp_path / "a.xyz", make_objects(1, 40)["xyz"][0] / 32767)
    words = ["predict", "--run", str(tmp_path / "run"), str(tmp_path / "a.xyz")]
    assert main([*words, "--npy"]) == 2
    assert "--npy is for segmenters" in capsys.readouterr().err
