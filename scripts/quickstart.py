"""Grow a network of your own, in about a minute and without a download: python scripts/quickstart.py

A plain PyTorch loop trains a small network on scikit-learn's digits. One of its convolutions becomes a module with the
same function, training continues, and in the end the module collapses into one convolution for inference.
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

from morphnet import Edge, ModuleGraph, collapse, count_macs, morph_network

torch.manual_seed(0)


class Net(nn.Module):
    """An ordinary network, without any use of morphnet."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.conv2, self.bn2 = nn.Conv2d(16, 16, 3, padding=1, stride=2), nn.BatchNorm2d(16)
        self.linear = nn.Linear(16, 10)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return self.linear(x.mean((2, 3)))


digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
labels = torch.tensor(digits.target)
order = torch.randperm(len(labels))
train, test = order[:1200], order[1200:]


def fit(network, epochs, lr):
    """The usual loop; slopes of new activations (parameters called ``a``) have no weight decay."""
    slopes = [p for name, p in network.named_parameters() if name.endswith(".a")]
    others = [p for name, p in network.named_parameters() if not name.endswith(".a")]
    groups = [{"params": others, "weight_decay": 1e-4}, {"params": slopes, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=0.9)
    network.train()
    for _ in range(epochs):
        for batch in train[torch.randperm(len(train))].split(64):
            optimizer.zero_grad()
            F.cross_entropy(network(images[batch]), labels[batch]).backward()
            optimizer.step()


@torch.no_grad()
def errors(network):
    return int((network.eval()(images[test]).argmax(1) != labels[test]).sum())


parent = Net()
fit(parent, epochs=40, lr=0.05)
print(f"parent: {errors(parent)} errors of {len(test)}, {count_macs(parent, (1, 1, 8, 8)):,} multiply-accumulates")

# conv2 becomes two convolutions in series beside one of its own size, with the same function, stride and bias.
fork = ModuleGraph([Edge("s", "a", kernel=3), Edge("a", "t", kernel=1), Edge("s", "t", kernel=3)], channels={"a": 16})
child, report = morph_network(parent, {"conv2": fork}, calibration=images[train].split(128))
print(report)
print(f"child: {errors(child)} errors, before any further training")

fit(child, epochs=20, lr=0.02)
print(f"child: {errors(child)} errors after 20 more epochs, {count_macs(child, (1, 1, 8, 8)):,} multiply-accumulates")

small, collapse_report = collapse(child, tolerance=0.5, images=[(images[test], labels[test])], input_size=(1, 1, 8, 8))
print(collapse_report)
