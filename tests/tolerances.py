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


def assert_close(actual, expected, tolerance, what):
    """Fail unless the two tensors agree; ``what`` names them in the message."""
    error = relative_error(actual, expected)
    assert error <= tolerance, (
        f"{what}: error {error:.2e} of the largest entry, allowed {tolerance:.0e}"
    )
