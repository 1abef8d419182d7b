"""The built-in animal: a closed surface that moves, the same for the same seed."""

from pathlib import Path

import numpy as np
import pytest

from polygraph.data import make_creature
from polygraph.data.creature import LEGS, build_body, vertex_normals
from polygraph.data.motion import CLIPS, pose


@pytest.fixture(scope="module")
def creature():
    return make_creature(480, seed=0)


def _edge_counts(faces):
    edges = np.stack([faces, np.roll(faces, -1, 1)], -1).reshape(-1, 2)
    return np.unique(np.sort(edges, 1), axis=0, return_counts=True)[1], np.unique(edges, axis=0)


def test_surface_is_a_closed_oriented_sphere():
    body = build_body()
    counts, directed = _edge_counts(body.faces)
    assert (counts == 2).all()  # closed and edge-manifold
    assert len(directed) == 3 * len(body.faces)  # every directed edge once: consistently oriented
    assert len(body.vertices) - len(counts) + len(body.faces) == 2  # genus 0
    assert 1000 <= len(body.vertices) <= 2000
    assert set(body.faces.ravel()) == set(range(len(body.vertices)))
    a, b, c = (body.vertices[body.faces[:, k]] for k in range(3))
    assert np.einsum("fi,fi->", a, np.cross(b, c)) > 0  # outwards


def test_vertex_fans_are_single_cycles():
    """Edges of two faces each still allow pinched vertices: walk the fan of every vertex."""
    faces = build_body().faces
    after = [{} for _ in range(faces.max() + 1)]
    for a, b, c in faces.tolist():
        after[a][b], after[b][c], after[c][a] = c, a, b
    for fan in after:
        start = at = next(iter(fan))
        steps = 0
        while True:
            at, steps = fan[at], steps + 1
            if at == start:
                break
        assert steps == len(fan)


def test_skin_weights_are_smooth_shares():
    body = build_body()
    assert (body.weights >= 0).all()
    np.testing.assert_allclose(body.weights.sum(1), 1.0, atol=1e-12)  # float64 rounding of 21 terms
    edges = np.concatenate([body.faces[:, [0, 1]], body.faces[:, [1, 2]]])
    jump = np.abs(body.weights[edges[:, 0]] - body.weights[edges[:, 1]]).max()
    assert jump < 0.35  # a hard assignment to the nearest bone jumps by 1
    left, right = (body.bones.index(f"paw_h{side}") for side in "lr")
    # Diffusion goes along the surface: what one hind paw gives the other went up and down the legs.
    assert np.minimum(body.weights[:, left], body.weights[:, right]).max() < 1e-3


def test_size_is_about_a_metre_and_paws_stand_on_the_ground(creature):
    extent = creature.vertices.max((0, 1)) - creature.vertices.min((0, 1))
    assert 0.9 < extent[0] < 1.5
    assert creature.to_mm == 1000.0
    assert creature.vertices[..., 2].min() > -0.03  # nothing sinks into the floor


def test_volume_stays_positive_and_nothing_explodes(creature):
    faces = creature.faces
    rest = creature.template
    longest = np.linalg.norm(rest[faces[:, 0]] - rest[faces[:, 1]], axis=1).max()
    for mesh in creature.vertices[::40].astype(np.float64):
        a, b, c = (mesh[faces[:, k]] for k in range(3))
        volume = np.einsum("fi,fi->", a, np.cross(b, c)) / 6
        assert 0.02 < volume < 0.05  # rest: 0.036 cubic metres
        assert np.linalg.norm(a - b, axis=1).max() < 3 * longest


def test_feet_on_the_ground_stay_there():
    """Inverse kinematics reaches its target: while the body sways and shakes, paws stay put."""
    body = build_body()
    for kind in ("look", "shake"):
        signals = CLIPS[kind](np.random.default_rng(1), np.arange(40) / 20)
        posed = pose(body, signals)
        for leg in LEGS:
            paw = body.weights[:, body.bones.index(f"paw_{leg}")] > 0.9
            assert paw.any()
            # The soft limit of the reach gives up to 4 mm near a stretched leg, sway 3 mm more.
            assert np.abs(posed[:, paw] - body.vertices[paw]).max() < 0.012


def test_rest_pose_is_reproduced_by_idle_signals():
    body = build_body()
    signals = CLIPS["look"](np.random.default_rng(0), np.arange(3) / 20)
    still = {name: np.zeros_like(value) for name, value in signals.items()}
    posed = pose(body, still)
    # 4 mm: the soft limit of the reach bends stretched legs a little even at rest.
    assert np.abs(posed - body.vertices).max() < 0.004


def test_breathing_moves_the_chest_outwards():
    body = build_body()
    outwards = (body.breath * vertex_normals(body.vertices, body.faces)).sum(1)
    assert 0.005 < outwards.max() < 0.03
    assert outwards.min() >= -1e-12


def test_motion_is_smooth_and_every_part_moves(creature):
    clips = np.array([frame["clip"] for frame in creature.frames])
    for clip in np.unique(clips):
        step = np.linalg.norm(np.diff(creature.vertices[clips == clip], axis=0), axis=-1)
        assert step.max() < 0.25  # metres per twentieth of a second
    _, std = creature.mean_std(np.arange(len(creature)))
    assert np.linalg.norm(std, axis=-1).min() > 0.004


def test_sixteen_linear_numbers_do_not_suffice(creature):
    flat = creature.vertices.reshape(len(creature), -1).astype(np.float64)
    flat -= flat.mean(0)
    values = np.linalg.eigvalsh(flat @ flat.T)[::-1]
    assert 0.001 < values[16:].sum() / values.sum() < 0.2


def test_deterministic_in_the_seed():
    one, same, other = make_creature(24, 3), make_creature(24, 3), make_creature(24, 4)
    assert one.content_hash == same.content_hash
    assert np.array_equal(one.vertices, same.vertices)
    assert one.content_hash != other.content_hash
    assert {k: s.sha256 for k, s in one.splits.items()} == {
        k: s.sha256 for k, s in same.splits.items()
    }


def test_splits(creature):
    inter, extra = creature.split("interpolation"), creature.split("extrapolation")
    content = np.array([frame["content"] for frame in creature.frames])
    assert set(content[extra.test]) == {"gallop", "stretch"}
    assert not {"gallop", "stretch"} & set(content[np.concatenate([extra.train, extra.val])])
    assert set(content[inter.train]) == set(CLIPS)
    assert set(content[inter.test]) == set(CLIPS)
    for split in (inter, extra):
        assert len(split.train) > len(split.test) > 0
        assert len(split.val) > 0


@pytest.mark.parametrize("num_frames", [1, 2, 3, 9, 17])
def test_small_numbers(num_frames):
    creature = make_creature(num_frames)
    assert creature.vertices.shape == (num_frames, 1922, 3)
    assert len(creature.frames) == num_frames
    if num_frames == 1:
        with pytest.raises(ValueError, match="training is impossible with 1 mesh"):
            creature.split("interpolation")
    else:
        assert len(creature.split("interpolation").train) >= 1


def test_default_splits_are_those_of_the_card():
    card = (Path(__file__).resolve().parents[2] / "datasets" / "creature.md").read_text()
    splits = make_creature().splits
    assert set(splits) == {"interpolation", "extrapolation"}
    for split in splits.values():
        assert split.sha256 in card


def test_bad_arguments():
    with pytest.raises(ValueError, match="num_frames must be at least 1, got 0"):
        make_creature(0)
    with pytest.raises(ValueError, match="seed must not be negative, got -1"):
        make_creature(5, seed=-1)
