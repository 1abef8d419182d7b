"""Checkpoint files: round trip, atomic replacement, damaged and foreign files."""

import errno
import json
import os
import re

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from polygraph.train import checkpoint
from polygraph.train.checkpoint import (
    CheckpointError,
    load_checkpoint,
    load_weights,
    read_json,
    read_meta,
    remove_temporaries,
    save_checkpoint,
    write_atomic,
)


def trained_adam():
    net = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1 + 0.2, betas=(0.5, 0.9))
    net(torch.ones(4, 3)).sum().backward()
    optimizer.step()
    return net, optimizer


def test_round_trip_keeps_types_and_bits(tmp_path):
    net, optimizer = trained_adam()
    state = {
        "net": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "half": torch.randn(2, 3).to(torch.bfloat16),
        "tied": [net.weight, net.weight],
        "empty": torch.zeros(0, 4),
        "scalars": (1, 0.1, None, True, "x", float("inf")),
        5: {"integer key": -1},
    }
    save_checkpoint(tmp_path / "a.safetensors", state, {"step": 3})
    loaded, meta = load_checkpoint(tmp_path / "a.safetensors")
    assert meta == {"step": 3} == read_meta(tmp_path / "a.safetensors")
    assert loaded["scalars"] == state["scalars"]
    assert loaded[5] == {"integer key": -1}
    assert loaded["half"].dtype == torch.bfloat16
    assert torch.equal(loaded["half"], state["half"])
    assert loaded["empty"].shape == (0, 4)
    assert torch.equal(loaded["tied"][1], net.weight)
    group = loaded["optimizer"]["param_groups"][0]
    assert group["lr"] == 0.1 + 0.2
    assert group["betas"] == (0.5, 0.9)
    other, fresh = trained_adam()
    other.load_state_dict(loaded["net"])
    fresh.load_state_dict(loaded["optimizer"])
    for key, value in optimizer.state_dict()["state"][0].items():
        assert torch.equal(fresh.state_dict()["state"][0][key], value)


def test_strided_and_shared_tensors_are_stored_by_value(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    save_checkpoint(tmp_path / "a.safetensors", {"t": base.T, "part": base[:, 1:3]})
    loaded, _ = load_checkpoint(tmp_path / "a.safetensors")
    assert torch.equal(loaded["t"], base.T)
    assert torch.equal(loaded["part"], base[:, 1:3])


def failing(code):
    def fail(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_full_disk_keeps_the_old_file(tmp_path, monkeypatch, call):
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, {"x": torch.zeros(3)})
    before = path.read_bytes()
    monkeypatch.setattr(checkpoint.os, call, failing(errno.ENOSPC))
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(path, {"x": torch.ones(3)})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_half_written_temporary_is_ignored_and_removed(tmp_path):
    path = tmp_path / "a.safetensors"
    write_atomic(path, b"whole")
    (tmp_path / ".a.safetensors.123.tmp").write_bytes(b"ha")
    assert path.read_bytes() == b"whole"
    assert [p.name for p in remove_temporaries(tmp_path)] == [".a.safetensors.123.tmp"]
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_damaged_and_foreign_files_are_refused_by_name(tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(CheckpointError, match=r"a\.safetensors: no such checkpoint"):
        load_checkpoint(path)
    save_checkpoint(path, {"x": torch.zeros(300)})
    whole = path.read_bytes()
    for cut in (0, 4, 60, len(whole) - 8):
        path.write_bytes(whole[:cut])
        with pytest.raises(CheckpointError, match=r"a\.safetensors: not a readable"):
            load_checkpoint(path)
    save_file({"x": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="not one of ours"):
        read_meta(path)
    save_file({"x": torch.zeros(2)}, path, metadata={"polygraph": "{"})
    with pytest.raises(CheckpointError, match="header is damaged"):
        read_meta(path)


def test_what_json_cannot_hold_is_refused(tmp_path):
    with pytest.raises(TypeError, match="cannot write object as JSON"):
        save_checkpoint(tmp_path / "a.safetensors", {"x": object()})
    assert not list(tmp_path.iterdir())


def flipped(data, bit):
    """The same bytes with one bit turned over."""
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_a_bit_that_turned_over_anywhere_is_noticed(tmp_path):
    path = tmp_path / "a.safetensors"
    net, _ = trained_adam()
    save_checkpoint(path, {"modules": {"model": net.state_dict()}}, {"step": 3})
    whole = path.read_bytes()
    for bit in range(0, 8 * len(whole), 61):
        path.write_bytes(flipped(whole, bit))
        for read in (load_checkpoint, read_meta):
            with pytest.raises(CheckpointError, match=r"a\.safetensors: "):
                read(path)
    path.write_bytes(flipped(whole, 8 * len(whole) - 9))
    with pytest.raises(CheckpointError, match=r"a\.safetensors: changed or not whole: SHA-256"):
        load_checkpoint(path)


def without_hash(path):
    """Rewrite a checkpoint as versions that wrote no hash did."""
    with safe_open(path, framework="pt") as file:
        document = json.loads(file.metadata()["polygraph"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    del document["sha256"]
    save_file(tensors, path, metadata={"polygraph": json.dumps(document)})
    return tensors, document


def test_files_without_a_hash_are_read(tmp_path):
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, {"x": torch.arange(3.0)}, {"step": 3})
    without_hash(path)
    state, meta = load_checkpoint(path)
    assert torch.equal(state["x"], torch.arange(3.0))
    assert meta == {"step": 3}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.full((2, 3), torch.nan), "weight holds NaN or infinity"),
        (torch.ones(3, 2), r"weight must have shape \[2, 3\], got \[3, 2\]"),
        (torch.ones(2, 3, dtype=torch.int32), "weight must have dtype .* got torch.int32"),
        (torch.ones(2, 3, dtype=torch.float64), "bias must have dtype torch.float64, got"),
        (None, "weight must be a tensor, got NoneType"),
    ],
)
def test_weights_are_checked_before_they_are_taken(tmp_path, value, message):
    path = tmp_path / "a.safetensors"
    net = torch.nn.Linear(3, 2)
    before = net.weight.clone()
    save_checkpoint(path, {"modules": {"model": {"weight": value, "bias": torch.ones(2)}}})
    with pytest.raises(CheckpointError, match=rf"a\.safetensors: model: {message}"):
        load_weights(net, path)
    assert torch.equal(net.weight, before)


def test_json_in_too_many_lists(tmp_path):
    path = tmp_path / "a.json"
    for depth in (70, 100_000):
        path.write_text("[" * depth + "]" * depth)
        with pytest.raises(CheckpointError, match=r"a\.json: .*more than 64 lists"):
            read_json(path)
    path.write_text("[" * 60 + "]" * 60)
    assert len(read_json(path)) == 1
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(CheckpointError, match=r"a\.json: cannot be opened"):
        read_json(path)
    with pytest.raises(CheckpointError, match="not a file but a folder"):
        read_json(tmp_path)
    for path in (tmp_path, tmp_path / "loop"):
        (tmp_path / "loop").unlink(missing_ok=True)
        (tmp_path / "loop").symlink_to("loop")
        with pytest.raises(CheckpointError, match=re.escape(str(path))):
            load_checkpoint(path)
