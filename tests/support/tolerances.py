"""How far a kernel may be from the definition, and why.

The definition (`polygraph.reference`) is evaluated in float64 on the very inputs that the kernel
gets, rounded to the kernel's dtype first. What is left is the kernel's own rounding.
"""

import torch

# Error of one entry, as a share of the largest entry of the tensor: the entries are sums of terms
# of both signs, so an entry near zero carries the absolute error of its terms.
#
#   float64  2^-53 a step; the longest sums of these tests have 5,500 terms, whose errors add up
#            like a random walk (75 steps) and at worst in line: between 8e-15 and 6e-13.
#   float32  2^-24 a step: between 4e-6 and, at worst, 3e-4; the random walk is what happens.
#   float16  accumulated in float32 and rounded once, 2^-11 = 4.9e-4 of the entry itself. A gradient
#   bfloat16 (2^-8 = 3.9e-3) is rounded once more where the forward result it reads was rounded.
KERNEL = {
    torch.float64: 1e-13,
    torch.float32: 1e-5,
    torch.float16: 1e-3,
    torch.bfloat16: 8e-3,
}

# Second derivatives chain two kernels, each within the tolerance above.
SECOND_DERIVATIVE = {torch.float64: 2e-13, torch.float32: 2e-5}

# A layer is some kernels and products, one after the other.
#
#   float32            measured on a CPU: at most 1.1e-6 of the largest entry, over 50 layers. A GPU
#                      adds up in another order, with errors of that size: ten times as much.
#   bfloat16           under autocast, at most 1e-2 of the largest entry of the output on a CPU, two
#                      or three roundings of 2^-8; twice that.
#   its gradients      a rounding of 2^-8 turns an activation's slope, or the choice of a neighbour,
#                      here and there, and a whole term of the gradient moves. As a share of the
#                      gradient's length, measured at most 0.11 (a bias of eight numbers); one that
#                      lacks a term, or has it twice, is off by its own length.
LAYER_FLOAT32 = 1e-5
LAYER_BFLOAT16 = 2e-2
LAYER_GRADIENT_BFLOAT16 = 0.3

# Losses and weights after twenty steps of gradient descent in float64, on two devices. Weights that
# start 2e-16 of themselves apart end at most 2e-14 apart (measured on a CPU, eight models); sums in
# another order disturb every step by some tens of 1e-16.
TRAINING_FLOAT64 = 1e-10

# Share of sum |terms| in sums of at most 100 terms: 100 steps of 2^-24, all in line. Below the
# smallest normal number (1.2e-38) a product may lose all its digits, or be flushed to zero.
SUM_FLOAT32 = 100 * 2.0**-24
TINY_FLOAT32 = 100 * 1.2e-38


def relative_error(actual, expected):
    """Largest difference as a share of the largest entry; inf where shapes or NaNs differ."""
    if actual.shape != expected.shape:
        return float("inf")
    actual, expected = actual.detach().cpu().double(), expected.detach().cpu().double()
    if actual.numel() == 0:
        return 0.0
    largest = expected.abs().max().item()
    difference = (actual - expected).abs().max().item()
    if difference == 0:
        return 0.0
    return difference / largest if largest > 0 and difference == difference else float("inf")


def distance(actual, expected):
    """Length of the difference as a share of the length of ``expected``; inf for NaN or no length.

    Two gradients of zeros have none.
    """
    actual, expected = actual.detach().cpu().double(), expected.detach().cpu().double()
    difference = float((actual - expected).norm())
    if difference == 0:
        return 0.0
    length = float(expected.norm())
    return difference / length if length > 0 and difference == difference else float("inf")


def assert_close(actual, expected, tolerance, what):
    """Fail unless the two tensors agree; ``what`` names them in the message."""
    error = relative_error(actual, expected)
    assert error <= tolerance, (
        f"{what}: error {error:.2e} of the largest entry, allowed {tolerance:.0e}"
    )
