"""The WAV reader against the standard library's writer, and damaged files."""

import struct

import numpy as np
import pytest
from support.sounds import wav_bytes, write_pcm

from polygraph.data import read_wav
from polygraph.data.audio.sounds import read_sound, resample
from polygraph.data.audio.wav import read_wav_header

EXTENSION = bytes.fromhex("000001000000001000800000aa00389b71")[3:]


def extended(encoding, bits, valid=None):
    """What follows the first 16 bytes of the longer header."""
    return struct.pack("<HHIH", 22, valid or bits, 0, encoding) + EXTENSION


@pytest.mark.parametrize("bits", [8, 16, 24, 32])
@pytest.mark.parametrize("channels", [1, 3])
def test_integers_are_what_was_written(tmp_path, bits, channels):
    most = 2 ** (bits - 1)
    rng = np.random.default_rng(bits)
    values = rng.integers(-most, most, 60)
    values[:3] = most - 1, -most, 0
    path = write_pcm(tmp_path / "a.wav", values, 11025, bits, channels)
    samples, rate = read_wav(path)
    wanted = (values.reshape(-1, channels) / most).mean(1)
    assert (samples.dtype, rate) == (np.float32, 11025)
    np.testing.assert_array_equal(samples, wanted.astype(np.float32))
    first, _ = read_wav(path, 7)
    np.testing.assert_array_equal(first, samples[:7])
    assert read_wav_header(path)[:5] == (11025, channels, bits, False, 60 // channels)


@pytest.mark.parametrize("longer", [False, True], ids=["plain", "extensible"])
@pytest.mark.parametrize("bits", [32, 64])
def test_floats_are_what_was_written(tmp_path, bits, longer):
    values = np.random.default_rng(0).normal(size=40)
    data = values.astype(f"<f{bits // 8}").tobytes()
    more = {"encoding": 0xFFFE, "tail": extended(3, bits)} if longer else {"encoding": 3}
    path = tmp_path / "a.wav"
    path.write_bytes(wav_bytes(data, bits=bits, channels=2, **more))
    samples, _ = read_wav(path)
    np.testing.assert_allclose(samples, values.reshape(-1, 2).mean(1), rtol=1e-6)


def test_the_longer_header_and_chunks_in_between(tmp_path):
    """20 valid bits lie on top of 24; an odd chunk is followed by a byte."""
    values = np.array([2**23 - 16, -(2**23), 4096])
    data = np.ascontiguousarray(values, "<i4").view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
    odd = b"LIST" + struct.pack("<I", 5) + b"words\0"
    path = tmp_path / "a.wav"
    tail = extended(1, 24, 20)
    path.write_bytes(wav_bytes(data, encoding=0xFFFE, bits=24, tail=tail, before=odd) + b"id3")
    np.testing.assert_array_equal(read_wav(path)[0], (values / 2**23).astype(np.float32))


GOOD = wav_bytes(bytes(range(40)))
DAMAGED = {
    "empty": (b"", "wrong magic number.*got b''"),
    "big endian": (b"RIFX" + GOOD[4:], "wrong magic number.*RIFX"),
    "text": (b"no sound at all", "wrong magic number"),
    "header alone": (GOOD[:12], "truncated: ends before its chunk of samples"),
    "half a header": (GOOD[:30], "truncated: its chunk b'fmt ' has 16 bytes, got 10"),
    "a byte is lost": (GOOD[:-1], "truncated: its chunk b'data' has 40 bytes, got 39"),
    "absurd size": (
        GOOD[:40] + b"\xff\xff\xff\xff" + GOOD[44:],
        "truncated: its chunk b'data' has 4294967295 bytes, got 40",
    ),
    "no samples": (wav_bytes(b""), "want at least one sample, got none"),
    "no channels": (wav_bytes(bytes(4), channels=0), "channels must be 1 to 64, got 0"),
    "many channels": (wav_bytes(bytes(4), channels=999), "channels must be 1 to 64, got 999"),
    "no rate": (wav_bytes(bytes(4), rate=0), "rate must be 1000 to 768000, got 0"),
    "high rate": (wav_bytes(bytes(4), rate=2**32 - 1, step=0), "rate must be 1000 to 768000"),
    "12 bits": (wav_bytes(bytes(4), bits=12), "8, 16, 24 or 32 bits, got 12"),
    "half floats": (wav_bytes(bytes(4), encoding=3), "floats must have 32 or 64 bits, got 16"),
    "ADPCM": (wav_bytes(bytes(4), encoding=2), r"integers \(PCM\) or floats, got encoding ADPCM"),
    "unknown": (wav_bytes(bytes(4), encoding=999), "got encoding number 999"),
    "GUID": (wav_bytes(bytes(4), encoding=0xFFFE, tail=bytes(24)), "no known encoding"),
    "short GUID": (wav_bytes(bytes(4), encoding=0xFFFE), "no known encoding"),
    "frame": (wav_bytes(bytes(4), step=3), "1 x 16 bits has 2 bytes, its header says 3"),
    "rest": (wav_bytes(bytes(5)), "5 bytes of samples are no whole frames of 2 bytes"),
    "order": (GOOD[:12] + GOOD[36:], "come before their description"),
    "short form": (
        GOOD[:16] + struct.pack("<I", 14) + GOOD[20:34] + GOOD[36:],
        "must have 16 bytes or more, got 14",
    ),
    "chunks": (GOOD[:12] + (b"junk" + bytes(4)) * 1001, "more than 1000 chunks"),
    "NaN": (
        wav_bytes(struct.pack("<3f", 0, np.nan, 0), encoding=3, bits=32),
        "finite in float32, got nan at 1",
    ),
    "too large": (
        wav_bytes(struct.pack("<2d", 0, 1e300), encoding=3, bits=64),
        "finite in float32, got inf at 1",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_are_refused_by_name(tmp_path, name):
    data, message = DAMAGED[name]
    path = tmp_path / "damaged.wav"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"damaged\.wav: .*{message}"):
        read_wav(path)


def test_what_is_cut_or_changed_anywhere_is_refused_or_read(tmp_path):
    """Nothing but a ValueError, whatever a byte becomes and wherever the file ends."""
    rng, path = np.random.default_rng(0), tmp_path / "a.wav"
    refused, read = [], []
    for case in range(150):
        data = bytearray(GOOD if case % 2 else wav_bytes(bytes(64), encoding=3, bits=32))
        data[rng.integers(len(data))] = rng.integers(256)
        cut = case % 3 == 0
        path.write_bytes(bytes(data[: rng.integers(len(data))] if cut else data))
        try:
            samples, _ = read_wav(path)
        except ValueError as error:
            refused.append(str(error).startswith(str(path)))
        else:
            read.append(not cut and np.isfinite(samples).all())
    assert all(refused)
    assert all(read)
    assert min(len(refused), len(read)) > 30


def test_no_file_and_other_formats(tmp_path):
    with pytest.raises(ValueError, match=r"none\.wav: no such file"):
        read_wav(tmp_path / "none.wav")
    with pytest.raises(ValueError, match=r"none\.flac: no such file"):
        read_sound(tmp_path / "none.flac")
    (tmp_path / "a.flac").write_bytes(b"no sound")
    try:
        import soundfile  # noqa: F401
    except ImportError:
        with pytest.raises(ImportError, match=r"a\.flac: .*pip install 'polygraph-nn\[audio\]'"):
            read_sound(tmp_path / "a.flac")
    else:
        with pytest.raises(ValueError, match=r"a\.flac: not a readable sound"):
            read_sound(tmp_path / "a.flac")


def test_other_formats_by_soundfile(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    values = np.random.default_rng(0).integers(-(2**15), 2**15, (4000, 2), np.int16)
    soundfile.write(tmp_path / "a.flac", values, 8000)
    samples, rate = read_sound(tmp_path / "a.flac", seconds=0.25)
    assert rate == 8000
    np.testing.assert_array_equal(samples, (values[:2000] / 2**15).mean(1).astype(np.float32))


def test_another_rate_keeps_what_is_heard(tmp_path):
    """A sine below half of both rates stays what it is, but for its ends; one above is gone."""
    pytest.importorskip("scipy")

    def sine(pitch, rate):
        return np.sin(2 * np.pi * pitch * np.arange(rate) / rate).astype(np.float32)

    for rate, to in ((44100, 16000), (8000, 16000), (16000, 8000)):
        found = resample(sine(440, rate), rate, to)
        assert (found.dtype, len(found)) == (np.float32, to)
        np.testing.assert_allclose(found[200:-200], sine(440, to)[200:-200], atol=5e-3)
    assert np.abs(resample(sine(7000, 16000), 16000, 8000)[200:-200]).max() < 0.01
    with pytest.raises(ValueError, match="from 44101 to 767999 is no ratio of small numbers"):
        resample(sine(440, 44101), 44101, 767999)
    values = np.round(sine(440, 44100) * 2**14).astype(int)
    path = write_pcm(tmp_path / "a.wav", np.tile(values, 3), 44100)
    whole = resample(read_wav(path)[0], 44100, 16000)
    part, rate = read_sound(path, 16000, 0.5)
    assert (len(part), rate) == (8000, 16000)
    np.testing.assert_allclose(part, whole[:8000], atol=1e-6)  # the filter reads beyond the end
