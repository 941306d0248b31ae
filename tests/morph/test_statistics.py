import pytest
import torch
from torch import nn

from morphnet.morph.statistics import batch_statistics, set_batch_norms
from morphnet.nn.branch import Branch, ShortcutShape, SplitShortcut


def test_nothing_that_runs_with_batch_statistics_changes_running_values_or_modes():
    network = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.Dropout(0.5)).train()
    network[2].eval()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    with batch_statistics(network):
        assert network[1].training
        assert not network[2].training
        network(torch.randn(8, 2, 4, 4))
    assert network.training
    assert network[1].training
    assert not network[2].training
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


@pytest.mark.parametrize("setting", ["calibrated", "folded", "paper", "paper_first"])
def test_gamma_and_beta_are_what_the_setting_says(setting):
    torch.manual_seed(0)
    shortcut = SplitShortcut(6, ShortcutShape((1, 1), 6)).double().eval()
    branch = shortcut.branches[0]
    assert isinstance(branch, Branch)
    images = [2 + 3 * torch.randn(32, 6, 5, 5) for _ in range(3)]
    set_batch_norms(shortcut, [branch], setting, images)
    plain = [
        torch.equal(n.weight, torch.ones(6).double()) and n.bias.abs().max() == 0 for n in (branch.bn1, branch.bn2)
    ]
    assert (
        plain
        == {
            "calibrated": [False, False],
            "folded": [True, False],
            "paper": [True, True],
            "paper_first": [True, False],
        }[setting]
    )
    blob = branch.conv1(torch.cat(images).double())
    mean, var = blob.mean((0, 2, 3)), blob.var((0, 2, 3))
    torch.testing.assert_close(branch.bn1.running_mean, mean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(branch.bn1.running_var, var, rtol=0.05, atol=0.0)


@pytest.mark.parametrize("setting", ["calibrated", "folded"])
def test_the_branch_is_linear_in_evaluation_whatever_it_was_measured_on(setting):
    torch.manual_seed(0)
    shortcut = SplitShortcut(4, ShortcutShape((3, 1), 5)).double().eval()
    branch = shortcut.branches[0]
    assert isinstance(branch, Branch)
    x = torch.randn(2, 4, 6, 6).double()
    expected = branch.conv2(branch.conv1(x))
    set_batch_norms(shortcut, [branch], setting, [7 + torch.randn(4, 4, 3, 3)])
    torch.testing.assert_close(branch(x), expected, rtol=1e-10, atol=1e-10)
