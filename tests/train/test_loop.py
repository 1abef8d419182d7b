"""The loop on a toy task: resume after SIGKILL, stops, sampling, schedule, log."""

import csv
import errno
import json
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.children import begin, finish
from support.toy_task import SAMPLES, go_on, train

from polygraph.train import checkpoint
from polygraph.train.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from polygraph.train.config import TrainConfig, config_hash, sample_indices
from polygraph.train.lock import locked_folder
from polygraph.train.log import read_log
from polygraph.train.loop import Trainer, TrainingStopped

KILLED_STEPS = 400  # long enough (a second) that kills fall inside


def assert_same_state(first, second):
    one, two = load_checkpoint(first)[0], load_checkpoint(second)[0]
    assert one.keys() == two.keys()
    for part in one:
        flat_one, flat_two = checkpoint_tensors(one[part]), checkpoint_tensors(two[part])
        assert flat_one.keys() == flat_two.keys()
        assert all(torch.equal(flat_one[key], flat_two[key]) for key in flat_one)


def checkpoint_tensors(tree, prefix=""):
    if isinstance(tree, torch.Tensor):
        return {prefix: tree}
    if isinstance(tree, dict):
        items = tree.items()
    elif isinstance(tree, list | tuple):
        items = enumerate(tree)
    else:
        return {}
    return {
        k: v for key, item in items for k, v in checkpoint_tensors(item, f"{prefix}/{key}").items()
    }


def test_a_slow_process_does_not_see_the_first_ones_checkpoint(tmp_path):
    """Another process looks for an earlier run before the first one can write anything."""
    fabric = SimpleNamespace(global_rank=1, barriers=0)

    def barrier():
        fabric.barriers += 1
        if fabric.barriers == 2:  # now the first process goes on
            (tmp_path / "last.safetensors").touch()

    fabric.barrier = barrier
    trainer = Trainer(SimpleNamespace(num_samples=8), TrainConfig(steps=3), fabric, tmp_path)
    assert trainer._start(resume=False) is False
    assert fabric.barriers == 2
    with pytest.raises(CheckpointError, match="already holds a run"):
        trainer._start(resume=False)


def test_killed_runs_end_with_the_same_bits(tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        train(tmp_path / "whole", steps=KILLED_STEPS)
    finally:
        torch.set_num_threads(threads)
    folder, kills = tmp_path / "killed", 0
    moments = random.Random(3)
    for _ in range(2):
        process = begin(go_on, folder, KILLED_STEPS)
        seen = len(read_log(folder / "log.jsonl"))
        deadline = time.monotonic() + 60
        while len(read_log(folder / "log.jsonl")) <= seen and process.is_alive():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(moments.uniform(0.0, 0.4))
        if process.is_alive():
            process.kill()
            kills += 1
        process.join()
        assert process.exitcode in (-signal.SIGKILL, 0)
    assert kills >= 1, "the runs ended before they could be killed: raise KILLED_STEPS"
    finish(go_on, folder, KILLED_STEPS)
    for name in ("last.safetensors", "best.safetensors"):
        assert_same_state(tmp_path / "whole" / name, folder / name)
    logs = [
        [{k: v for k, v in r.items() if k != "seconds"} for r in read_log(path / "log.jsonl")]
        for path in (tmp_path / "whole", folder)
    ]
    assert [r["step"] for r in logs[0]] == [r["step"] for r in logs[1]]
    assert not list(folder.glob(".*"))


def test_resume_in_one_process_is_exact_at_every_boundary(tmp_path):
    train(tmp_path / "whole", steps=13)
    for stop in (1, 4, 12):
        folder = tmp_path / str(stop)
        train(folder, steps=stop)
        train(folder, steps=13, resume=True)
        assert_same_state(tmp_path / "whole" / "last.safetensors", folder / "last.safetensors")


def test_noise_matters_so_that_equality_means_something(tmp_path):
    train(tmp_path / "a", steps=5, seed=0)
    train(tmp_path / "b", steps=5, seed=1)
    a, b = (load_checkpoint(tmp_path / n / "last.safetensors")[0] for n in "ab")
    assert not torch.equal(a["modules"]["net"]["0.weight"], b["modules"]["net"]["0.weight"])


def test_best_is_chosen_by_validation(tmp_path):
    trainer, _ = train(tmp_path)
    scores = {r["step"]: r["val_loss"] for r in read_log(tmp_path / "log.jsonl") if "val_loss" in r}
    best = min(scores, key=scores.get)
    assert list(scores) == [6, 12, 18, 24, 30, 36, 42, 48, 54, 60]
    assert trainer.progress.best_step == best
    assert trainer.progress.best_score == scores[best]
    assert load_checkpoint(tmp_path / "best.safetensors")[1]["progress"]["step"] == best


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_with_the_last_good_checkpoint(tmp_path, value):
    with pytest.raises(TrainingStopped, match=rf"step 11 of 60: the loss is {value}.*step 8\)"):
        train(tmp_path, poison={10: lambda loss: loss * value})
    state, meta = load_checkpoint(tmp_path / "last.safetensors")
    assert meta["progress"]["step"] == 8
    assert all(torch.isfinite(t).all() for t in checkpoint_tensors(state).values())


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    def bad_gradient(loss):  # finite loss, infinite gradient
        return loss + (loss - loss.detach()) * 1e38 * 1e38

    with pytest.raises(TrainingStopped, match=r"net.*is not finite after step 4.*step 0\)"):
        train(tmp_path, poison={3: bad_gradient}, eval_every=50)
    assert load_checkpoint(tmp_path / "last.safetensors")[1]["progress"]["step"] == 0


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("no more"),
        torch.OutOfMemoryError("CUDA out of memory. Tried"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes."),
    ],
)
def test_out_of_memory_stops_clearly(tmp_path, error):
    def fail(loss):
        raise error

    with pytest.raises(TrainingStopped, match=r"step 9 of 60: out of memory.*step 8\)"):
        train(tmp_path, poison={9: fail})


def test_defects_are_not_dressed_up(tmp_path):
    def fail(loss):
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match=r"^shapes do not fit$"):
        train(tmp_path, poison={2: fail})


def test_full_disk_stops_and_the_run_goes_on_later(tmp_path, monkeypatch):
    train(tmp_path / "whole", steps=20)
    folder = tmp_path / "full"
    calls, real = Counter(), os.fsync

    def fsync(handle):
        calls["n"] += 1
        if calls["n"] > 12:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.os, "fsync", fsync)
        with pytest.raises(TrainingStopped, match=r"cannot write.*No space left.*step \d+\)"):
            train(folder, steps=20)
    assert load_checkpoint(folder / "last.safetensors")[1]["progress"]["step"] < 20
    train(folder, steps=20, resume=True)
    assert_same_state(tmp_path / "whole" / "last.safetensors", folder / "last.safetensors")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_log_on_a_full_device_stops(tmp_path):
    (tmp_path / "log.jsonl").symlink_to("/dev/full")
    with pytest.raises(TrainingStopped, match="No space left"):
        train(tmp_path)
    assert load_checkpoint(tmp_path / "last.safetensors")[1]["progress"]["step"] in (0, 4)


def test_a_run_is_not_overwritten_nor_resumed_with_other_settings(tmp_path):
    train(tmp_path, steps=4)
    with pytest.raises(CheckpointError, match="already holds a run"):
        train(tmp_path, steps=4)
    with pytest.raises(
        CheckpointError, match=r"train\.learning_rate is 0\.001 there and 0\.01 here"
    ):
        train(tmp_path, steps=8, resume=True, learning_rate=0.01)
    with pytest.raises(CheckpointError, match=r"train\.batch_size is 8 there and 4 here"):
        train(tmp_path, steps=8, resume=True, batch_size=4)


def test_sampling_is_pure_and_fair(tmp_path):
    assert np.array_equal(sample_indices(1, 10, 4, 7), sample_indices(1, 10, 4, 7))
    assert not np.array_equal(sample_indices(1, 1000, 4, 7), sample_indices(2, 1000, 4, 7))
    stream = np.concatenate([sample_indices(5, 10, 4, step) for step in range(15)])
    for epoch in stream.reshape(6, 10):
        assert sorted(epoch) == list(range(10))
    assert not np.array_equal(stream[:10], stream[10:20])
    assert sample_indices(0, 1, 3, 5).tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="at least one sample, got 0"):
        sample_indices(0, 0, 3, 5)
    _, task = train(tmp_path, steps=5)
    for step, seen in enumerate(task.seen):
        assert np.array_equal(seen, sample_indices(0, SAMPLES, 8, step))


def test_schedules():
    published = TrainConfig(steps=100, batch_size=10)
    assert published.learning_rate_at(0, 20) == 1e-3
    assert published.learning_rate_at(1, 20) == 1e-3
    assert published.learning_rate_at(2, 20) == pytest.approx(1e-3 * 0.99, rel=1e-15)
    assert published.learning_rate_at(21, 20) == pytest.approx(1e-3 * 0.99**10, rel=1e-15)
    cosine = TrainConfig(steps=100, schedule="cosine")
    assert cosine.learning_rate_at(0, 20) == 1e-3
    assert cosine.learning_rate_at(50, 20) == pytest.approx(5e-4, rel=1e-12)
    assert 0 < cosine.learning_rate_at(99, 20) < 1e-6
    assert TrainConfig(epochs=3, batch_size=8).total_steps(20) == 8  # ceil(60 / 8)
    assert TrainConfig(steps=5).total_steps(20) == 5
    with_rate = {"published": 5, "cosine": 10}
    for schedule, more in with_rate.items():  # only the cosine depends on the last step
        a, b = (TrainConfig(steps=s, schedule=schedule).semantics() for s in (5, more + 1))
        assert (a == b) == (schedule == "published")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"learning_rate": float("nan")}, "learning_rate must be positive"),
        ({"weight_decay": -1.0}, "weight_decay must be 0 or more"),
        ({"seed": -1}, "seed must be in"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**settings)


def test_log_and_curve(tmp_path):
    train(tmp_path, steps=12)
    records = read_log(tmp_path / "log.jsonl")
    assert [r["step"] for r in records if "loss" in r] == [5, 10, 12]
    with open(tmp_path / "curve.csv") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [5, 6, 10, 12]
    assert float(rows[-1]["val_loss"]) == records[-1]["val_loss"]
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"step": 99, "lo')  # cut off by a crash
    assert read_log(tmp_path / "log.jsonl") == records


def test_what_was_logged_after_the_checkpoint_is_written_once(tmp_path):
    train(tmp_path / "whole", steps=20)
    train(tmp_path / "parts", steps=8)
    with open(tmp_path / "parts" / "log.jsonl", "a") as file:
        file.write('{"step": 10, "loss": 1.0}\n{"step": 12, "va')  # killed before the checkpoint
    train(tmp_path / "parts", steps=20, resume=True)
    logs = [read_log(tmp_path / name / "log.jsonl") for name in ("whole", "parts")]
    steps = [[r["step"] for r in log if "loss" in r] for log in logs]
    assert steps == [[5, 10, 15, 20], [5, 8, 10, 15, 20]]  # 8 was the last step once
    assert [r for r in logs[1] if r.get("loss") == 1.0] == []


def test_tensorboard_events(tmp_path):
    pytest.importorskip("tensorboard")
    train(tmp_path, steps=5, tensorboard=True)
    assert list(tmp_path.glob("events.out.tfevents*"))


def test_progress_bar_only_when_asked(tmp_path, capsys):
    train(tmp_path / "quiet", steps=3)
    assert capsys.readouterr().err == ""
    train(tmp_path / "shown", steps=3, progress=True)
    assert "3/3" in capsys.readouterr().err


def test_config_hash_ignores_order():
    assert config_hash({"a": 1, "b": [2]}) == config_hash(json.loads('{"b": [2], "a": 1}'))
    assert config_hash(TrainConfig()) != config_hash(TrainConfig(seed=1))


def test_one_process_trains_in_a_folder(tmp_path):
    train(tmp_path, steps=4)
    before = (tmp_path / "log.jsonl").read_bytes()
    with (
        locked_folder(tmp_path),
        pytest.raises(CheckpointError, match=rf"process {os.getpid()} is training in this folder"),
    ):
        train(tmp_path, steps=8, resume=True)
    assert (tmp_path / "log.jsonl").read_bytes() == before
    train(tmp_path, steps=8, resume=True)


def test_means_of_the_log_go_on_over_a_kill(tmp_path):
    """Lines of the log are means of 5 steps, checkpoints come every 4."""
    train(tmp_path / "whole", steps=20)

    def kill(loss):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts", steps=20, poison={9: kill})
    train(tmp_path / "parts", steps=20, resume=True)
    logs = [
        [{k: v for k, v in r.items() if k != "seconds"} for r in read_log(path / "log.jsonl")]
        for path in (tmp_path / "whole", tmp_path / "parts")
    ]
    assert logs[0] == logs[1]


def test_temporaries_of_samples_are_removed(tmp_path):
    train(tmp_path, steps=4)
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / ".0000004.png.12.tmp").write_bytes(b"ha")
    train(tmp_path, steps=8, resume=True)
    assert not list((tmp_path / "samples").iterdir())


@pytest.mark.parametrize(
    "change",
    [
        lambda state, meta: meta["progress"].update(step=-1),
        lambda state, meta: meta["progress"].update(step=True),
        lambda state, meta: meta["progress"].update(best_step=99),
        lambda state, meta: meta["progress"].update(more=1),
        lambda state, meta: meta.update(log={"sums": 3}),
        lambda state, meta: meta.pop("identity"),
        lambda state, meta: state.pop("optimizers"),
        lambda state, meta: state["modules"]["net"].pop("0.bias"),
        lambda state, meta: state["modules"]["net"]["0.bias"].fill_(float("nan")),
        lambda state, meta: state["optimizers"]["net"]["state"][0].update(exp_avg=torch.ones(3)),
        lambda state, meta: state["optimizers"]["net"]["param_groups"][0].update(params=[7]),
    ],
)
def test_what_no_run_wrote_is_refused(tmp_path, change):
    train(tmp_path, steps=4)
    state, meta = load_checkpoint(tmp_path / "last.safetensors")
    change(state, meta)
    save_checkpoint(tmp_path / "last.safetensors", state, meta)
    with pytest.raises(CheckpointError, match=r"last\.safetensors"):
        train(tmp_path, steps=8, resume=True)


def test_settings_of_the_optimizer_are_those_of_the_run(tmp_path):
    train(tmp_path / "whole", steps=8)
    train(tmp_path / "parts", steps=4)
    state, meta = load_checkpoint(tmp_path / "parts" / "last.safetensors")
    state["optimizers"]["net"]["param_groups"][0].update(betas=(0.1, 0.2), weight_decay=9.0)
    save_checkpoint(tmp_path / "parts" / "last.safetensors", state, meta)
    train(tmp_path / "parts", steps=8, resume=True)
    assert_same_state(*(tmp_path / n / "last.safetensors" for n in ("whole", "parts")))
