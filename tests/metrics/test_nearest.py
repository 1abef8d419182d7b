"""Nearest training images: copies, new images, the yardstick, against plain distances."""

import pytest
import torch

from polygraph.metrics.nearest import Share, nearest_training


def features(count, seed, channels=3):
    return torch.randn(count, channels, generator=torch.Generator().manual_seed(seed))


def test_against_all_distances():
    """Median without the image itself; strictly closer; the order of the neighbors."""
    train, fake, test = features(61, 0), features(40, 1), features(30, 2)
    found = nearest_training(train.double(), fake.double(), test.double(), 5)
    own = torch.cdist(train, train, compute_mode="donot_use_mm_for_euclid_dist")
    own.fill_diagonal_(float("inf"))
    median = own.amin(1).median()
    assert found.median == pytest.approx(float(median))
    for rows, share in ((fake, found.fake), (test, found.held_out)):
        apart = torch.cdist(rows, train, compute_mode="donot_use_mm_for_euclid_dist")
        assert share.value == int((apart.amin(1) < median).sum()) / len(rows)
        assert share.count == len(rows)
    apart = torch.cdist(fake, train, compute_mode="donot_use_mm_for_euclid_dist")
    wanted, index = apart.topk(5, 1, largest=False)
    assert torch.equal(found.index, index)
    torch.testing.assert_close(found.distance, wanted)


def test_copies_and_strangers():
    train = features(200, 0)
    found = nearest_training(train, train[::10], features(100, 1) + 100)
    assert (found.fake.value, found.held_out.value) == (1.0, 0.0)
    assert found.index[:, 0].tolist() == list(range(0, 200, 10))
    assert not found.distance.any()


def test_new_images_are_about_half_closer():
    """Held-out images of the same kind: a share of 0.5, within what 2,000 of them allow."""
    found = nearest_training(features(2000, 0), features(2000, 1), features(2000, 2))
    for share in (found.fake, found.held_out):
        assert share.value == pytest.approx(0.5, abs=0.05)


def test_intervals():
    """Wilson's, with numbers of its textbook examples; the ends of the scale."""
    share = Share.of(10, 20)
    assert (share.low, share.high) == pytest.approx((0.2993, 0.7007), abs=1e-4)
    assert Share.of(0, 20).low == 0
    assert Share.of(0, 20).high == pytest.approx(0.1611, abs=1e-4)
    assert Share.of(20, 20).high == pytest.approx(1.0)
    assert str(Share.of(1, 2000)).endswith("of 2,000")
    for closer, count in ((0, 0), (-1, 5), (6, 5)):
        with pytest.raises(ValueError, match="Share: want 0 <= closer <= count"):
            Share.of(closer, count)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": features(1, 0)}, "train must have at least 2 rows, got 1"),
        ({"fake": features(0, 0)}, "fake must have at least 1 rows, got 0"),
        (
            {"fake": features(5, 0, 4), "held_out": features(5, 0, 4)},
            "got 3 of train and 4 of fake",
        ),
        ({"held_out": features(5, 0, 4)}, "held_out must have as many channels"),
        ({"fake": torch.full((2, 3), float("nan"))}, "fake must be finite"),
        ({"neighbors": 11}, "from 1 to the number of training images, 10, got 11"),
        ({"neighbors": 0}, "got 0"),
    ],
)
def test_wrong_arguments(change, message):
    arguments = {"train": features(10, 0), "fake": features(5, 1), "held_out": features(5, 2)}
    with pytest.raises(ValueError, match=message):
        nearest_training(**{**arguments, **change})
