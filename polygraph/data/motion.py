"""How the built-in synthetic animal moves: clips of pose signals, and skinning.

A pose has about fifteen degrees of freedom, all smooth in time. Feet are placed by inverse
kinematics (law of cosines in the plane of the leg), so a paw on the ground stays on the ground; the
surface follows by linear blend skinning plus a breathing displacement. Rotations make the vertices
a non-linear function of the pose: a linear model with as many numbers as the pose has degrees of
freedom does not reach zero error.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from polygraph.data.creature import LEGS, Body

FloatArray = NDArray[np.float64]
Signals = dict[str, FloatArray]
FRAMES_PER_SECOND = 20.0

# Phase of every leg (fl, fr, hl, hr) within one stride, as fractions of it.
_WALK, _TROT, _GALLOP = (0.25, 0.75, 0.0, 0.5), (0.0, 0.5, 0.5, 0.0), (0.45, 0.58, 0.0, 0.12)


def _wobble(rng: np.random.Generator, time: FloatArray, hertz: float) -> FloatArray:
    """Smooth random signal of about unit amplitude: three sinusoids around the given frequency."""
    total = np.zeros_like(time)
    for factor in (0.6, 1.0, 1.7):
        rate, phase = hertz * factor * rng.uniform(0.85, 1.15), rng.uniform(0, 2 * np.pi)
        total += np.sin(2 * np.pi * rate * time + phase) / (0.6 + factor)
    return total / 1.2


def _ramp(x: FloatArray) -> FloatArray:
    """0 below 0, 1 above 1, with two continuous derivatives."""
    x = np.clip(x, 0.0, 1.0)
    return x**3 * (x * (6 * x - 15) + 10)


def _idle(rng: np.random.Generator, time: FloatArray) -> Signals:
    """What every clip contains: breathing, a little sway, ears and tail about their business."""
    wag_rate, wag = rng.uniform(1.0, 2.2), rng.uniform(0.15, 0.45)
    wag_phase = 2 * np.pi * wag_rate * time + rng.uniform(0, 2 * np.pi)
    swing = wag * (0.7 + 0.3 * _wobble(rng, time, 0.2))
    breath_rate = rng.uniform(0.5, 0.9)
    return {
        "x": np.zeros_like(time),
        "z": np.full_like(time, -0.012),
        "pitch": 0.02 * _wobble(rng, time, 0.3),
        "roll": 0.02 * _wobble(rng, time, 0.3),
        "yaw": 0.03 * _wobble(rng, time, 0.2),
        "bend_pitch": 0.03 * _wobble(rng, time, 0.3),
        "bend_yaw": 0.06 * _wobble(rng, time, 0.3),
        "bend_roll": np.zeros_like(time),
        "neck_pitch": 0.10 * _wobble(rng, time, 0.3),
        "neck_yaw": 0.15 * _wobble(rng, time, 0.3),
        "head_pitch": 0.10 * _wobble(rng, time, 0.4),
        "head_yaw": 0.20 * _wobble(rng, time, 0.4),
        "head_roll": 0.10 * _wobble(rng, time, 0.3),
        "tail_pitch": rng.uniform(-0.2, 0.25) + 0.10 * _wobble(rng, time, 0.3),
        "tail_yaw": swing * np.sin(wag_phase),
        "tail_lag": swing * np.sin(wag_phase - 0.9),
        "ears": 0.15 * _wobble(rng, time, 0.4),
        "breath": 0.5 + 0.5 * np.sin(2 * np.pi * breath_rate * time + rng.uniform(0, 2 * np.pi)),
        "feet": np.zeros((len(time), 4, 3)),
    }


def _gait(
    signals: Signals,
    phase: FloatArray,
    offsets: tuple[float, ...],
    stride: FloatArray,
    lift: FloatArray,
) -> None:
    """Move the feet: on the ground they travel backwards, in the air forwards."""
    for leg, offset in enumerate(offsets):
        angle = 2 * np.pi * (phase + offset)
        signals["feet"][:, leg, 0] += stride * np.cos(angle)
        signals["feet"][:, leg, 2] += lift * np.maximum(0.0, -np.sin(angle)) ** 2


def _walk(rng: np.random.Generator, time: FloatArray) -> Signals:
    signals = _idle(rng, time)
    phase = rng.uniform(0.8, 1.1) * time + 0.05 * _wobble(rng, time, 0.2)
    stride = rng.uniform(0.07, 0.10) * (1 + 0.15 * _wobble(rng, time, 0.2))
    _gait(signals, phase, _WALK, stride, np.full_like(time, rng.uniform(0.04, 0.06)))
    turn = 2 * np.pi * phase
    signals["z"] += -0.012 + 0.006 * np.cos(2 * turn)
    signals["roll"] += 0.04 * np.sin(turn)
    signals["bend_yaw"] += 0.08 * np.sin(turn + 0.5)
    signals["neck_pitch"] += 0.05 * np.cos(2 * turn)
    return signals


def _trot(rng: np.random.Generator, time: FloatArray) -> Signals:
    signals = _idle(rng, time)
    phase = rng.uniform(1.5, 1.9) * time + 0.05 * _wobble(rng, time, 0.2)
    stride = rng.uniform(0.09, 0.12) * (1 + 0.15 * _wobble(rng, time, 0.2))
    _gait(signals, phase, _TROT, stride, np.full_like(time, rng.uniform(0.07, 0.10)))
    turn = 2 * np.pi * phase
    signals["z"] += -0.016 + 0.014 * np.cos(2 * turn)
    signals["bend_yaw"] += 0.04 * np.sin(turn)
    signals["neck_pitch"] += -0.15 + 0.06 * np.cos(2 * turn + 0.6)
    signals["tail_pitch"] += 0.25
    return signals


def _gallop(rng: np.random.Generator, time: FloatArray) -> Signals:
    signals = _idle(rng, time)
    phase = rng.uniform(1.6, 2.1) * time + 0.04 * _wobble(rng, time, 0.2)
    stride = rng.uniform(0.13, 0.17) * (1 + 0.1 * _wobble(rng, time, 0.2))
    _gait(signals, phase, _GALLOP, stride, np.full_like(time, rng.uniform(0.10, 0.14)))
    turn = 2 * np.pi * phase
    signals["z"] += -0.030 + 0.030 * np.cos(turn - 0.8)
    signals["pitch"] += 0.14 * np.sin(turn)
    signals["bend_pitch"] += 0.22 * np.sin(turn + 1.9)
    signals["neck_pitch"] += 0.25 - 0.20 * np.sin(turn)
    signals["head_pitch"] -= 0.15
    signals["ears"] -= 0.35
    signals["tail_pitch"] += 0.40 + 0.25 * np.sin(turn - 1.0)
    return signals


def _look(rng: np.random.Generator, time: FloatArray) -> Signals:
    signals = _idle(rng, time)
    scan, nod = _wobble(rng, time, 0.35), _wobble(rng, time, 0.3)
    signals["neck_yaw"] += 0.55 * scan
    signals["head_yaw"] += 0.55 * scan
    signals["bend_yaw"] += 0.14 * scan
    signals["neck_pitch"] += 0.35 * nod
    signals["head_pitch"] += 0.30 * _wobble(rng, time, 0.35)
    signals["head_roll"] += 0.30 * _wobble(rng, time, 0.35)
    signals["ears"] += 0.25 * _wobble(rng, time, 0.6)
    return signals


def _sniff(rng: np.random.Generator, time: FloatArray) -> Signals:
    signals = _idle(rng, time)
    down = 0.65 + 0.35 * _wobble(rng, time, 0.2)
    signals["z"] -= 0.03 * down
    signals["pitch"] += 0.12 * down
    signals["bend_pitch"] += 0.16 * down
    signals["neck_pitch"] += 0.85 * down
    signals["head_pitch"] += 0.20 * down + 0.12 * _wobble(rng, time, 1.2)
    signals["neck_yaw"] += 0.35 * _wobble(rng, time, 0.4)
    signals["tail_pitch"] += 0.25
    signals["feet"][:, :2, 0] += (0.06 * down)[:, None]
    return signals


def _sit(rng: np.random.Generator, time: FloatArray) -> Signals:
    signals = _look(rng, time)
    span = time - time[0]
    length = max(float(span[-1]), 1.0 / FRAMES_PER_SECOND)
    down = _ramp(span / length / 0.4) * (1 - _ramp((span / length - 0.72) / 0.28))
    signals["z"] -= 0.255 * down
    signals["pitch"] -= 0.52 * down
    signals["bend_pitch"] -= 0.08 * down
    signals["neck_pitch"] += 0.30 * down
    signals["head_pitch"] += 0.20 * down
    signals["tail_pitch"] += 0.55 * down
    signals["feet"][:, 2:, 0] += (0.105 * down)[:, None]
    signals["feet"][:, 2:, 1] += 0.035 * down[:, None] * np.array([1.0, -1.0])
    signals["feet"][:, :2, 0] -= (0.02 * down)[:, None]
    return signals


def _stretch(rng: np.random.Generator, time: FloatArray) -> Signals:
    signals = _idle(rng, time)
    span = time - time[0]
    length = max(float(span[-1]), 1.0 / FRAMES_PER_SECOND)
    bow = (
        _ramp(span / length / 0.4)
        * (1 - _ramp((span / length - 0.65) / 0.35))
        * rng.uniform(0.85, 1.0)
    )
    signals["z"] += 0.005 * bow
    signals["pitch"] += 0.34 * bow
    signals["bend_pitch"] += 0.05 * bow
    signals["neck_pitch"] -= 0.30 * bow
    signals["head_pitch"] -= 0.15 * bow
    signals["tail_pitch"] += 0.45 * bow
    signals["feet"][:, :2, 0] += (0.17 * bow)[:, None]
    return signals


def _shake(rng: np.random.Generator, time: FloatArray) -> Signals:
    signals = _idle(rng, time)
    strength = 0.55 + 0.45 * _wobble(rng, time, 0.25)
    turn = 2 * np.pi * rng.uniform(2.2, 2.8) * time
    signals["head_roll"] += 0.60 * strength * np.sin(turn)
    signals["bend_roll"] += 0.22 * strength * np.sin(turn - 0.9)
    signals["roll"] += 0.10 * strength * np.sin(turn - 1.8)
    signals["neck_pitch"] += 0.35 * strength
    signals["ears"] += 0.40 * strength * np.sin(turn - 0.6)
    signals["tail_yaw"] += 0.35 * strength * np.sin(turn - 2.6)
    signals["tail_lag"] += 0.35 * strength * np.sin(turn - 3.4)
    return signals


CLIPS: dict[str, Callable[[np.random.Generator, FloatArray], Signals]] = {
    "walk": _walk,
    "trot": _trot,
    "gallop": _gallop,
    "look": _look,
    "sniff": _sniff,
    "sit": _sit,
    "stretch": _stretch,
    "shake": _shake,
}


def _turn(axis: int, angle: FloatArray) -> FloatArray:
    """Rotations about a coordinate axis, ``[T, 3, 3]``; a positive turn about y lowers the nose."""
    rotation = np.zeros((len(angle), 3, 3))
    a, b = (axis + 1) % 3, (axis + 2) % 3
    rotation[:, axis, axis] = 1.0
    rotation[:, a, a] = rotation[:, b, b] = np.cos(angle)
    rotation[:, b, a] = np.sin(angle)
    rotation[:, a, b] = -rotation[:, b, a]
    return rotation


def _local_rotations(s: Signals) -> dict[str, FloatArray]:
    """Rotation of every bone of the spine against its parent."""

    def euler(yaw: FloatArray, pitch: FloatArray, roll: FloatArray) -> FloatArray:
        return _turn(2, yaw) @ _turn(1, pitch) @ _turn(0, roll)

    still = np.zeros_like(s["x"])
    return {
        "pelvis": euler(s["yaw"], s["pitch"], s["roll"]),
        "chest": euler(s["bend_yaw"], s["bend_pitch"], s["bend_roll"]),
        "neck": euler(s["neck_yaw"], s["neck_pitch"], still),
        "head": euler(s["head_yaw"], s["head_pitch"], s["head_roll"]),
        "tail1": euler(0.6 * s["tail_yaw"], s["tail_pitch"], still),
        "tail2": euler(0.5 * (s["tail_yaw"] + s["tail_lag"]), 0.6 * s["tail_pitch"], still),
        "tail3": euler(s["tail_lag"], 0.4 * s["tail_pitch"], still),
        "ear_l": _turn(1, s["ears"]) @ _turn(0, -0.6 * s["ears"]),
        "ear_r": _turn(1, s["ears"]) @ _turn(0, 0.6 * s["ears"]),
    }


def _reach(
    hip: FloatArray, target: FloatArray, rest: FloatArray, front: bool
) -> tuple[FloatArray, ...]:
    """World rotations of the upper and lower leg, and positions of knee and ankle.

    Args:
        hip: ``[T, 3]`` where the leg hangs.
        target: ``[T, 3]`` where the ankle should be; a target out of reach is approached smoothly.
        rest: ``[3, 3]`` rest positions of hip, knee and ankle.
        front: elbows point backwards, knees forwards.
    """
    upper, lower = rest[1] - rest[0], rest[2] - rest[1]
    long_upper, long_lower = np.hypot(upper[0], upper[2]), np.hypot(lower[0], lower[2])
    away = target - hip
    sideways = away[:, 1] - (rest[2] - rest[0])[1]
    splay = np.arctan2(sideways, -away[:, 2])
    depth = np.hypot(sideways, away[:, 2])
    full, soft = 0.995 * (long_upper + long_lower), 0.004
    reach = -soft * np.logaddexp(-np.hypot(away[:, 0], depth) / soft, -full / soft)
    line = np.arctan2(away[:, 0], depth)
    at_hip = np.arccos(
        np.clip((long_upper**2 + reach**2 - long_lower**2) / (2 * long_upper * reach), -1, 1)
    )
    at_ankle = np.arccos(
        np.clip((long_lower**2 + reach**2 - long_upper**2) / (2 * long_lower * reach), -1, 1)
    )
    sign = -1.0 if front else 1.0
    tilt = _turn(0, splay)
    rotations = []
    for bone, angle in ((upper, line + sign * at_hip), (lower, line - sign * at_ankle)):
        rotations.append(tilt @ _turn(1, np.arctan2(bone[0], -bone[2]) - angle))
    knee = hip + rotations[0] @ upper
    return rotations[0], rotations[1], knee, knee + rotations[1] @ lower


def pose(body: Body, signals: Signals) -> FloatArray:
    """Pose the body: ``[T, V, 3]`` vertices in metres."""
    names, joints = body.bones, body.joints
    num_frames = len(signals["x"])
    rotation = np.zeros((num_frames, len(names), 3, 3))
    position = np.zeros((num_frames, len(names), 3))
    for name, local in _local_rotations(signals).items():
        j, parent = names.index(name), int(body.parents[names.index(name)])
        if parent < 0:
            rotation[:, j] = local
            position[:, j] = joints[j] + np.stack(
                [signals["x"], 0 * signals["x"], signals["z"]], -1
            )
        else:
            rotation[:, j] = rotation[:, parent] @ local
            position[:, j] = position[:, parent] + rotation[:, parent] @ (
                joints[j] - joints[parent]
            )
    for leg, tag in enumerate(LEGS):
        chain = [names.index(f"{part}_{tag}") for part in ("upper", "lower", "paw")]
        parent = int(body.parents[chain[0]])
        hip = position[:, parent] + rotation[:, parent] @ (joints[chain[0]] - joints[parent])
        step = signals["feet"][:, leg]
        upper, lower, knee, ankle = _reach(
            hip, joints[chain[2]] + step, joints[chain], tag[0] == "f"
        )
        rotation[:, chain[0]], rotation[:, chain[1]] = upper, lower
        rotation[:, chain[2]] = _turn(1, 7.0 * np.maximum(step[:, 2], 0.0))
        position[:, chain[0]], position[:, chain[1]], position[:, chain[2]] = hip, knee, ankle
    shift = position - np.einsum("tjab,jb->tja", rotation, joints)
    rest = body.vertices + signals["breath"][:, None, None] * body.breath
    blended = np.tensordot(
        np.concatenate([rotation, shift[..., None]], -1), body.weights, axes=([1], [1])
    )
    turned: FloatArray = np.einsum("tabv,tvb->tva", blended[:, :, :3], rest)
    return turned + np.moveaxis(blended[:, :, 3], 1, 2)
