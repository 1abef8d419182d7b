"""PCA against the singular value decomposition."""

import numpy as np
import pytest
import torch

from polygraph.models import PCA
from polygraph.models.mesh import pca as module


def meshes(number, vertices, rank=None, seed=0):
    rng = np.random.default_rng(seed)
    rank = rank or min(number - 1, 3 * vertices)
    code = rng.standard_normal((number, rank)) * 0.8 ** np.arange(rank)
    flat = code @ rng.standard_normal((rank, 3 * vertices)) + rng.standard_normal(3 * vertices)
    return flat.reshape(number, vertices, 3)


def by_svd(x, latent):
    flat = x.reshape(len(x), -1)
    _, singular, right = np.linalg.svd(flat - flat.mean(0), full_matrices=False)
    return singular[:latent] ** 2 / (len(x) - 1), right[:latent]


@pytest.mark.parametrize(("number", "vertices"), [(20, 30), (200, 10), (60, 20)])
@pytest.mark.parametrize("block_bytes", [1, 2000, 2**26])
def test_is_the_singular_value_decomposition(number, vertices, block_bytes):
    x = meshes(number, vertices)
    pca = PCA.fit(x, 6, block_bytes=block_bytes)
    variance, right = by_svd(x, 6)
    np.testing.assert_allclose(pca.mean, x.mean(0), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(pca.variance, variance, rtol=1e-10)
    # the same up to sign: each row meets its own with cosine ±1
    np.testing.assert_allclose(np.abs(pca.components @ right.T), np.eye(6), atol=1e-9)
    np.testing.assert_allclose(pca.components @ pca.components.T, np.eye(6), atol=1e-12)
    assert (pca.components.max(1) == np.abs(pca.components).max(1)).all()


@pytest.mark.parametrize(("number", "vertices"), [(60, 30), (200, 20)])
def test_lanczos_gives_the_same(monkeypatch, number, vertices):
    x = meshes(number, vertices)
    dense = PCA.fit(x, 5)
    monkeypatch.setattr(module, "DENSE_LIMIT", 10)
    lanczos = PCA.fit(x, 5)
    np.testing.assert_allclose(lanczos.variance, dense.variance, rtol=1e-10)
    np.testing.assert_allclose(lanczos.components, dense.components, atol=1e-9)
    assert np.array_equal(lanczos.components, PCA.fit(x, 5).components)


def test_memory_mapped_float32_split(tmp_path):
    x = meshes(50, 12).astype(np.float32)
    np.save(tmp_path / "vertices.npy", x)
    mapped = np.load(tmp_path / "vertices.npy", mmap_mode="r")
    train = np.arange(0, 50, 3)
    pca = PCA.fit(mapped, 4, indices=train, block_bytes=1000)
    wanted = PCA.fit(x[train].astype(np.float64), 4)
    np.testing.assert_allclose(pca.components, wanted.components, atol=1e-9)
    assert np.array_equal(
        PCA.fit(mapped, 4, indices=train).variance, PCA.fit(mapped, 4, indices=train).variance
    )


def test_encode_and_decode():
    x = meshes(30, 12, rank=5)
    pca = PCA.fit(x, 5)
    z = pca.encode(x)
    assert z.shape == (30, 5)
    np.testing.assert_allclose(pca.decode(z), x, atol=1e-11)
    np.testing.assert_allclose(z.var(0, ddof=1), pca.variance, rtol=1e-9)
    tensor = torch.from_numpy(x).float()
    out = pca.reconstruct(tensor)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, tensor, rtol=1e-5, atol=1e-5)
    assert pca.reconstruct(x.astype(np.float32)).dtype == np.float32
    worse = PCA.fit(x, 2).reconstruct(x)
    assert np.abs(worse - x).mean() > 0.01


@pytest.mark.parametrize(("number", "vertices", "rank"), [(4, 10, 3), (40, 10, 2), (90, 2, 6)])
def test_more_latents_than_the_meshes_have_directions(number, vertices, rank):
    x = meshes(number, vertices, rank)
    pca = PCA.fit(x, 8)
    assert pca.components.shape == (8, 3 * vertices)
    assert pca.latent_channels == 8
    assert np.array_equal(np.linalg.norm(pca.components, axis=1) > 0.5, np.arange(8) < rank)
    assert np.isfinite(pca.components).all()
    np.testing.assert_allclose(pca.reconstruct(x), x, atol=1e-10)


def test_equal_meshes_have_no_components():
    x = np.ones((5, 4, 3))
    pca = PCA.fit(x, 2)
    assert not pca.components.any()
    assert np.array_equal(pca.reconstruct(x), x)


def test_tensors_are_computed_by_torch(monkeypatch):
    """NumPy's threads, awake beside torch's, would slow down whatever is timed in turns with it."""
    x = meshes(12, 30)
    pca = PCA.fit(x, 4)
    pca.components.flags.writeable = False
    wanted = pca.reconstruct(x)
    monkeypatch.setattr(torch.Tensor, "numpy", lambda self: pytest.fail("computed by NumPy"))
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        found = pca.reconstruct(torch.tensor(x, dtype=dtype))
        assert found.dtype == dtype
        difference = found.double() - torch.tensor(wanted)
        assert difference.abs().max() < tolerance * np.abs(x).max()


def test_bad_arguments():
    x = meshes(10, 4)
    with pytest.raises(ValueError, match="latent_channels must be a positive integer, got 0"):
        PCA.fit(x, 0)
    with pytest.raises(ValueError, match=r"vertices must be \[N, V, 3\], got \[10, 12\]"):
        PCA.fit(x.reshape(10, 12), 2)
    with pytest.raises(ValueError, match="at least 2 meshes of at least 1 vertex, got 1 of 4"):
        PCA.fit(x, 2, indices=np.array([3]))
    x[7, 2, 1] = np.nan
    with pytest.raises(ValueError, match="vertices must be finite, mesh 7 is not"):
        PCA.fit(x, 2)
    pca = PCA.fit(x[:7], 2)
    with pytest.raises(ValueError, match=r"vertices must have shape \[B, 4, 3\], got \[7, 5, 3\]"):
        pca.encode(np.zeros((7, 5, 3)))
    with pytest.raises(ValueError, match=r"latent must have shape \[B, 2\], got \[7, 3\]"):
        pca.decode(np.zeros((7, 3)))
