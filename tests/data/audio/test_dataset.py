"""Layouts, splits, rates and the cache of sounds; what cannot be opened."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from support.sounds import digits, tone, wav_bytes, write_pcm

from polygraph.data import AudioDataConfig, AudioDataset, open_audio
from polygraph.data.audio.layouts import find_clips


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("POLYGRAPH_CACHE", str(tmp_path / "cache"))


def opened(root, **settings):
    return open_audio(AudioDataConfig("auto", str(root), **settings))


def commands(root, noise=True):
    """Two words by four speakers in the layout of Speech Commands."""
    for word, pitch in (("yes", 400), ("no", 900)):
        for speaker in ("0a", "1b", "2c", "3d"):
            for take in (0, 1):
                write_pcm(root / word / f"{speaker}_nohash_{take}.wav", tone(pitch + 9 * take))
    (root / "validation_list.txt").write_text("yes/2c_nohash_0.wav\nno/2c_nohash_1.wav\n")
    (root / "testing_list.txt").write_text("yes/3d_nohash_0.wav\nno/3d_nohash_0.wav\n\n")
    (root / "LICENSE").write_text("words")
    if noise:
        hum = np.random.default_rng(0).integers(-999, 999, 20000)
        write_pcm(root / "_background_noise_" / "hum.wav", hum)
    return root


def test_spoken_digits(tmp_path):
    data = opened(digits(tmp_path / "digits", takes=7))
    assert data.samples.dtype == np.int16  # as the files have them
    assert (len(data), data.rate, data.classes) == (42, 8000, ("0", "1", "2"))
    assert data.split == "official"  # takes 0 to 4 test
    assert (len(data.train), len(data.test), data.val) == (12, 30, None)
    files = sorted(path.name for path in (tmp_path / "digits").iterdir())
    for n, name in enumerate(files):
        word, speaker, take = name.removesuffix(".wav").split("_")
        assert (data.classes[data.labels[n]], data.speakers[n]) == (word, speaker)
        assert (n in data.test) == (int(take) < 5)
    clip = data.clips(np.array([3]))[0].numpy()
    wanted = tone(300 + 15).astype(np.float32) / 32768
    np.testing.assert_array_equal(clip[:4000], wanted)
    assert not clip[4000:].any()


def test_speech_commands(tmp_path):
    data = opened(commands(tmp_path / "words"))
    assert (data.classes, data.split, len(data)) == (("no", "yes"), "official", 16)
    assert [len(part) for part in (data.train, data.val, data.test)] == [12, 2, 2]
    assert {data.speakers[n] for n in data.test} == {"3d"}
    assert {data.speakers[n] for n in data.val} == {"2c"}
    assert data.noise.shape == (2, 8000)  # 2.5 seconds
    held = opened(tmp_path / "words", split="speaker:0a,1b")
    assert {held.speakers[n] for n in held.test} == {"0a", "1b"}
    assert (len(held.test), held.val) == (8, None)
    assert held.content_hash == data.content_hash
    assert held.split_hash != data.split_hash
    without = opened(commands(tmp_path / "quiet", noise=False))
    assert without.noise.shape == (0, 8000)
    assert without.content_hash != data.content_hash


def test_lists_of_speech_commands_are_needed_and_looked_at(tmp_path):
    root = commands(tmp_path / "words")
    listed = root / "testing_list.txt"
    whole = listed.read_text()
    for text, message in (
        ("yes/9z_nohash_0.wav", r"line 1: no clip 'yes/9z_nohash_0.wav' is here"),
        (f"{whole}yes/2c_nohash_0.wav", "line 4: 'yes/2c_nohash_0.wav' is listed more than once"),
        ("../x.wav", "line 1: no clip"),
    ):
        listed.write_text(text)
        with pytest.raises(ValueError, match=rf"testing_list\.txt: {message}"):
            opened(root)
    listed.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"testing_list\.txt: no text"):
        opened(root)
    listed.unlink()
    with pytest.raises(FileNotFoundError, match=r"testing_list\.txt: no such file.*--split"):
        opened(root)
    assert len(opened(root, split="speaker:3d").test) == 4
    write_pcm(root / "yes" / "odd.wav", tone(400))
    with pytest.raises(ValueError, match=r"odd\.wav: the layout speech-commands has WORD/SPEAKER"):
        opened(root, split="random")


def test_folders(tmp_path):
    for part in ("train", "test"):
        for word, pitch in (("a", 400), ("b", 900)):
            for n in range(3):
                write_pcm(tmp_path / "parts" / part / word / f"{n}.wav", tone(pitch))
    data = opened(tmp_path / "parts")
    assert (data.split, len(data.train), len(data.test)) == ("official", 6, 6)
    plain = opened(tmp_path / "parts" / "train")
    assert (plain.split, len(plain.train), len(plain.test)) == ("random", 4, 2)
    for split, message in (
        ("official", "split official is of folders train/ and test/"),
        ("speaker:a", "files of the layout folder do not say who speaks"),
        ("takes:0-1", "files of the layout folder do not say which take they are"),
    ):
        with pytest.raises(ValueError, match=message):
            opened(tmp_path / "parts" / "train", split=split)
    write_pcm(tmp_path / "parts" / "train" / "c.wav", tone(400))
    with pytest.raises(ValueError, match=r"c\.wav: want every sound in a folder"):
        opened(tmp_path / "parts")


def test_splits_by_take_and_by_speaker(tmp_path):
    root = digits(tmp_path / "digits")
    data = opened(root, split="takes:2-3")
    assert len(data.test) == 12
    assert len(opened(root, split="takes:2").test) == 6
    ann = opened(root, split="speaker:ann")
    assert {ann.speakers[n] for n in ann.test} == {"ann"}
    assert {ann.speakers[n] for n in ann.train} == {"bob"}
    hashes = {opened(root, split=s).split_hash for s in ("takes:2", "takes:3", "speaker:ann")}
    assert len(hashes) == 3
    for split, message in (
        ("speaker:anne", "unknown speaker 'anne'; did you mean 'ann'"),
        ("speaker:ann,bob", "split speaker:ann,bob leaves no clips to train on"),
        ("takes:7-9", "split takes:7-9 leaves no clips to test on"),
    ):
        with pytest.raises(ValueError, match=message):
            opened(root, split=split)


@pytest.mark.parametrize("split", ["speaker", "speaker:", "takes:a", "takes:3-1", "takes:", "x"])
def test_names_of_no_split(split):
    with pytest.raises(ValueError, match=f"unknown split '{split}'"):
        AudioDataConfig(split=split)


def test_rates_are_one_or_are_made_one(tmp_path):
    pytest.importorskip("scipy")
    root = digits(tmp_path / "digits")
    write_pcm(root / "0_ann_9.wav", tone(300, rate=16000), 16000)
    with pytest.raises(ValueError, match=r"2 rates \(24 of 8000 Hz, 1 of 16000 Hz\).*--data.rate"):
        opened(root)
    data = opened(root, rate=8000)
    assert (data.samples.dtype, data.samples.shape) == (np.float32, (25, 8000))
    odd = data.clips(np.array([4]))[0].numpy()  # 0_ann_9 is behind 0_ann_3
    np.testing.assert_allclose(odd[100:3900], tone(300)[100:3900] / 32768, atol=2e-3)
    assert opened(root, rate=16000, seconds=0.5).samples.shape == (25, 8000)


def test_what_was_decoded_is_kept(tmp_path):
    root = digits(tmp_path / "digits")
    first = opened(root, split="random")
    assert isinstance(first.samples, np.memmap)
    again = opened(root, split="takes:0", full_check=True)
    assert again.content_hash == first.content_hash
    path = root / "1_bob_2.wav"
    write_pcm(path, tone(5000))
    os.utime(path, (1, 1))
    with pytest.warns(UserWarning, match="has changed"):
        changed = opened(root, split="random")
    assert changed.content_hash != first.content_hash
    entry = next((tmp_path / "cache").glob("digits-*"))
    assert len(json.loads((entry / "files.json").read_text())) == 24


def test_damaged_sounds_are_named(tmp_path):
    root = digits(tmp_path / "digits")
    good = wav_bytes(tone(400).tobytes())
    for data, message in (
        (good[:-7], "truncated"),
        (b"RIFF", "wrong magic number"),
        (wav_bytes(bytes(8), channels=0), "channels must be 1"),
        (wav_bytes(np.full(9, np.nan, "<f4").tobytes(), encoding=3, bits=32), "finite"),
    ):
        (root / "2_bob_1.wav").write_bytes(data)
        with pytest.raises(ValueError, match=rf"2_bob_1\.wav: .*{message}"):
            opened(root, split="random")
    assert not list((tmp_path / "cache").glob("digits-*"))


def test_nothing_to_open(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder; want one with sounds"):
        opened(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.txt").write_text("a")
    with pytest.raises(ValueError, match=r"want at least one sound \(.*\.wav.*got none"):
        opened(tmp_path / "empty")
    noise = tmp_path / "noise" / "_background_noise_" / "a.wav"
    write_pcm(noise, tone(400))
    with pytest.raises(ValueError, match="want a folder for each word beside _background_noise_"):
        opened(tmp_path / "noise")
    write_pcm(tmp_path / "flat" / "a.wav", tone(400))
    with pytest.raises(ValueError, match=r"a\.wav: want every sound in a folder"):
        opened(tmp_path / "flat")
    with pytest.raises(ValueError, match=r"a\.wav: the layout spoken-digits has names DIGIT_"):
        find_clips(tmp_path / "flat", "spoken-digits")
    with pytest.raises(ValueError, match="arrays in memory are not kept"):
        open_audio(AudioDataConfig("arrays"))
    with pytest.raises(ValueError, match=r"2000 to 16777216 samples, got 0.1 s at 8000 Hz, 800"):
        open_audio(AudioDataConfig(seconds=0.1))


def test_arrays():
    sounds = np.random.default_rng(0).normal(size=(20, 5000))
    labels = np.arange(20) % 2
    data = AudioDataset.from_arrays(sounds, labels, 8000, classes=("a", "b"))
    assert (data.samples.dtype, data.samples.shape) == (np.float32, (20, 8000))
    np.testing.assert_array_equal(data.samples[:, :5000], sounds.astype(np.float32))
    assert (data.split, len(data.test)) == ("random", 2)
    whole = AudioDataset.from_arrays(
        (sounds * 999).astype(np.int16), labels, 8000, test=[3, 4], speakers=["x", "y"] * 10
    )
    assert (whole.test.tolist(), whole.split) == ([3, 4], "official")
    assert whole.speakers[:2] == ("x", "y")
    for arguments, message in (
        ((sounds[0], labels, 8000), r"int16 or floats of shape \[N, L\]"),
        ((sounds.astype(np.int32), labels, 8000), "whole samples must be int16, got int32"),
        ((sounds * np.inf, labels, 8000), "samples must be finite"),
        ((sounds, labels[1:], 8000), r"integers of shape \[20\]"),
        ((sounds, labels - 1, 8000), r"labels must lie in \[0, 1\)"),
        ((sounds, labels, 10), r"rate must be in \[1000, 768000\], got 10"),
    ):
        with pytest.raises(ValueError, match=message):
            AudioDataset.from_arrays(*arguments)
    with pytest.raises(ValueError, match="want a speaker of each of 20 clips"):
        AudioDataset.from_arrays(sounds, labels, 8000, speakers=["x"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "digits"}, "kind must be one of"),
        ({"path": "x"}, "path must not be set for kind 'tones'"),
        ({"kind": "auto"}, "path must be set for kind 'auto'"),
        ({"rate": 999}, r"rate must be in \[1000, 768000\], got 999"),
        ({"seconds": 0.0}, r"seconds must be in \(0, 3600\], got 0.0"),
        ({"test_fraction": 1.0}, r"test_fraction must be in \(0, 1\), got 1.0"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        AudioDataConfig(**settings)


def test_tones_are_of_their_seed():
    one, again = (open_audio(AudioDataConfig(num_clips=12)) for _ in range(2))
    other = open_audio(AudioDataConfig(num_clips=12, seed=1))
    assert one.content_hash == again.content_hash != other.content_hash
    assert replace(AudioDataConfig(), rate=16000).rate == 16000
    more = open_audio(AudioDataConfig(num_clips=24))
    np.testing.assert_array_equal(more.samples[:12], one.samples)


def test_real_digits(tmp_path, data_root):
    """All 3,000 recordings: six speakers, 50 takes of ten digits."""
    source = data_root / "spoken-digits"
    command = [sys.executable, str(source / "make.py"), str(tmp_path / "wav")]
    subprocess.run(command, check=True, capture_output=True)
    data = opened(tmp_path / "wav")
    assert (data.samples.shape, data.samples.dtype) == ((3000, 8000), np.int16)
    assert (len(data.train), len(data.test), data.split) == (2700, 300, "official")
    speakers = ["george", "jackson", "lucas", "nicolas", "theo", "yweweler"]
    assert sorted(set(data.speakers)) == speakers
    assert len(opened(tmp_path / "wav", split="speaker:theo").test) == 500
