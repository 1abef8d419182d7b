"""Scores of images against closed forms, direct sums and known cases; nothing dropped or hidden."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from polygraph.data import ImageDataConfig, open_images
from polygraph.metrics import image_scores
from polygraph.metrics.image_scores import (
    Activations,
    collect,
    frechet_distance,
    inception_score,
    kernel_distance,
    precision_recall,
    score,
    wasserstein_estimate,
)

pytest.importorskip("torchmetrics")


class Moments(nn.Module):
    """An extractor that can be checked by hand: means of the quarters, two of them as logits."""

    label = "moments, noise"

    def extract(self, images):
        features = nn.functional.avg_pool2d(images.mean(1, keepdim=True), 4).flatten(1)
        return features, 5 * features[:, :2]


def noise(count, shift=0.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 0.4 * torch.randn(count, 1, 8, 8, generator=generator).clamp(-2, 2) + shift


def activations(images, batch=64):
    found = Activations(Moments())
    for part in images.split(batch):
        found.update(part)
    return found


def exact_sample(mean, covariance, count, seed=0):
    """A sample whose mean and covariance (with N - 1) are exactly these."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, len(mean), generator=generator, dtype=torch.float64)
    x = x - x.mean(0)
    x = torch.linalg.solve_triangular(torch.linalg.cholesky(x.T.cov()), x.T, upper=False)
    return (torch.linalg.cholesky(covariance) @ x).T + mean


# ---- Inception Score ----


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_inception_score_of_certainty_is_the_number_of_classes(classes):
    labels = torch.arange(10 * classes) % classes
    logits = 2000.0 * nn.functional.one_hot(labels, classes)  # other probabilities underflow
    mean, std = inception_score(logits, splits=1)
    assert mean == pytest.approx(classes, rel=1e-9)
    assert std == 0.0


@pytest.mark.parametrize("row", [[0.0] * 10, [3.0, 1.0, *[0.0] * 8], [900.0, *[0.0] * 9]])
def test_inception_score_of_one_distribution_is_one(row):
    mean, std = inception_score(torch.tensor([row]).repeat(57, 1))
    assert mean == pytest.approx(1.0, abs=1e-12)
    assert std == pytest.approx(0.0, abs=1e-12)


def test_inception_score_of_two_known_distributions():
    p = torch.tensor([[0.9, 0.1], [0.2, 0.8]], dtype=torch.float64)
    mean = p.mean(0)
    wanted = math.exp(float((p * (p / mean).log()).sum(1).mean()))
    logits = p.log().repeat(50, 1) + torch.arange(100.0)[:, None]  # shifts of a row do not count
    assert inception_score(logits, splits=1)[0] == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("count", [10, 12, 55, 101])
def test_inception_score_drops_nothing(count, monkeypatch):
    """However the images divide: ten splits, every image in one of them."""
    sizes, metric = [], image_scores._metric

    def counting(name, *arguments, **options):
        made = metric(name, *arguments, **options)
        update = made.update
        made.update = lambda rows: (sizes.append(len(rows)), update(rows))
        return made

    monkeypatch.setattr(image_scores, "_metric", counting)
    logits = torch.randn(count, 7, generator=torch.Generator().manual_seed(0))
    mean, std = inception_score(logits)
    assert len(sizes) == 10
    assert sum(sizes) == count
    assert max(sizes) - min(sizes) <= 1
    assert inception_score(logits) == (mean, std)
    if count > 10:  # one image a split scores 1 whatever the order
        assert inception_score(logits, seed=1) != (mean, std)


def test_inception_score_std_is_over_the_splits():
    logits = torch.randn(200, 5, generator=torch.Generator().manual_seed(0)).double()
    order = np.random.default_rng(4).permutation(200)
    scores = []
    for rows in np.array_split(order, 10):
        p = logits[rows].softmax(1)
        scores.append(math.exp(float((p * (p / p.mean(0)).log()).sum(1).mean())))
    mean, std = inception_score(logits, seed=4)
    assert mean == pytest.approx(np.mean(scores), rel=1e-12)
    assert std == pytest.approx(np.std(scores), rel=1e-9)


# ---- FID ----


def test_frechet_distance_of_known_gaussians():
    mean1 = torch.tensor([0.0, 1.0, -2.0], dtype=torch.float64)
    mean2 = torch.tensor([1.0, 1.0, 2.0], dtype=torch.float64)
    # Diagonal: |difference|² + Σ (σ₁ - σ₂)².
    sigma1 = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    sigma2 = torch.tensor([3.0, 0.25, 0.5], dtype=torch.float64)
    x = exact_sample(mean1, torch.diag(sigma1**2), 50)
    y = exact_sample(mean2, torch.diag(sigma2**2), 80, seed=1)
    assert frechet_distance(x, y) == pytest.approx(17 + 4 + 1.75**2, rel=1e-10)
    assert frechet_distance(y, x) == pytest.approx(17 + 4 + 1.75**2, rel=1e-10)
    # Covariances that do not commute, in closed form for two dimensions:
    # tr (AB)^½ = sqrt(tr AB + 2 sqrt(det AB)).
    a = torch.tensor([[2.0, 0.6], [0.6, 1.0]], dtype=torch.float64)
    b = torch.tensor([[0.5, -0.4], [-0.4, 3.0]], dtype=torch.float64)
    root = math.sqrt(float((a @ b).trace()) + 2 * math.sqrt(float((a @ b).det())))
    wanted = float(a.trace() + b.trace()) - 2 * root
    x, y = (exact_sample(torch.zeros(2).double(), c, 40, seed=3) for c in (a, b))
    assert frechet_distance(x, y) == pytest.approx(wanted, rel=1e-10)


def test_frechet_distance_far_from_the_origin():
    """Sums of squares of features near 1e8 would leave nothing of a variance of 1."""
    far = torch.full((3,), 1e8, dtype=torch.float64)
    x = exact_sample(far, torch.eye(3).double(), 60)
    y = exact_sample(far + 1, 4 * torch.eye(3).double(), 60, seed=1)
    assert frechet_distance(x, y) == pytest.approx(6.0, rel=1e-5)  # 1e8 has 1e-8 of a digit left


def test_frechet_distance_of_equal_sets_is_zero():
    x = torch.randn(100, 20, generator=torch.Generator().manual_seed(0))
    x[:, 3] = 0  # a channel that is always off: singular covariances
    assert frechet_distance(x, x.clone()) == pytest.approx(0.0, abs=1e-6)  # a root of 1e-14 or so
    assert frechet_distance(x, x + 2) == pytest.approx(80.0, abs=1e-4)


# ---- KID ----


def test_kernel_distance_against_a_double_loop():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(9, 4, generator=generator, dtype=torch.float64)
    y = torch.randn(9, 4, generator=generator, dtype=torch.float64) + 0.5

    def kernel(a, b):
        return (float(a @ b) / 4 + 1) ** 3

    same = [kernel(s[i], s[j]) for s in (x, y) for i in range(9) for j in range(9) if i != j]
    cross = [kernel(a, b) for a in x for b in y]
    wanted = sum(same) / 72 - 2 * sum(cross) / 81
    mean, std = kernel_distance(x, y, subsets=3)  # each subset holds all: smaller than asked for
    assert mean == pytest.approx(wanted, rel=1e-12)
    assert std == pytest.approx(0.0, abs=1e-12)


def test_kernel_distance_is_unbiased_and_repeats():
    x = torch.randn(2000, 8, generator=torch.Generator().manual_seed(0))
    y = torch.randn(3000, 8, generator=torch.Generator().manual_seed(1))
    mean, std = kernel_distance(x, y, subsets=40, subset_size=200)
    assert abs(mean) < std  # over 40 subsets; a biased estimator is near +3 / 200 · E k(x, x)
    assert kernel_distance(x, y, subsets=40, subset_size=200) == (mean, std)
    assert kernel_distance(x, y, subsets=40, subset_size=200, seed=1) != (mean, std)
    assert kernel_distance(x, y + 1, subsets=5, subset_size=200)[0] > 0.5


# ---- precision and recall ----


def test_precision_recall_of_identical_and_disjoint_sets():
    x = torch.randn(300, 6, generator=torch.Generator().manual_seed(0))
    assert precision_recall(x, x.clone()) == (1.0, 1.0)
    assert precision_recall(x, x + 100) == (0.0, 0.0)
    several = torch.cat([x[:50]] * 6)  # every point six times: all radii are 0
    assert precision_recall(several, several[torch.randperm(300)]) == (1.0, 1.0)
    assert precision_recall(several, several + 1e-3) == (0.0, 0.0)


def test_precision_recall_tell_quality_from_coverage():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(200, 4, generator=generator) + shift for shift in (0, 50))
    one_mode = torch.randn(400, 4, generator=generator)
    precision, recall = precision_recall(torch.cat([a, b]), one_mode)
    assert precision > 0.8
    assert recall < 0.51
    precision, recall = precision_recall(one_mode, torch.cat([a, b]))
    assert precision < 0.51
    assert recall > 0.8


@pytest.mark.parametrize("outlier", [None, 1e3, 1e8])
@pytest.mark.parametrize("seed", range(4))
def test_precision_recall_against_all_pairs(seed, outlier):
    """Also where one point is so far out that its ball would swallow the digits of all others."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(150, 5, generator=generator, dtype=torch.float64)
    y = torch.randn(120, 5, generator=generator, dtype=torch.float64) * 1.5
    y[:20] = x[:20]
    x[100:110] = x[100]  # radii of 0 beside others
    if outlier is not None:
        x[7] = outlier

    def inside(points, centres):
        radius = torch.cdist(centres, centres, compute_mode="donot_use_mm_for_euclid_dist")
        radius = (radius + torch.diag(torch.full((len(centres),), torch.inf))).sort(1)[0][:, 2]
        apart = torch.cdist(points, centres, compute_mode="donot_use_mm_for_euclid_dist")
        return float((apart <= radius).any(1).double().mean())

    assert precision_recall(x, y) == (inside(y, x), inside(x, y))


# ---- bad input ----


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: inception_score(x[:9]), "logits must have at least 10 rows, got 9"),
        (lambda x: inception_score(x, splits=0), "splits must be at least 1, got 0"),
        (lambda x: inception_score(x[0]), r"floating point of shape \[N, channels\], got .* \[4\]"),
        (lambda x: inception_score(x.long()), r"must be floating point .* got torch\.int64"),
        (lambda x: inception_score(x / 0), "logits must be finite, got NaN or infinity"),
        (lambda x: frechet_distance(x, x[:1]), "fake must have at least 2 rows, got 1"),
        (lambda x: frechet_distance(x, x[:, :3]), "fake must have as many channels .*, 4, got 3"),
        (lambda x: frechet_distance(x / 0, x), "real must be finite"),
        (lambda x: kernel_distance(x, x[:1]), "fake must have at least 2 rows, got 1"),
        (lambda x: kernel_distance(x, x, subsets=0), "subsets must be at least 1 and subset_size"),
        (lambda x: kernel_distance(x, x, subset_size=1), "at least 2, got 50 and 1"),
        (lambda x: precision_recall(x, x[:3]), "fake must have at least 4 rows, got 3"),
        (lambda x: precision_recall(x, x, 0), "neighbors must be at least 1, got 0"),
        (lambda x: wasserstein_estimate(torch.sum, [], []), "real must hold at least one image"),
        (lambda x: wasserstein_estimate(torch.sum, [x], [x]), "one number per image, 20, got"),
    ],
)
def test_bad_input(function, message):
    x = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=message):
        function(x)


def test_global_random_state_is_left_alone():
    x = torch.randn(40, 4)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    inception_score(x)
    kernel_distance(x, x + 1)
    assert torch.equal(torch.get_rng_state(), state)


def test_wasserstein_estimate_weighs_images_not_batches():
    x = torch.arange(10.0)[:, None, None, None]
    value = wasserstein_estimate(lambda v: v.flatten(1), [x[:9], x[9:]], [x[:1]])
    assert value == pytest.approx(4.5)


# ---- the whole ----


def test_activations_do_not_depend_on_batches():
    images = noise(130)
    one, many = activations(images, 130), activations(images, 7)
    assert len(one) == len(many) == 130
    assert one.features().dtype == torch.float64
    # The same float32 sums of 16 values, perhaps in another order.
    torch.testing.assert_close(one.features(), many.features(), atol=1e-6, rtol=0)
    as_bytes = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    assert torch.equal(activations(as_bytes, 7).features(), many.features())
    # The product was rounded to float32.
    torch.testing.assert_close(many.logits(), 5 * many.features()[:, :2], atol=1e-6, rtol=0)
    many.update(images[:0])
    assert len(many) == 130


def test_score_and_its_labels():
    real, fake = activations(noise(200)), activations(noise(150, 0.3, seed=1))
    found = score(real, fake, subsets=10)
    assert (found.num_real, found.num_fake, found.num_nonfinite) == (200, 150, 0)
    assert found.fid == frechet_distance(real.features(), fake.features())
    assert (found.is_mean, found.is_std) == inception_score(fake.logits())
    assert found.kid_mean == kernel_distance(real.features(), fake.features(), subsets=10)[0]
    summary = found.summary()
    for name in ("IS", "IS std", "FID", "KID", "KID std", "precision", "recall"):
        assert math.isfinite(summary[f"{name} (moments, noise)"])
    assert "(moments, noise; 150 images)" in str(found)
    assert score(real, fake, subsets=10) == found
    few = score(real, fake, subsets=10, max_neighbor_rows=50)
    assert few.fid == found.fid
    assert (few.precision, few.recall) != (found.precision, found.recall)
    assert found.fid > score(real, activations(noise(150, seed=1)), subsets=10).fid


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_images_that_are_not_finite_are_reported(value):
    images = noise(100)
    images[17, 0, 2, 2] = value
    fake = activations(images)
    assert len(fake) == 100
    found = score(activations(noise(100)), fake)
    assert found.num_nonfinite == 1
    assert found.fid == found.kid_mean == math.inf
    assert all(math.isnan(v) for v in (found.is_mean, found.precision, found.recall))
    assert "(1 images not finite)" in str(found)
    with pytest.raises(ValueError, match="real images must be finite, got 1 that aren't"):
        score(fake, fake)


def test_score_refuses_what_means_nothing():
    real = activations(noise(100))
    with pytest.raises(ValueError, match=r"fake must hold at least 10 images .*, got 9"):
        score(real, activations(noise(9)))
    with pytest.raises(ValueError, match=r"real must hold at least 30 images .*, got 29"):
        score(activations(noise(29)), real, splits=30)
    other = activations(noise(100))
    other.label = "another"
    with pytest.raises(ValueError, match="one extractor, got 'moments, noise' for real and 'anoth"):
        score(real, other)
    with pytest.raises(ValueError, match="no images to measure, update"):
        score(real, Activations(Moments()))
    with pytest.raises(ValueError, match=r"images must have shape \[B, C, H, W\], got \[4, 8, 8\]"):
        real.update(torch.zeros(4, 8, 8))


def test_extractor_of_wrong_shape():
    class Wrong:
        label = "wrong"

        def extract(self, images):
            return images, images.flatten(1)

    with pytest.raises(
        ValueError, match=r"extractor \(wrong\) must give features of shape \[4, ch"
    ):
        Activations(Wrong()).update(noise(4))


def test_extractor_is_evaluated_and_left_training():
    class Dropping(Moments):
        def extract(self, images):
            assert not self.training
            return super().extract(images)

    extractor = Dropping().train()
    Activations(extractor).update(noise(4))
    assert extractor.training


def test_collect():
    dataset = open_images(ImageDataConfig(num_images=140, size=8))
    found = collect(Moments(), dataset, batch_size=50)
    assert len(found) == 120
    wanted = activations(torch.from_numpy(dataset.images[dataset.train]))
    torch.testing.assert_close(found.features(), wanted.features(), atol=1e-6, rtol=0)
    assert len(collect(Moments(), dataset, dataset.test)) == 20
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        collect(Moments(), dataset, batch_size=0)


def test_without_torchmetrics(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torchmetrics.image.fid", None)
    with pytest.raises(ImportError, match=r"pip install 'polygraph-nn\[train\]'"):
        frechet_distance(torch.randn(4, 2), torch.randn(4, 2))


def test_the_earlier_name_still_leads_here():
    from polygraph import image_metrics

    assert image_metrics.score is image_scores.score
    assert set(image_scores.__all__) <= set(dir(image_metrics))
