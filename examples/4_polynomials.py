"""
Polynomial networks and their degree
====================================

A polynomial network (Π-net) multiplies features with features. Of a layer without activations one
can say exactly what it computes: a polynomial of known degree. This tutorial builds such layers
over two kinds of linear operators, measures their degree by finite differences, and shows what a
degree is good for.
"""

# %%
# One recursion, any linear operator
# ----------------------------------
# ``NCP`` computes ``x₁ = A₁ z`` and ``xₙ = (Aₙ z) * (Sₙ xₙ₋₁) + Aₙ z``. It asks for a
# function that makes the operators A and S: linear layers, convolutions, spirals, graph layers.
# Products may be normalised (``norm``), which keeps high orders trainable; ``"none"`` is the bare
# polynomial.
import matplotlib.pyplot as plt
import torch

from polygraph.analysis import polynomial_degree
from polygraph.data import make_creature
from polygraph.mesh import spiral_table
from polygraph.nn import CCP, NCP, NCPSkip, ProdPoly, Simple, SpiralConv

torch.manual_seed(0)


def linear(i, o, bias):
    """A fully connected operator."""
    return torch.nn.Linear(i, o, bias=bias)


layer = NCP(linear, 3, 8, order=3)
print(layer)
print(layer(torch.randn(5, 3)).shape)

# %%
# Over spiral convolutions of a mesh, the same class:
animal = make_creature(num_frames=4)
spirals = torch.tensor(spiral_table(animal.template, animal.faces))


def spiral(i, o, bias):
    """A spiral convolution on the animal."""
    return SpiralConv(i, o, spirals, bias)


on_mesh = NCP(spiral, 3, 8, order=2)
print(on_mesh(torch.tensor(animal.vertices)).shape, "of [4, 1922, 3]")


# %%
# Its degree, measured
# --------------------
# Along a line a polynomial of degree n is one in a single variable: all finite differences above
# the n-th vanish. ``polynomial_degree`` looks for the last that does not.
def degree_of(block):
    """Degree in the input, in float64, of a block from 3 numbers to 8."""
    return polynomial_degree(block.double(), (3,))


for family in (Simple, CCP, NCP, NCPSkip):
    degrees = [degree_of(family(linear, 3, 8, order=n, norm="none")) for n in (1, 2, 3, 4)]
    print(f"{family.__name__:8} orders 1 to 4 have degrees {degrees}")

# %%
# Degrees multiply when blocks follow each other: that is ``ProdPoly``, whose degree grows
# exponentially with its depth while its parameters grow linearly.


def deep(blocks, order):
    """Blocks of one order, one after the other."""
    return ProdPoly(
        *(NCP(linear, 3 if n == 0 else 8, 8, order=order, norm="none") for n in range(blocks))
    )


def degree_and_size(net):
    """Measured degree, and the number of parameters."""
    degree = polynomial_degree(net.double(), (3,))
    return degree, sum(p.numel() for p in net.parameters())


single = [degree_and_size(NCP(linear, 3, 8, order=n, norm="none")) for n in (2, 4, 8, 16)]
product = [degree_and_size(deep(n, 2)) for n in (1, 2, 3, 4)]
figure, axes = plt.subplots(figsize=(6.5, 3.4), layout="constrained")
axes.plot(*zip(*single), "o-", color="#e8743b", label="one NCP")
axes.plot(*zip(*product), "s-", color="#5b2a86", label="ProdPoly of blocks of degree 2")
axes.set_xlabel("degree, measured")
axes.set_ylabel("parameters")
axes.set_xticks([2, 4, 8, 16])
axes.legend()
plt.show()

# %%
# An activation ends it: there is no degree any more.
broken = NCP(linear, 3, 8, order=2, norm="none", activation="elu").double()
print(polynomial_degree(broken, (3,)))

# %%
# What a degree is good for
# -------------------------
# Where the target is a polynomial, a layer of its degree learns it exactly, outside the data too.
# A linear layer cannot, and a network with ReLU comes near where it was trained and nowhere else.
line = torch.linspace(-3, 3, 200)[:, None]
inside = torch.rand(512, 1) * 2 - 1


def wave(x):
    """A polynomial of degree 3."""
    return x**3 - x


nets = {
    "degree 1": NCP(linear, 1, 16, order=1, norm="none"),
    "degree 3": NCP(linear, 1, 16, order=3, norm="none"),
    "ReLU": torch.nn.Sequential(torch.nn.Linear(1, 16), torch.nn.ReLU()),
}
figure, axes = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
axes.plot(line, wave(line), color="black", linewidth=4, alpha=0.25, label="target")
for (name, net), colour in zip(nets.items(), ("#9aa5b1", "#5b2a86", "#e8743b")):
    net = torch.nn.Sequential(net, torch.nn.Linear(16, 1))
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(800):
        optimizer.zero_grad()
        (net(inside) - wave(inside)).square().mean().backward()
        optimizer.step()
    axes.plot(line, net(line).detach(), color=colour, label=name)
axes.axvspan(-1, 1, color="#5b2a86", alpha=0.07)
axes.set_ylim(-8, 8)
axes.set_xlabel("x (trained within the band)")
axes.legend()
plt.show()

# %%
# Where the target is no polynomial, the same property is a danger: outside of the data a polynomial
# of high degree grows without bound. What this means for meshes is
# :doc:`measured </docs/results/meshes>`.
