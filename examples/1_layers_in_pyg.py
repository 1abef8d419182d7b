"""
Layers in a PyG model
=====================

Three of the layers here are PyG's own layers with other kernels: `EdgeConv`, `DynamicEdgeConv` and
`NNConv` (`ECConv`). They take the same arguments, have the same ``state_dict`` and give the same
values. What changes is that no tensor of the size of the edges is stored.

This tutorial swaps a layer in a model, checks that nothing else has changed, and measures time.
"""

# %%
# A model of PyG
# --------------
# A graph of 2,000 nodes and 32,000 edges, and a network with one `EdgeConv`.
import time

import matplotlib.pyplot as plt
import torch
import torch_geometric.nn as pyg

import polygraph.nn as fast

torch.manual_seed(0)
num_nodes, num_edges = 2000, 32_000
x = torch.randn(num_nodes, 32)
edge_index = torch.randint(num_nodes, (2, num_edges))


class Net(torch.nn.Module):
    """An edge convolution of the given library, and a linear layer."""

    def __init__(self, library):
        super().__init__()
        mlp = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64))
        self.conv = library.EdgeConv(mlp, aggr="max")
        self.out = torch.nn.Linear(64, 4)

    def forward(self, x, edge_index):
        return self.out(self.conv(x, edge_index).relu())


theirs, ours = Net(pyg), Net(fast)

# %%
# The weights fit
# ---------------
# A checkpoint that was trained with PyG is loaded as it is.
ours.load_state_dict(theirs.state_dict())
difference = (ours(x, edge_index) - theirs(x, edge_index)).abs().max().item()
print(f"largest difference: {difference:.1e}")

# %%
# So do gradients, of any order, ``torch.compile`` and ``torch.func``: see
# :doc:`PyTorch and PyG </docs/pytorch>`.
gradients = [
    torch.autograd.grad(net(x, edge_index).square().mean(), list(net.parameters()))
    for net in (ours, theirs)
]
print(f"of gradients: {max((a - b).abs().max().item() for a, b in zip(*gradients)):.1e}")


# %%
# What it costs
# -------------
# The least of five calls each, taken in turns. `EdgeConv` with one linear layer gains most, since
# its maximum needs no messages at all; `NNConv` is the one that takes most memory in PyG.
def layers(library):
    """The same three layers of a library."""
    deep = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64))
    edge_network = torch.nn.Sequential(
        torch.nn.Linear(3, 16), torch.nn.ReLU(), torch.nn.Linear(16, 32 * 32)
    )
    return {
        "EdgeConv,\none linear layer": library.EdgeConv(torch.nn.Linear(64, 64), aggr="max"),
        "EdgeConv,\ntwo linear layers": library.EdgeConv(deep, aggr="max"),
        "NNConv": library.NNConv(32, 32, edge_network, aggr="mean"),
    }


def milliseconds(layer, *arguments):
    """One call, forward and backward."""
    began = time.perf_counter()
    layer(*arguments).sum().backward()
    return 1000 * (time.perf_counter() - began)


edge_attr = torch.randn(num_edges, 3)
times = {}
for name, other in layers(pyg).items():
    mine = layers(fast)[name]
    arguments = (x, edge_index, edge_attr) if name == "NNConv" else (x, edge_index)
    rounds = [(milliseconds(other, *arguments), milliseconds(mine, *arguments)) for _ in range(5)]
    times[name] = [min(column) for column in zip(*rounds)]

figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
for place, (label, colour) in enumerate((("PyG", "#9aa5b1"), ("polygraph", "#5b2a86"))):
    values = [pair[place] for pair in times.values()]
    bars = axes.barh([row - 0.2 + 0.4 * place for row in range(len(times))], values, 0.38)
    for bar in bars:
        bar.set_color(colour)
    axes.bar_label(bars, fmt="%.0f ms", padding=3)
    bars.set_label(label)
axes.set_yticks(range(len(times)), list(times))
axes.invert_yaxis()
axes.set_xlabel("forward + backward, 32,000 edges, one thread (ms)")
axes.margins(x=0.15)
axes.legend()
plt.show()

# %%
# Times of one machine on one day: the :doc:`results </docs/results/kernels>` have every workload,
# with memory.
