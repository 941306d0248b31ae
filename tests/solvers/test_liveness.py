import importlib
import re
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from morphnet.solvers import module_filter, orthogonal, solve
from morphnet.solvers.liveness import MAX_PATHS, find_weak, path_norms, rank_across_channels
from tests.modules import BRIDGE, module, normal, random_filters

LIVENESS = importlib.import_module("morphnet.solvers.liveness")


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 5), st.integers(1, 5), st.sampled_from([(1, 1), (3, 3), (1, 3)]), st.integers(1, 5))
def test_rank_is_found_whichever_side_is_wider(out_channels, in_channels, kernel, rank):
    rank = min(rank, out_channels, in_channels)
    outer, inner = normal(out_channels, rank, seed=1), normal(rank, in_channels, seed=2)
    taps = torch.ones(kernel, dtype=torch.float64)
    weight = (outer @ inner)[:, :, None, None] * taps
    assert rank_across_channels(weight) == rank
    assert rank_across_channels(1e-8 * weight) == rank


def test_taps_may_make_up_for_one_another():
    """One channel per tap: no tap has full rank, the filter has."""
    weight = torch.zeros(3, 3, 1, 3, dtype=torch.float64)
    for i in range(3):
        weight[i, i, 0, i] = 1
    assert rank_across_channels(weight) == 3
    weight[2] = weight[1]
    assert rank_across_channels(weight) == 2


def test_a_square_filter_has_full_rank_both_ways_or_not_at_all():
    """Three outputs of one input, through three taps: the outputs differ, and two inputs are not seen."""
    weight = torch.zeros(3, 3, 1, 3, dtype=torch.float64)
    for i in range(3):
        weight[i, 0, 0, i] = 1
    assert rank_across_channels(weight) == 1
    assert rank_across_channels(weight.transpose(0, 1)) == 1
    assert rank_across_channels(weight[:, :2]) == 1


def test_a_solution_is_alive_and_a_spoilt_one_is_named():
    graph, weight = module(BRIDGE), normal(4, 4, 3, 3)
    solution = solve(graph, weight)
    assert find_weak(graph, solution.filters, weight) == ()
    filters = solution.filters | {}
    filters[graph["a-c"]] = 1e-3 * filters[graph["a-c"]]
    weak = find_weak(graph, filters, weight)
    assert any(re.fullmatch(r"edge a-c has \d\.\de-0[34] of the mean norm of the filters", words) for words in weak)
    assert any(words.startswith("path s-a a-c c-t has") for words in weak)
    assert not any("b-c" in words for words in weak)


@pytest.mark.parametrize(("share", "found"), [(0.011, False), (0.009, True)])
def test_a_filter_is_weak_below_one_per_cent_of_the_mean(share, found):
    graph = module("st st st", 1)
    filters = {e: orthogonal(4, 4, torch.Generator())[:, :, None, None] for e in graph.edges}
    filters[graph["s-t"]] = filters[graph["s-t"]] * (2 * share / (3 - share))  # `share` of the mean of the three
    weak = find_weak(graph, filters, 1e-9 * module_filter(graph, filters, 4, 4))
    assert bool(weak) == found


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_missing_rank_is_counted(rank):
    graph = module("sa at", 1)
    filters = random_filters(graph, 3, 3)
    filters[graph["a-t"]] = (normal(3, rank, seed=5) @ normal(rank, 3, seed=6))[:, :, None, None]
    weak = find_weak(graph, filters, module_filter(graph, filters, 3, 3))
    assert weak == (() if rank == 3 else (f"edge a-t has rank {rank} of 3 across its channels",))


def test_a_path_whose_filters_do_not_meet_is_found_though_each_is_strong():
    graph = module("sa at st", 1, {"a": 4})
    filters = random_filters(graph, 2, 2)
    basis = orthogonal(4, 4, torch.Generator())
    filters[graph["s-a"]] = basis[:, :2, None, None].contiguous()
    filters[graph["a-t"]] = basis[:, 2:].T[:, :, None, None].contiguous()
    weak = find_weak(graph, filters, module_filter(graph, filters, 2, 2))
    assert len(weak) == 1
    assert weak[0].startswith("path s-a a-t has")
    assert weak[0].endswith("of the norm of the whole")


@pytest.mark.parametrize("graph", [module(BRIDGE), module("sa:1x3 at st:5x1 st=0.5")], ids=str)
def test_norms_of_paths_are_estimated_by_probes_where_composing_is_dear(monkeypatch, graph):
    filters, weight = random_filters(graph, 8, 8, seed=50), normal(8, 8, 1, 1)
    composed = path_norms(graph, filters, weight)
    assert list(composed) == list(graph.paths())
    monkeypatch.setattr(LIVENESS, "COMPOSE_MACS", 0)
    probed = path_norms(graph, filters, weight)
    assert list(probed) == list(composed)
    for path, norm in composed.items():
        assert 0.5 * norm < probed[path] < 2 * norm


def test_very_many_paths_are_not_walked():
    names = "sabcdefgt"
    graph = module([f"{u}{v}" for u, v in pairwise(names) for _ in range(3)], 1)
    assert graph.count_paths() > MAX_PATHS
    filters = {edge: normal(1, 1, 1, 1).abs() for edge in graph.edges}
    assert find_weak(graph, filters, 1e9 * normal(1, 1, 1, 1)) == ()


def test_over_a_filter_of_zeros_no_path_is_weak():
    graph = module("sa at", 1)
    assert find_weak(graph, random_filters(graph, 2, 2), torch.zeros(2, 2, 1, 1, dtype=torch.float64)) == ()
