"""Training of denoisers: patches, noise, measures, runs; and the command that uses them."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from support.tiny_pictures import QUICK, pictures, write_pictures

from polygraph.cli import main
from polygraph.data.pictures import (
    PictureDataConfig,
    open_pictures,
    pictures_from_arrays,
    read_pixels,
)
from polygraph.tasks import denoise
from polygraph.tasks.denoise import measure
from polygraph.tasks.denoise.picture_training import DenoiseRunConfig
from polygraph.train.checkpoint import CheckpointError
from polygraph.train.config import TrainConfig
from polygraph.train.patch_batches import PatchBatches


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLYGRAPH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory, cache):
    """A small network, of grey pictures."""
    folder = tmp_path_factory.mktemp("denoise") / "run"
    said = []
    run = denoise.train(pictures(), folder, say=said.append, **QUICK)
    assert "3 pictures train, 1 validate, 1 test; noise 25 of 255" in said[0]
    return run


# ---- patches and noise ----


def test_patches_are_of_the_pictures_and_noise_is_not_clipped():
    """Every way up occurs; a patch is found in its picture; noise has its deviation."""
    images = [p[None] for p in pictures(2)]
    config = TrainConfig(batch_size=64, seed=3)
    clean, noise = PatchBatches(images, config, 16, (50.0,))(7)
    assert clean.shape == noise.shape == (64, 1, 16, 16)
    assert noise.std().item() == pytest.approx(50 / 255, rel=0.03)
    assert ((clean + noise) < 0).any(), "unclipped"
    windows = np.concatenate(
        [np.lib.stride_tricks.sliding_window_view(p[0], (16, 16)).reshape(-1, 256) for p in images]
    )
    known = {w.tobytes() for w in windows}
    ways = set()
    for patch in (clean[:, 0] * 255).round().byte().numpy():
        found = [
            (turns, mirror)
            for turns in range(4)
            for mirror in (False, True)
            for back in [np.rot90(patch[:, ::-1] if mirror else patch, -turns)]
            if np.ascontiguousarray(back).tobytes() in known
        ]
        assert found
        ways |= set(found)
    assert len(ways) == 8
    again = PatchBatches(images, config, 16, (50.0,))(7)
    assert torch.equal(noise, again[1])
    halves = [PatchBatches(images, config, 16, (50.0,), rank=r, world=2)(7)[1] for r in (0, 1)]
    assert torch.equal(torch.stack(halves, 1).flatten(0, 1), noise)


def test_noise_of_a_range():
    images = [p[None] for p in pictures(2)]
    _, noise = PatchBatches(images, TrainConfig(batch_size=200), 16, (5.0, 50.0))(0)
    sigma = noise.flatten(1).std(1) * 255
    assert 4 < sigma.min() < 10
    assert 45 < sigma.max() < 56
    assert sigma.mean().item() == pytest.approx(27.5, abs=3)


def test_measures_are_the_published_ones():
    """PSNR by its formula, of each picture; unclipped noise of 25 has 20.17 dB."""
    clean = measure.as_float(pictures(1, 120, 120)[0][None])
    noise = torch.from_numpy(measure.noise_of(clean.shape, 25, 0, 0))
    row = dict(
        zip(
            measure.COLUMNS,
            measure.measure_row(clean + noise / 2, clean + noise, clean),
            strict=True,
        )
    )
    assert row["noisy_psnr"] == pytest.approx(20.17, abs=0.15)
    error = ((clean + noise / 2).clamp(0, 1) - clean).double()
    assert row["psnr"] == pytest.approx(-10 * error.square().mean().log10().item(), abs=1e-4)
    rounded = ((clean + noise / 2).clamp(0, 1) * 255).round() / 255
    error = (rounded - clean).double().square().mean()
    assert row["psnr_8bit"] == pytest.approx(-10 * error.log10().item(), abs=1e-4)
    assert 0 < row["noisy_ssim"] < row["ssim"] < 1
    assert measure.ssim(clean, clean) == pytest.approx(1)
    with pytest.raises(ValueError, match="at least 11 rows and columns"):
        measure.ssim(clean[:, :10], clean[:, :10])


# ---- runs ----


def test_a_run_says_what_it_is(trained):
    result = trained.result
    for part in ("val", "test"):
        found = result[part]
        assert found["num_pictures"] == 1
        assert found["noisy_psnr"] == pytest.approx(20.17, abs=0.5)
        assert list(found["levels"]) == ["25"]
        assert found["noise"]["seed"] == 0
        assert len(found["noise"]["sha256"]) == 64
        assert abs(found["psnr"] - found["psnr_8bit"]) < 0.1
    assert trained.sigma == (25.0,)
    assert "sigma 25" in repr(trained)
    (clean,) = (trained.dataset.pictures[n] for n in trained.dataset.parts["test"])
    assert trained.evaluate([clean[0]], 25)["psnr"] == result["test"]["psnr"]
    assert trained.evaluate([clean[0]], 25, seed=1)["psnr"] != result["test"]["psnr"]


def test_resumed_is_as_never_stopped(trained, tmp_path, cache):
    arrays = pictures()
    half = tmp_path / "run"
    # A cosine goes to the end, so a run of fewer steps is another: this one stops in its midst.
    calls = []

    class Stop(Exception):
        pass

    from polygraph.tasks.denoise.picture_training import DenoiseTask

    real = DenoiseTask.training_step

    def step(self, number):
        calls.append(number)
        if number == 4 and len(calls) == 5:
            raise Stop
        return real(self, number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DenoiseTask, "training_step", step)
        with pytest.raises(Stop):
            denoise.train(arrays, half, say=lambda line: None, **QUICK)
        with pytest.raises(CheckpointError, match="already holds a run"):
            denoise.train(arrays, half, say=lambda line: None, **QUICK)
        run = denoise.train(arrays, half, say=lambda line: None, resume=True, **QUICK)
    assert calls[5] == 3, "from the checkpoint"
    assert run.result["test"] == trained.result["test"]
    for a, b in zip(run.model.parameters(), trained.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_folders_colours_and_ranges(tmp_path, cache):
    """train/ and a folder that tests; a network of colours, for noise of a range."""
    images = pictures(4, channels=3)
    write_pictures(tmp_path / "data/train", images[:2])
    write_pictures(tmp_path / "data/val", images[2:3])
    write_pictures(tmp_path / "test", images[3:])
    settings = QUICK | {"preset": "gcdn-33", "model": {"width": 6, "blocks": 1, "k": 4}}
    run = denoise.train(
        tmp_path / "data",
        tmp_path / "run",
        test=tmp_path / "test",
        channels=3,
        sigma=[5, 50],
        say=lambda line: None,
        **settings | {"steps": 1},
    )
    assert run.meta["pictures"] == {"train": 2, "val": 1, "test": 1}
    assert (run.model.config.channels, run.sigma) == (3, (5.0, 50.0))
    assert list(run.result["test"]["levels"]) == ["5", "27.5", "50"]
    assert list(run.result["test"]["levels"]["5"]["per_picture"]) == ["0.png"]
    assert run.denoise(images[0]).shape == images[0].shape
    with pytest.raises(ValueError, match=r"the run is of colours, picture must have shape"):
        run.denoise(images[0][..., 0])


def test_pictures_are_divided():
    config = PictureDataConfig(kind="arrays", val_fraction=0.2, test_fraction=0.3)
    made = pictures_from_arrays(pictures(10), config)
    assert {part: len(numbers) for part, numbers in made.parts.items()} == {
        "train": 5,
        "val": 2,
        "test": 3,
    }
    assert len({p.tobytes() for p in made.pictures}) == 10
    assert "5 train, 2 val, 3 test" in repr(made)
    other = pictures_from_arrays(pictures(10), PictureDataConfig(kind="arrays", split_seed=1))
    assert other.content_hash != made.content_hash


def test_what_cannot_be_trained_on(tmp_path):
    with pytest.raises(ValueError, match="want pictures to train, to validate and to test, got 2"):
        pictures_from_arrays(pictures(2), PictureDataConfig(kind="arrays"))
    with pytest.raises(ValueError, match=r"uint8 of shape \[H, W\], got float32"):
        pictures_from_arrays([p.astype(np.float32) for p in pictures()], PictureDataConfig())
    with pytest.raises(FileNotFoundError, match="no such folder"):
        open_pictures(PictureDataConfig(kind="folder", path=str(tmp_path / "none")))
    with pytest.raises(ValueError, match=r"train 1|must have at least 42 rows and columns"):
        denoise.train(pictures(), tmp_path / "run", say=lambda line: None, **QUICK | {"patch": 42})
    for sigma in ([], [0.0], [30.0, 20.0], [1.0, 2.0, 3.0], [float("nan")], [300.0]):
        with pytest.raises(ValueError, match="sigma must be one number, or two"):
            DenoiseRunConfig(sigma=tuple(sigma))


def test_built_in_pictures():
    pytest.importorskip("skimage")
    found = open_pictures(PictureDataConfig())
    assert [found.names[n] for n in found.parts["test"]] == ["camera.png", "moon.png"]
    assert all(p.shape[0] == 1 and min(p.shape[1:]) > 200 for p in found.pictures)


# ---- pictures through a run, and the command ----


def test_denoise_takes_bytes_and_floats(trained):
    clean = pictures(1)[0]
    noisy = clean / 255 + measure.noise_of(clean.shape, 25, 5, 0)
    made = trained.denoise(noisy)
    assert made.dtype == np.float32
    with torch.no_grad():
        wanted = trained.model(torch.from_numpy(noisy).float()[None, None])[0, 0]
    np.testing.assert_allclose(made, wanted, atol=1e-6)
    colours = np.stack([clean, clean // 2, clean // 3], 2)
    found = trained.denoise(colours)
    assert found.dtype == np.uint8
    for n in range(3):
        np.testing.assert_array_equal(found[..., n], trained.denoise(colours[..., n]))
    tiles = trained.denoise(noisy, tile=20, overlap=trained.model.reach)
    np.testing.assert_allclose(tiles, made, atol=1e-5)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.zeros((9, 9, 4), np.uint8), "must not have an alpha channel"),
        (np.zeros((9, 9), np.uint16), "uint8, or floats in which white is 1, got uint16"),
        (np.full((9, 9), np.nan), "must be finite, got 81 values"),
        (np.full((9, 9), 200.0), "white must be 1 in a picture of floats, got a value of 200"),
        (np.zeros((9, 9, 9, 3)), r"must have shape \[H, W\] or \[H, W, 3\]"),
        (np.zeros((0, 9)), r"must have shape \[H, W\]"),
    ],
)
def test_pictures_that_are_none(trained, picture, message):
    with pytest.raises(ValueError, match=message):
        trained.denoise(picture)


def test_the_command(trained, tmp_path, capsys, monkeypatch):
    (source,) = pictures(1)
    path = write_pictures(tmp_path / "in", [source]) / "0.png"
    run = ["--run", str(trained.folder)]
    assert main(["denoise", str(path), str(tmp_path / "o/out.png"), *run, "--sigma", "24"]) == 0
    said = capsys.readouterr()
    assert "40 x 34, noise 24.0, network for 25" in said.out
    assert said.err == ""
    np.testing.assert_array_equal(read_pixels(tmp_path / "o/out.png")[0], trained.denoise(source))
    assert main(["denoise", str(path), str(tmp_path / "out.npy"), *run, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["trained_for"] == [25.0]
    assert np.load(tmp_path / "out.npy").dtype == np.float32
    assert main(["denoise", str(path), str(tmp_path / "a.png"), *run, "--sigma", "60"]) == 0
    assert "trained for 25: noise will stay" in capsys.readouterr().err
    pytest.importorskip("skimage")
    pytest.importorskip("pywt")
    noisy = source / 255 + measure.noise_of(source.shape, 20, 0, 0)
    np.save(tmp_path / "noisy.npy", noisy)
    words = [str(tmp_path / "noisy.npy"), str(tmp_path / "b.png"), *run, "--sigma", "auto"]
    assert main(["denoise", *words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sigma"] == pytest.approx(20, rel=0.15)


def test_files_that_are_refused(trained, tmp_path, capsys):
    Image.fromarray(np.zeros((20, 20), np.uint16)).save(tmp_path / "wide.png")
    Image.fromarray(np.zeros((20, 20, 4), np.uint8)).save(tmp_path / "alpha.png")
    (tmp_path / "text.png").write_text("no picture")
    np.save(tmp_path / "nan.npy", np.full((20, 20), np.nan))
    wide = tmp_path / "wide_colours.png"
    wide.write_bytes(wide_png())
    for name, message in (
        ("wide.png", "want 8 bits a channel"),
        ("wide_colours.png", "want 8 bits a channel, got 16"),
        ("alpha.png", "it has transparent pixels"),
        ("text.png", "not a readable picture"),
        ("nan.npy", "must be finite"),
        ("none.png", "No such file"),
    ):
        words = [str(tmp_path / name), str(tmp_path / "o.png"), "--run", str(trained.folder)]
        assert main(["denoise", *words]) == 1, name
        assert message in capsys.readouterr().err, name
    for words, message in (
        (["o.gif"], "out must end in .png"),
        (["o.png", "--sigma", "bright"], "sigma must be auto or above 0"),
        (["o.png", "--tile", "64"], "below half of tile = 64, got 48"),
    ):
        assert main(["denoise", "a.png", *words, "--run", str(trained.folder)]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "o.png").exists()


def wide_png():
    """16 bits in each of three channels, of which Pillow would keep 8."""
    import struct
    import zlib

    def chunk(kind, data):
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)
    rows = zlib.compress((b"\0" + bytes(48)) * 8)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def test_the_demo_ends_with_a_picture(tmp_path, capsys):
    pytest.importorskip("skimage")
    words = ["demo-denoise", "--steps", "2", "--preset", "dncnn-10", "--out", str(tmp_path)]
    assert main(words) == 0
    assert "denoised" in capsys.readouterr().out
    assert (tmp_path / "before_after.png").stat().st_size > 10_000
