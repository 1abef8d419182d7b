"""Registered meshes as they are read: means, deviations, and some of them."""

import numpy as np
import pytest

from polygraph.data import mesh_dataset, open_registered


def test_mean_std_streams_and_agrees_with_numpy(array_folder, cache, moving, monkeypatch):
    monkeypatch.setattr(mesh_dataset, "_CHUNK_BYTES", 6 * 3 * 8 * 3)
    moving[0][:] += 100.0  # far from the origin: naive sums of squares lose digits here
    np.save(array_folder / "vertices.npy", moving[0])
    dataset = open_registered(array_folder, cache_dir=cache)
    rows = np.array([0, 3, 4, 7, 8, 9, 11])
    mean, std = dataset.mean_std(rows)
    exact = moving[0][rows].astype(np.float64)
    assert mean.dtype == std.dtype == np.float32
    # Both are float64 results rounded to float32 once: one unit in the last place.
    np.testing.assert_allclose(mean, exact.mean(0), rtol=1.2e-7)
    np.testing.assert_allclose(std, exact.std(0), rtol=1.2e-7)


def test_mean_std_has_a_floor(array_folder, cache, moving):
    moving[0][:, 2] = moving[0][0, 2]
    np.save(array_folder / "vertices.npy", moving[0])
    dataset = open_registered(array_folder, cache_dir=cache)
    _, std = dataset.mean_std(np.arange(12))
    deviation = moving[0].astype(np.float64).std(0)
    np.testing.assert_allclose(std[2], 0.01 * np.sqrt((deviation**2).mean()), rtol=1e-6)
    np.testing.assert_allclose(np.delete(std, 2, 0), np.delete(deviation, 2, 0), rtol=1.2e-7)
    assert (dataset.mean_std([4])[1] == 1).all()


def test_gather_copies_and_checks(array_folder, cache, moving):
    dataset = open_registered(array_folder, cache_dir=cache)
    batch = dataset.gather([3, 1, 3])
    assert type(batch) is np.ndarray
    assert np.array_equal(batch, moving[0][[3, 1, 3]])
    batch[:] = 0  # writable, and no way back into the file
    assert np.array_equal(dataset.vertices, moving[0])
    with pytest.raises(ValueError, match=r"indices must lie in \[0, 12\), got 3 .. 12"):
        dataset.gather([3, 12])
    with pytest.raises(ValueError, match=r"got -1 \.\. -1"):
        dataset.gather([-1])
    with pytest.raises(ValueError, match="integers of rank 1, got float64"):
        dataset.gather([0.5])
    with pytest.raises(ValueError, match="at least one mesh, got none"):
        dataset.mean_std(np.empty(0, int))
