import copy

import pytest
import torch
from torch import nn

from morphnet.morph import morph_network
from morphnet.train.diagnostics import Diagnostics
from morphnet.train.handover import kept_parameters, shapes_of


@pytest.fixture
def grown(make_network):
    parent = make_network(14)
    batches = [torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    child, _ = morph_network(parent, "1c1", calibration=batches, allow_inexact=True)
    return child, kept_parameters(child, shapes_of(parent))


def test_kept_and_new_layers_are_told_apart(grown):
    child, kept = grown
    diagnostics = Diagnostics(kept, lambda: copy.deepcopy(child))
    found = diagnostics.measure(child)
    new = [p for name, p in child.named_parameters() if name not in kept and p.dim() > 1]
    assert found["norms/weights_new"] == pytest.approx(float(nn.utils.get_total_norm(new)))
    assert found["slopes/layer2.1.shortcut.branches.0.act"] == 1
    assert found["bn_drift/running_mean_kept"] == found["bn_drift/running_mean_new"] == 0
    assert not any("gradients" in name for name in found)
    child(torch.randn(2, 3, 16, 16)).sum().backward()
    assert diagnostics.measure(child)["norms/gradients_kept"] > 0


def test_the_drift_is_in_deviations_of_the_start(grown):
    child, kept = grown
    diagnostics = Diagnostics(kept, lambda: copy.deepcopy(child))
    diagnostics.measure(child)
    norms = {name: m for name, m in child.named_modules() if isinstance(m, nn.BatchNorm2d)}
    for norm in norms.values():
        norm.running_mean += 2 * (norm.running_var + norm.eps).sqrt()
    found = diagnostics.measure(child)
    assert found["bn_drift/running_mean_kept"] == pytest.approx(2, rel=1e-5)
    assert found["bn_drift/running_mean_new"] == pytest.approx(2, rel=1e-5)


def test_a_parent_has_one_group(make_network):
    network = make_network(14)
    found = Diagnostics(frozenset(), lambda: copy.deepcopy(network)).measure(network)
    assert {name for name in found if not name.startswith("slopes/")} == {
        "norms/weights", "bn_drift/running_mean",
    }  # fmt: skip
