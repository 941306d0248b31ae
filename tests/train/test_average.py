import pytest
import torch
from torch import nn

from morphnet.config import OptimConfig
from morphnet.data import evaluation_batches
from morphnet.train import evaluate
from morphnet.train.average import WeightAverage
from morphnet.train.engine import choose_engine
from tests.train.test_phase import DiesError, _assert_same, _dies_at, _network, _train, data  # noqa: F401

AVERAGED = OptimConfig(ema=0.9)


def test_the_average_follows_parameters_and_statistics_and_copies_counters():
    network = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1))
    with torch.no_grad():
        network[0].weight.fill_(0.0)
    average = WeightAverage(network, 0.5)
    expected = 0.0
    for step in range(12):
        with torch.no_grad():
            network[0].weight.fill_(step + 1.0)
        network[1].running_mean.fill_(step + 1.0)
        network[1].num_batches_tracked.fill_(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * (step + 1.0)
        average.prepare(step)
        average.update()
    assert average.network[0].weight.item() == pytest.approx(expected, rel=1e-6)
    assert average.network[1].running_mean.item() == pytest.approx(expected, rel=1e-6)
    assert average.network[1].num_batches_tracked.item() == 11


def test_the_averaged_network_is_evaluated_and_delivered(data, tmp_path):  # noqa: F811
    plain, _, _ = _train(data, tmp_path / "plain")
    averaged, result, _ = _train(data, tmp_path / "averaged", optimisation=AVERAGED)
    state, other = averaged.state_dict(), plain.state_dict()
    assert any(not state[name].equal(other[name]) for name in state)
    assert evaluate(averaged, evaluation_batches(data), choose_engine("cpu", "float32")) == result.final


def test_a_phase_with_an_average_goes_on_to_the_same_bits(data, tmp_path):  # noqa: F811
    whole, result, _ = _train(data, tmp_path / "whole", optimisation=AVERAGED)
    with pytest.raises(DiesError):
        _train(data, tmp_path / "died", network=_dies_at(_network(), 9), optimisation=AVERAGED)
    again, continued, _ = _train(data, tmp_path / "died", optimisation=AVERAGED)
    _assert_same(whole, again)
    assert (continued.resumed, continued.final) == (1, result.final)
