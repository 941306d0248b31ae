import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from morphnet.solvers import Filters, add, balance, module_filter
from morphnet.solvers.balance import source_and_sink_are_tied
from tests.modules import POSITIVE, module, normal, problems, random_filters


def _norms(filters):
    return torch.tensor([float(torch.linalg.norm(weight)) for weight in filters.values()])


def _spread(filters):
    return float(_norms(filters).log().var(unbiased=False))


@settings(deadline=None, max_examples=60)
@given(problems(scales=POSITIVE), st.sampled_from([1e-4, 1.0, 30.0]))
def test_the_modules_filter_is_multiplied_by_the_gain_and_no_more(problem, gain):
    graph, channels = problem.graph, problem.channels
    if source_and_sink_are_tied(graph):
        gain = 1.0
    filters = random_filters(graph, *channels)
    before = module_filter(graph, filters, *channels)
    balanced = balance(graph, filters, gain)
    after = module_filter(graph, balanced, *channels)
    assert float(torch.linalg.norm(after - gain * before)) < 1e-12 * gain * float(torch.linalg.norm(before))
    assert list(balanced) == list(filters)


@settings(deadline=None, max_examples=40)
@given(problems(), st.sampled_from([1e-3, 1.0, 1e3]))
def test_norms_never_spread_and_a_second_time_changes_nothing(problem, size):
    filters = random_filters(problem.graph, *problem.channels)
    first = next(iter(filters))
    filters[first] = size * filters[first]
    balanced = balance(problem.graph, filters)
    assert _spread(balanced) <= _spread(filters) + 1e-9
    again = balance(problem.graph, balanced)
    for edge, weight in balanced.items():
        assert_close(again[edge], weight, rtol=1e-6, atol=0)


@pytest.mark.parametrize("gain", [1e-6, 1.0, 1e6])
def test_filters_of_a_chain_get_one_norm(gain):
    graph = module("sa ab bt")
    filters = random_filters(graph, 4, 4)
    filters[graph["s-a"]] *= 1000
    norms = _norms(balance(graph, filters, gain))
    assert norms.max() / norms.min() == pytest.approx(1, rel=1e-6)
    product = float(_norms(filters).double().prod()) * gain
    assert float(norms[0]) == pytest.approx(product ** (1 / 3), rel=1e-4)


def test_an_identity_keeps_its_scale():
    """The vertices it joins share one factor, and what runs beside it keeps its norm."""
    graph = module("sa ab=0.5 ab bt")
    filters = random_filters(graph, 3, 3)
    filters[graph["s-a"]] *= 100
    balanced = balance(graph, filters)
    assert_close(balanced["a-b.1"], filters["a-b.1"])
    assert float(_norms(balanced)[0]) == pytest.approx(float(_norms(balanced)[2]), rel=1e-5)
    assert_close(module_filter(graph, balanced, 3, 3), module_filter(graph, filters, 3, 3))


def test_tied_ends_leave_the_freedom_of_inner_vertices():
    graph = module("sa at st=0.5")
    filters = random_filters(graph, 3, 3)
    filters[graph["s-a"]] *= 100
    balanced = balance(graph, filters)
    assert float(_norms(balanced)[0]) == pytest.approx(float(_norms(balanced)[1]), rel=1e-5)
    assert_close(module_filter(graph, balanced, 3, 3), module_filter(graph, filters, 3, 3))


@pytest.mark.parametrize(
    ("pairs", "tied"),
    [
        ("st=1 st", True),
        ("sa=1 at=1 st", True),
        ("sa=1 at st", False),
        ("sa=1 bt=1 ab", False),
        ("sa=1 ab=1 bt=1 at", True),
    ],
)
def test_source_and_sink_are_tied_by_identities(pairs, tied):
    assert source_and_sink_are_tied(module(pairs)) == tied


def test_filters_of_zeros_stay_and_say_nothing_about_the_others():
    graph = module("sa at st")
    filters = random_filters(graph, 2, 2)
    filters[graph["s-t"]] = torch.zeros_like(filters[graph["s-t"]])
    balanced = balance(graph, filters)
    assert balanced["s-t"].abs().max() == 0
    assert float(_norms(balanced)[0]) == pytest.approx(float(_norms(balanced)[1]), rel=1e-5)
    zeros = Filters({edge: torch.zeros_like(weight) for edge, weight in filters.items()})
    assert all(weight.abs().max() == 0 for weight in balance(graph, zeros).values())


def test_what_comes_in_is_not_changed():
    graph = module("sa at")
    filters = random_filters(graph, 2, 2)
    kept = {edge: weight.clone() for edge, weight in filters.items()}
    balance(graph, filters, 100.0)
    assert all(torch.equal(kept[edge], filters[edge]) for edge in filters)
    whole = module_filter(graph, filters, 2, 2)
    assert float(torch.linalg.norm(add(whole, normal(2, 2, 1, 1)))) > 0
