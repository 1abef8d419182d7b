"""Solvers of a layer's problem: projected SGD, an accelerated projected gradient, Frank-Wolfe.

All of them keep the best lower bound of the optimum that they have seen: a convex function is above
its tangent planes, and the least of a plane over the ball is known.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from polygraph.models.convexified.config import ConvexifiedLayerConfig
from polygraph.models.convexified.nuclear import largest_atom, project_nuclear
from polygraph.models.convexified.problem import (
    Certificate,
    LogisticProblem,
    as_matrix,
    as_weight,
)

_BISECTIONS = 40
_GROW, _SHRINK = 2.0, 0.8  # of the estimate of the gradient's Lipschitz constant
_ROUNDING = 1e-7


class Step(NamedTuple):
    """One line of a history.

    Attributes:
        iteration: from 1 on.
        seconds: of training, without measuring.
        loss: over the training set.
        lower_bound: the best so far.
        error: share of wrong predictions on the validation set, or None.
    """

    iteration: int
    seconds: float
    loss: float
    lower_bound: float
    error: float | None


@dataclass
class Tracker:
    """Keeps time and bounds; measures when it is told to.

    Attributes:
        error_of: from weights to the error on the validation set; None: not measured.
        say: called with a line for people.
    """

    error_of: Callable[[Tensor], float] | None = None
    say: Callable[[str], None] | None = None

    def __post_init__(self) -> None:
        """Start the clock."""
        self.history: list[Step] = []
        self.lower_bound = -float("inf")
        self._spent, self._since = 0.0, time.perf_counter()

    def measure(self, iteration: int, weight: Tensor, loss: float) -> None:
        """Add a line; what measuring takes does not count."""
        self.pause()
        error = None if self.error_of is None else self.error_of(weight)
        self.history.append(Step(iteration, self._spent, loss, self.lower_bound, error))
        if self.say is not None:
            wrong = "" if error is None else f", error {error:.4f}"
            self.say(
                f"{iteration}: loss {loss:.5f}, optimum at least {max(0.0, self.lower_bound):.5f}"
                f"{wrong}, {self._spent:.0f} s"
            )
        self.go_on()

    def pause(self) -> None:
        """Stop the clock."""
        self._spent += time.perf_counter() - self._since

    def go_on(self) -> None:
        """Start it again."""
        self._since = time.perf_counter()


def solve(
    problem: LogisticProblem,
    config: ConvexifiedLayerConfig,
    generator: torch.Generator,
    tracker: Tracker | None = None,
    start: Tensor | None = None,
) -> tuple[Tensor, Certificate]:
    """Weights ``[Q', m, K - 1]`` in the ball, and how good they are.

    Args:
        problem: data and radius.
        config: names the solver and its settings.
        generator: draws mini-batches and crops.
        tracker: keeps a history.
        start: the first weights, projected onto the ball; None: zeros.

    Raises:
        ValueError: the loss becomes NaN or infinity.
    """
    tracker = Tracker() if tracker is None else tracker
    start = problem.zeros() if start is None else _projected(problem, start)
    run = {"sgd": projected_sgd, "accelerated": accelerated, "frank-wolfe": frank_wolfe}
    weight, loss = run[config.solver](problem, config, generator, tracker, start)
    return weight, problem.certificate(weight, loss, tracker.lower_bound)


def projected_sgd(
    problem: LogisticProblem,
    config: ConvexifiedLayerConfig,
    generator: torch.Generator,
    tracker: Tracker,
    weight: Tensor,
) -> tuple[Tensor, float]:
    """Some mini-batches, a projection, and so on; the mean of the last projected iterates.

    Source: Zhang, Liang and Wainwright, "Convexified Convolutional Neural Networks", ICML 2017,
    algorithm 1, with the batches and the averaging of their code.
    """
    weight = weight.clone()  # it is changed in place
    total, mean, loss = torch.zeros_like(weight, dtype=torch.float64), weight, float("nan")
    for iteration in range(1, config.iterations + 1):
        for _ in range(config.batches):
            problem.sgd_step(weight, config.batch_size, config.learning_rate, generator)
        _check_finite(float(weight.sum()), iteration, "learning_rate may be too large")
        weight = _projected(problem, weight)
        # The last window is whole, whatever number of iterations comes before the first.
        if (config.iterations - iteration) % config.window == config.window - 1:
            total.zero_()
        total += weight
        if (config.iterations - iteration) % config.window == 0:
            seen = min(iteration, config.window)
            mean = (total / seen).to(weight.dtype)
            tracker.pause()
            loss, gradient = problem.evaluate(mean)
            tracker.lower_bound = max(tracker.lower_bound, problem.bound(mean, loss, gradient))
            tracker.go_on()
            tracker.measure(iteration, mean, loss)
    return mean, loss


def accelerated(
    problem: LogisticProblem,
    config: ConvexifiedLayerConfig,
    generator: torch.Generator,
    tracker: Tracker,
    weight: Tensor,
) -> tuple[Tensor, float]:
    """Projected gradients with momentum, a step found by backtracking, restarts.

    Source: Beck and Teboulle, "A Fast Iterative Shrinkage-Thresholding Algorithm", SIAM J. Imaging
    Sciences 2009; restarts where the loss rises after O'Donoghue and Candès, 2015.
    """
    best, loss, ahead, momentum = weight, float("inf"), weight, 1.0
    curvature = problem.shape[0] / 16  # at most half of the mean squared norm of the features
    for iteration in range(1, config.iterations + 1):
        loss_ahead, gradient = problem.evaluate(ahead)
        _check_finite(loss_ahead, iteration)
        bound = problem.bound(ahead, loss_ahead, gradient)
        tracker.lower_bound = max(tracker.lower_bound, bound)
        if momentum == 1.0:
            loss = min(loss, loss_ahead)
        curvature *= _SHRINK
        while True:
            moved = _projected(problem, ahead - (gradient / curvature).to(ahead.dtype))
            step = (moved - ahead).double()
            new_loss = problem.loss_of(problem.scores(moved), problem.targets())
            model = loss_ahead + float((gradient * step).sum())
            model += curvature / 2 * float(step.square().sum())
            if new_loss <= model + _ROUNDING * abs(loss_ahead):
                break
            curvature *= _GROW
        if new_loss > loss:
            if momentum == 1.0:  # no better point is to be had in this precision
                tracker.measure(iteration, best, loss)
                break
            ahead, momentum = best, 1.0
        else:
            grown = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
            ahead = moved + (momentum - 1) / grown * (moved - best)
            best, loss, momentum = moved, new_loss, grown
        if _done(tracker, config, iteration, best, loss):
            break
    return best, loss


def frank_wolfe(
    problem: LogisticProblem,
    config: ConvexifiedLayerConfig,
    generator: torch.Generator,
    tracker: Tracker,
    weight: Tensor,
) -> tuple[Tensor, float]:
    """Steps towards the best matrix of rank 1, with exact line search: no projection.

    Source: Jaggi, "Revisiting Frank-Wolfe: Projection-Free Sparse Convex Optimization", ICML 2013.
    """
    targets = problem.targets()
    scores = problem.scores(weight)
    loss = problem.loss_of(scores, targets)
    for iteration in range(1, config.iterations + 1):
        loss, gradient = problem.evaluate(weight)
        _check_finite(loss, iteration)
        tracker.lower_bound = max(tracker.lower_bound, problem.bound(weight, loss, gradient))
        if _done(tracker, config, iteration, weight, loss):
            break
        _, atom = largest_atom(as_matrix(gradient))
        corner = as_weight((-problem.radius * atom).to(weight.dtype), problem.shape)
        direction = problem.scores(corner) - scores
        step = _line_search(problem, scores, direction, targets)
        weight = weight + step * (corner - weight)
        scores = scores + step * direction
        loss = problem.loss_of(scores, targets)
    return weight, loss


def _line_search(
    problem: LogisticProblem, scores: Tensor, direction: Tensor, targets: Tensor
) -> float:
    """The best step in [0, 1], by bisection of the derivative."""
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if problem.slope(scores + middle * direction, direction, targets) > 0:
            high = middle
        else:
            low = middle
    return low


def _projected(problem: LogisticProblem, weight: Tensor) -> Tensor:
    return as_weight(project_nuclear(as_matrix(weight), problem.radius), problem.shape)


def _done(
    tracker: Tracker, config: ConvexifiedLayerConfig, iteration: int, weight: Tensor, loss: float
) -> bool:
    """Whether the gap is small enough; measures at the end of windows."""
    bound = max(0.0, tracker.lower_bound)
    found = loss - bound <= config.tolerance * loss
    if found or iteration == config.iterations or iteration % config.window == 0:
        tracker.measure(iteration, weight, loss)
    return found


def _check_finite(value: float, iteration: int, hint: str = "inputs may be too large") -> None:
    if not abs(value) < float("inf"):
        raise ValueError(f"ConvexifiedCNN: weights or loss are {value} at step {iteration}: {hint}")
