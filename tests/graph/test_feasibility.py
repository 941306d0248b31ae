from itertools import pairwise

import pytest
from hypothesis import given, settings

from morphnet.graph import SINK, SOURCE, GraphError, check_feasible
from morphnet.solvers import embed_even
from tests.modules import BRIDGE, module, problems


@settings(deadline=None, max_examples=80)
@given(problems(feasible=True))
def test_a_wide_path_with_a_large_enough_edge_is_found(problem):
    found = check_feasible(problem.graph, embed_even(problem.weight).shape)
    assert found.is_exact
    assert found.advice == ""


@settings(deadline=None, max_examples=80)
@given(problems())
def test_every_anchor_meets_the_condition(problem):
    graph, weight = problem.graph, embed_even(problem.weight)
    c_j, c_i, *kernel = weight.shape
    widths = graph.widths(c_i, c_j)
    found = check_feasible(graph, weight.shape)
    assert bool(found.advice) != found.is_exact
    for anchor in found.anchors:
        path = (*anchor.before, anchor.edge, *anchor.after)
        assert path[0].source == SOURCE
        assert path[-1].target == SINK
        assert all(first.target == second.source for first, second in pairwise(path))
        assert all(widths[edge.target] >= c_i for edge in anchor.before)
        assert all(widths[edge.source] >= c_j for edge in anchor.after)
        assert all(k >= p for k, p in zip(anchor.edge.kernel, kernel, strict=True))
        assert not anchor.edge.identity
    # By brute force over the paths of Eq. (5).
    expected = {
        edge
        for path in graph.paths()
        for i, edge in enumerate(path)
        if not edge.identity
        and all(k >= p for k, p in zip(edge.kernel, kernel, strict=True))
        and all(widths[e.target] >= c_i for e in path[:i])
        and all(widths[e.source] >= c_j for e in path[i + 1 :])
    }
    assert {anchor.edge for anchor in found.anchors} == expected


@pytest.mark.parametrize(
    ("pairs", "channels", "shape", "meets"),
    [
        ("sa at:1x1", None, (4, 4, 3, 3), True),  # 3c1: 144 numbers for 144 equations
        ("sa at", None, (4, 4, 1, 1), False),  # 3c3: 144 for 400
        ("sa at", {"a": "3x"}, (3, 3, 5, 5), True),
        ("sa at", {"a": "2x"}, (3, 3, 5, 5), False),
        ("sa:1x1 at:1x1", None, (4, 4, 1, 1), True),
        ("sa:1x1 at:1x1", None, (4, 4, 3, 3), False),
    ],
)
def test_eq_3_counts_numbers_and_equations(pairs, channels, shape, meets):
    found = check_feasible(module(pairs, channels=channels), shape)
    assert found.meets_eq3 == meets
    assert "Eq. (3)" in str(found)


def test_the_figures_of_eq_3_for_3c3():
    found = check_feasible(module("sa at"), (16, 16, 1, 1))
    assert (found.largest_filter, found.equations) == (2304, 6400)
    assert "2,304" in str(found)
    assert "6,400" in str(found)


def test_module_d_has_an_anchor_on_every_edge():
    found = check_feasible(module(BRIDGE), (4, 4, 3, 3))
    assert sorted(anchor.edge.name for anchor in found.anchors) == ["a-c", "a-t", "b-c", "b-t", "c-t", "s-a", "s-b"]
    assert str(found.anchors[0]) == "[s-a] a-t"
    assert "s-a, s-b, a-c, b-c, a-t, c-t, b-t can take the whole filter" in str(found)


def test_an_identity_is_taken_rather_than_a_convolution_beside_it():
    (anchor, *_) = check_feasible(module("sa:1x1 sa=1 at"), (3, 3, 3, 3)).anchors
    assert [edge.identity for edge in anchor.before] == [True]


@pytest.mark.parametrize(
    ("pairs", "kernel", "channels", "shape", "advice"),
    [
        ("sa at", 3, {"a": 2}, (4, 4, 3, 3), "give vertex a at least 4 channels (it has 2)"),
        ("sa at", 3, {"a": 2}, (3, 4, 3, 3), "give vertex a at least 3 channels (it has 2)"),
        ("sa at", 3, {"a": 2}, (4, 3, 1, 1), "give vertex a at least 4 channels (it has 2)"),
        ("sa at", 1, None, (3, 3, 3, 3), "give edge s-a a kernel of at least 3x3"),
        ("sa:1x5 at:1x1", 3, None, (3, 3, 3, 3), "give edge s-a a kernel of at least 3x5"),
        ("sa at", 1, None, (3, 3, 2, 4), "give edge s-a a kernel of at least 3x5"),
        ("sa:1x1 ab bt:1x1", 3, {"a": 1, "b": 4}, (4, 4, 3, 3), "give vertex a at least 4 channels (it has 1)"),
        ("sa at sb bt", 3, {"a": 1, "b": 1}, (2, 2, 5, 5), None),
        ("sa=1 at=1", 3, None, (2, 2, 1, 1), "the module has no convolution; add one"),
    ],
)
def test_the_advice_is_the_smallest_change(pairs, kernel, channels, shape, advice):
    found = check_feasible(module(pairs, kernel, channels), shape)
    assert not found.is_exact
    if advice is None:
        advice = "give edge s-a a kernel of at least 5x5 and give vertex a at least 2 channels (it has 1)"
    assert found.advice == advice
    assert advice in str(found)


def test_widths_that_do_not_fit_an_identity_are_an_error():
    with pytest.raises(GraphError, match="identity edge s-a joins 3 and 5 channels"):
        check_feasible(module("sa=1 at", channels={"a": 5}), (3, 3, 1, 1))
