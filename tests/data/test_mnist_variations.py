"""The recipe of the variations of MNIST: what changes, and that it never does."""

import numpy as np
import pytest

from polygraph.data import make_mnist_variation
from polygraph.data.mnist_variations import rotate

PARTS = (30, 10, 40)
#: of `digits()` with seed 3; another hash is another recipe, under the same name
HASHES = {
    "basic": "8d554955de5ca311",
    "rand": "8c326848d19f3216",
    "rot": "fe11da22fbaf996b",
    "img": "84508d415ea2aa8d",
    "img+rot": "9303d9bcd331ddcb",
}


def digits(count=90):
    """Blocks of random grey, black around them."""
    rng = np.random.default_rng(0)
    images = np.zeros((count, 1, 28, 28), np.uint8)
    images[:, :, 9:19, 11:17] = rng.integers(100, 256, (count, 1, 10, 6))
    return images, np.arange(count) % 10


def pictures():
    return np.random.default_rng(1).integers(0, 256, (5, 3, 20, 24), np.uint8)


def make(name, **settings):
    given = {"pictures": pictures()} if name.startswith("img") else {}
    return make_mnist_variation(name, *digits(), **{"seed": 3, "parts": PARTS, **given, **settings})


@pytest.mark.parametrize("name", sorted(HASHES))
def test_the_recipe_stays(name):
    made = make(name)
    assert made.name == f"mnist-{name}-3"
    assert made.content_hash[:16] == HASHES[name]
    assert [len(made.train), len(made.val), len(made.test)] == [30, 10, 40]
    assert sorted([*made.train, *made.val, *made.test]) == list(range(80))
    assert make(name).content_hash == made.content_hash
    if name != "basic":
        assert make(name, seed=4).content_hash != made.content_hash


def test_basic_is_the_digits_in_another_order():
    images, labels = digits()
    made = make("basic")
    known = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    assert [known[image.tobytes()] for image in made.images] == made.labels.tolist()
    assert len({image.tobytes() for image in made.images}) == 80
    assert made.labels.tolist() != labels[:80].tolist()


def test_noise_is_behind_the_digits():
    plain, noisy = make("basic").images, make("rand").images
    assert (noisy >= plain).all()
    ground = noisy[plain == 0]
    counts = np.bincount(ground, minlength=256) * 256 / len(ground)
    assert ground.mean() == pytest.approx(127.5, abs=1.5)  # 58,000 draws: 5 sigma
    assert counts.min() > 0.6
    assert counts.max() < 1.4
    assert (make("rand").labels == make("basic").labels).all()


def test_pictures_are_behind_the_digits():
    """The ground is bilinear in pieces of pictures: no larger steps than half of the picture's."""
    plain, made = make("basic").images, make("img").images
    assert (made >= plain).all()
    corner = made[:, 0, :8, :8].astype(int)
    assert np.abs(np.diff(corner, axis=2)).max() <= 128
    assert corner.std() > 20


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_quarter_turns_are_exact(turns):
    images = digits(6)[0][:, 0]
    turned = rotate(images, np.full(6, turns * np.pi / 2))
    np.testing.assert_array_equal(turned, np.rot90(images, turns, (1, 2)))


def test_angles_are_uniform():
    """The direction of a lit pixel beside the middle, over many draws."""
    images = np.zeros((1600, 1, 29, 29), np.uint8)
    images[:, :, 13:16, 23:26] = 255
    made = make_mnist_variation("rot", images, np.zeros(1600, int), parts=(800, 400, 400))
    y, x = np.mgrid[:29, :29] - 14
    pixels = made.images[:, 0].astype(float)
    angles = np.arctan2((pixels * y).sum((1, 2)), (pixels * x).sum((1, 2)))
    counts, _ = np.histogram(angles, 8, (-np.pi, np.pi))
    assert abs(counts - 200).max() < 66  # 5 sigma
    assert np.ptp(pixels.sum((1, 2))) < 0.1 * pixels.sum((1, 2)).mean()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "rott"}, "did you mean 'rot'"),
        ({"name": "img", "pictures": None}, "pictures must be given for 'img'"),
        ({"pictures": pictures()}, "pictures must not be given for 'basic'"),
        ({"name": "img", "pictures": pictures()[:, :, :9]}, "at least 14 x 14 pixels"),
        ({"images": digits()[0].astype(float)}, "images must be uint8"),
        ({"labels": np.arange(3)}, r"of shape \[90\]"),
        ({"parts": (50, 50, 50)}, "at most the 90 images together, got 150"),
        ({"parts": (50, 0, 3)}, r"parts\[1\] must be a positive"),
        ({"parts": (50, 3)}, "three numbers"),
    ],
)
def test_bad_arguments_are_named(change, message):
    images, labels = digits()
    given = {"name": "basic", "images": images, "labels": labels, "parts": PARTS, **change}
    with pytest.raises(ValueError, match=message):
        make_mnist_variation(given.pop("name"), given.pop("images"), given.pop("labels"), **given)
