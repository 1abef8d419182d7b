"""The classifier behind the scores: what it learns, what its file belongs to, what spoils it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from polygraph.data import ImageDataConfig, open_images
from polygraph.metrics.image_scores import collect, score
from polygraph.models.images.lenet import LeNet
from polygraph.tasks.gan.classifier import measure_accuracy, train_classifier
from polygraph.train.checkpoint import read_meta


@pytest.fixture(scope="module")
def glyphs():
    return open_images(ImageDataConfig(num_images=840, size=16))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="module")
def learned(glyphs, folder):
    return train_classifier(glyphs, folder, steps=60, batch_size=64)


def test_learns_and_says_how_well(glyphs, learned):
    assert learned.trained
    assert learned.accuracy > 0.6  # a guess is right in 0.1; 0.9 and more measured
    assert learned.accuracy == measure_accuracy(learned.model, glyphs)
    assert learned.model.label == "LeNet, glyphs-840-0"
    assert str(learned) == f"LeNet, glyphs-840-0: test accuracy {learned.accuracy:.4f}"
    assert not learned.model.training
    features, _ = learned.model.extract(glyphs.batch(glyphs.train))
    assert features.square().mean().item() == pytest.approx(1.0, rel=1e-4)  # sums in float32


def test_same_question_is_answered_from_the_file(glyphs, folder, learned):
    again = train_classifier(glyphs, folder, steps=60, batch_size=64)
    assert not again.trained
    assert (again.accuracy, again.path) == (learned.accuracy, learned.path)
    for a, b in zip(
        learned.model.state_dict().values(), again.model.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b)
    meta = read_meta(learned.path)
    assert meta["dataset"] == "glyphs-840-0"
    assert meta["identity"]["content_hash"] == glyphs.content_hash


def test_other_data_or_settings_have_another_file(glyphs, folder, learned):
    other = replace(glyphs, content_hash="0" * 64)
    paths = {
        learned.path,
        train_classifier(other, folder, 1, batch_size=64).path,
        train_classifier(glyphs, folder, 1, batch_size=64).path,
        train_classifier(glyphs, folder, 1, seed=1, batch_size=64).path,
        train_classifier(glyphs, folder, 1, batch_size=32).path,
    }
    assert len(paths) == 5


def test_training_repeats_and_leaves_the_global_generator(glyphs, tmp_path):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = train_classifier(glyphs, tmp_path / "a", 3).model
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    second = train_classifier(glyphs, tmp_path / "b", 3).model
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )


@pytest.mark.parametrize("fault", ["cut", "foreign"])
def test_damaged_weights_are_made_again(glyphs, tmp_path, fault):
    first = train_classifier(glyphs, tmp_path, 2)
    if fault == "cut":
        first.path.write_bytes(first.path.read_bytes()[:-5])
    else:
        first.path.write_bytes(train_classifier(glyphs, tmp_path, 3).path.read_bytes())
    with pytest.warns(UserWarning, match=r"lenet-.*: unusable, training again"):
        again = train_classifier(glyphs, tmp_path, 2)
    assert again.trained
    assert torch.equal(first.model.last.weight, again.model.last.weight)
    assert not train_classifier(glyphs, tmp_path, 2).trained


def test_bad_input(glyphs, tmp_path):
    with pytest.raises(ValueError, match="glyphs-840-0 must have labels, got none: score it"):
        train_classifier(replace(glyphs, labels=None), tmp_path)
    for name in ("steps", "seed", "batch_size"):
        with pytest.raises(ValueError, match=f"{name} must be at least .*, got -1"):
            train_classifier(glyphs, tmp_path, **{name: -1})
    assert not list(tmp_path.iterdir())


def test_loss_that_is_not_finite_keeps_nothing(glyphs, tmp_path, monkeypatch):
    monkeypatch.setattr(
        LeNet, "forward", lambda self, images: self.last.weight.sum() * torch.nan * images[:, 0, 0]
    )
    with pytest.raises(RuntimeError, match=r"LeNet, glyphs-840-0: the loss is nan at step 2"):
        train_classifier(glyphs, tmp_path, 2)
    assert not list(tmp_path.iterdir())


def test_scores_through_it(glyphs, learned):
    """Held-out digits score better than half the digits, and those better than noise."""
    real = collect(learned.model, glyphs)
    test = collect(learned.model, glyphs, glyphs.test)
    half = collect(learned.model, glyphs, glyphs.test[glyphs.labels[glyphs.test] < 5].repeat(2))
    noise = replace(glyphs, images=np.random.default_rng(0).integers(0, 256, (120, 1, 16, 16)))
    noise = replace(noise, images=noise.images.astype(np.uint8))
    random = collect(learned.model, noise, np.arange(120))
    found = [score(real, fake, subsets=5, subset_size=100) for fake in (test, half, random)]
    assert found[0].fid < found[1].fid < found[2].fid
    assert found[0].kid_mean < found[1].kid_mean < found[2].kid_mean
    assert found[0].is_mean > found[1].is_mean > found[2].is_mean
    assert found[0].recall > found[1].recall > found[2].recall
    assert "FID (LeNet, glyphs-840-0)" in found[0].summary()
