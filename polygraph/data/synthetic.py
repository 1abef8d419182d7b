"""The built-in data set: an articulated animal, about as big as a dog.

It walks, trots, gallops, looks around, sniffs, sits, stretches and shakes. It needs no download and
takes seconds; it is what the demo trains on. The body is in `polygraph.data.creature`, its motion
in `polygraph.data.motion`.
"""

from __future__ import annotations

import hashlib

import numpy as np

from polygraph._memory import check_room
from polygraph.data.creature import build_body
from polygraph.data.motion import CLIPS, FRAMES_PER_SECOND, pose
from polygraph.data.registered import MeshDataset
from polygraph.data.splits import Split, interpolation_split, make_split
from polygraph.data.store import content_hash

HELD_OUT = ("gallop", "stretch")
_FRAMES_PER_CLIP = 60
_OF_A_FRAME = 1024  # bytes of its description


def make_creature(num_frames: int = 1600, seed: int = 0) -> MeshDataset:
    """Animate the built-in animal.

    The surface is closed, of genus 0, with 1,922 vertices and 3,840 triangles; about 1.2 m from
    nose to tail. Clips last about three seconds (60 frames) and go round the eight motions; each
    has its own speed, stride, breath and glances, drawn from the seed. The same arguments give the
    same meshes.

    Two splits: ``interpolation`` tests on every tenth frame of every clip; ``extrapolation`` tests
    on the motions gallop and stretch, which training never sees.

    Args:
        num_frames: number of meshes, at least 1; 40 or more for the extrapolation split to be
            meaningful.
        seed: any non-negative integer.

    Raises:
        ValueError: `num_frames` or `seed` is out of range, or there is no memory for so many.

    Example:
        >>> from polygraph.data import make_creature
        >>> make_creature(num_frames=16)
        MeshDataset('creature-16-0', 16 meshes, 1922 vertices, 3840 faces, splits: ...)

    See Also:
        `open_registered`, for meshes of your own.
    """
    if num_frames < 1:
        raise ValueError(f"make_creature: num_frames must be at least 1, got {num_frames}")
    if seed < 0:
        raise ValueError(f"make_creature: seed must not be negative, got {seed}")
    body = build_body()
    size = num_frames * (12 * len(body.vertices) + _OF_A_FRAME)
    check_room(size, f"make_creature: num_frames {num_frames} of {len(body.vertices)} vertices")
    rounds = max(1, round(num_frames / (_FRAMES_PER_CLIP * len(CLIPS))))
    names = [f"{kind}-{variant}" for variant in range(rounds) for kind in CLIPS]
    vertices = np.empty((num_frames, len(body.vertices), 3), np.float32)
    frames: list[dict[str, str | int]] = []
    for number, (name, rows) in enumerate(
        zip(names, np.array_split(np.arange(num_frames), len(names)), strict=True)
    ):
        if not rows.size:
            continue
        kind = name.split("-")[0]
        rng = np.random.default_rng([seed, number])
        time = rng.uniform(0, 60) + np.arange(rows.size) / FRAMES_PER_SECOND
        vertices[rows] = pose(body, CLIPS[kind](rng, time))
        frames += [{"clip": name, "content": kind, "frame": i} for i in range(rows.size)]
    vertices.setflags(write=False)
    digest = hashlib.sha256(np.ascontiguousarray(vertices, "<f4").data).hexdigest()
    return MeshDataset(
        name=f"creature-{num_frames}-{seed}",
        vertices=vertices,
        faces=body.faces.copy(),
        to_mm=1000.0,
        content_hash=content_hash(digest, body.faces),
        frames=frames,
        splits=_splits(frames),
        template=body.vertices.copy(),
        up="z",
    )


def _splits(frames: list[dict[str, str | int]]) -> dict[str, Split]:
    if len(frames) < 2:
        return {}
    splits = {"interpolation": interpolation_split(frames, len(frames))}
    held = np.array([frame["content"] in HELD_OUT for frame in frames])
    if held.any() and not held.all():
        splits["extrapolation"] = make_split(
            "extrapolation",
            np.flatnonzero(~held),
            np.flatnonzero(held),
            num_meshes=len(frames),
            frames=frames,
        )
    return splits
