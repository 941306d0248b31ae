import re

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from morphnet.graph import Edge, GraphError, ModuleGraph
from morphnet.solvers import (
    TOLERANCE,
    Filters,
    check_feasible,
    compose,
    embed_even,
    module_filter,
    residual_of,
    solve,
)
from tests.modules import BRIDGE, POSITIVE, module, normal, problems

A, D = module("sa at"), module(BRIDGE)


def _norms(solution):
    return [float(torch.linalg.norm(weight)) for weight in solution.filters.values()]


def _identity(channels, scale=1.0):
    return scale * torch.eye(channels, dtype=torch.float64)[:, :, None, None]


# A path of three or more filters that are 1 wide may be weak by bad luck, once in some thousand modules.
@settings(deadline=None, max_examples=150, derandomize=True)
@given(problems(feasible=True, scales=POSITIVE), st.sampled_from(["dense", "sparse"]))
def test_where_the_graph_allows_it_the_solution_is_exact_well_conditioned_and_alive(problem, init):
    weight = embed_even(problem.weight)
    assert check_feasible(problem.graph, weight.shape).is_exact
    solution = solve(problem.graph, problem.weight, init=init)
    assert solution.converged
    assert solution.residual <= 1e-12
    assert solution.outcome.startswith("exact")
    assert solution.condition <= 3
    assert solution.weak == ()
    assert solution.residual == residual_of(problem.graph, solution.filters, weight)
    # In float32 the errors of the filters are not enlarged beyond what the delivered network may show.
    rounded = {edge: weight_.float().double() for edge, weight_ in solution.filters.items()}
    assert residual_of(problem.graph, rounded, weight) < 1e-5


@settings(deadline=None, max_examples=60)
@given(problems())
def test_on_any_module_the_figures_are_those_of_the_filters(problem):
    graph = problem.graph
    solution = solve(graph, problem.weight)
    widths = graph.widths(*problem.channels)
    assert set(solution.filters) == set(graph.convolutions)
    for edge, weight in solution.filters.items():
        assert weight.shape == (widths[edge.target], widths[edge.source], *edge.kernel)
        assert weight.dtype == torch.float64
        assert torch.isfinite(weight).all()
    whole = module_filter(graph, solution.filters, *problem.channels)
    kernel = [max(k, p) for k, p in zip(graph.kernel, embed_even(problem.weight).shape[2:], strict=True)]
    difference = _grown(whole, kernel) - _grown(embed_even(problem.weight), kernel)
    size = float(torch.linalg.norm(problem.weight))
    assert solution.residual == pytest.approx(float(torch.linalg.norm(difference)) / size, rel=1e-6, abs=1e-12)
    assert solution.converged == (solution.residual <= TOLERANCE)
    numbers = torch.cat([weight.flatten() for weight in solution.filters.values()])
    assert solution.zero_share == pytest.approx(float((numbers == 0).double().mean()))


def _grown(weight, kernel):
    rows, columns = [(large - small) // 2 for large, small in zip(kernel, weight.shape[2:], strict=True)]
    return F.pad(weight, (columns, columns, rows, rows))


@settings(deadline=None, max_examples=40)
@given(problems(feasible=True, scales=POSITIVE))
def test_dense_has_at_most_the_zeros_of_sparse(problem):
    dense, sparse = (solve(problem.graph, problem.weight, init=init) for init in ("dense", "sparse"))
    assert dense.zero_share <= sparse.zero_share


def test_on_module_d_dense_filters_are_dense():
    weight = normal(16, 16, 3, 3)
    dense, sparse = solve(D, weight), solve(D, weight, init="sparse")
    assert dense.residual <= 1e-12
    assert dense.zero_share < 0.13
    assert 0.7 < sparse.zero_share < 0.8
    assert dense.iterations == sparse.iterations == 1
    assert dense.weak == sparse.weak == ()


@pytest.mark.parametrize("channels", [2, 3, 8])
@pytest.mark.parametrize("pairs", ["sa at", "sa ab bt", "sa ab bc ct"])
@pytest.mark.parametrize("size", [1e-3, 1.0, 50.0])
def test_filters_of_a_path_have_like_norms(channels, pairs, size):
    solution = solve(module(pairs), size * normal(channels, channels, 3, 3))
    assert solution.converged
    assert max(_norms(solution)) / min(_norms(solution)) < 1.01


@pytest.mark.parametrize("graph", [A, D, module("sa at sb bt st")])
@pytest.mark.parametrize("size", [1e-30, 1e-12, 1e12, 1e30])
def test_tiny_and_huge_filters_are_solved_exactly(graph, size):
    solution = solve(graph, size * normal(4, 4, 3, 3))
    assert solution.converged
    assert solution.residual <= 1e-12


def test_a_filter_of_zeros_is_solved_by_filters_that_are_not():
    for graph in (D, module("sa at sb bt"), module("sa at st=1")):
        solution = solve(graph, torch.zeros(4, 4, 3, 3))
        assert solution.converged
        assert solution.weak == ()
        assert min(_norms(solution)) > 0.1


def test_what_cannot_be_alive_is_named():
    zeros, cancelled = solve(A, torch.zeros(4, 4, 3, 3)), solve(module("sa at st=1"), _identity(4))
    for solution in (zeros, cancelled):  # one path at equal widths that has to compute zero
        assert solution.residual == 0
        assert "edge a-t has 0.0e+00 of the mean norm of the filters" in solution.weak


@pytest.mark.parametrize("kernel", [(2, 2), (4, 4), (1, 2), (4, 3)])
def test_even_kernels_are_embedded_in_the_next_odd_one(kernel):
    weight = normal(3, 2, *kernel)
    odd = embed_even(weight)
    assert odd.shape[2:] == tuple(k + 1 - k % 2 for k in kernel)
    assert_close(odd[:, :, : kernel[0], : kernel[1]], weight)
    assert float(odd.square().sum()) == pytest.approx(float(weight.square().sum()))
    solution = solve(module("sa:5x5 at"), weight)
    assert solution.residual <= 1e-12
    whole = compose(solution.filters["a-t"], solution.filters["s-a"])
    assert_close(whole, _grown(odd, whole.shape[2:]))


@pytest.mark.parametrize(
    ("graph", "scale"),
    [
        (A, 1.0),
        (A, 0.5),
        (module("sa at sb bt"), 1.0),
        (module("sa at sb bt"), -3.0),
        (module("sa at st=0.5"), 1.0),
        (module("sa:1x3 at:3x1 sb:5x3 bc:1x3 ct"), 1.0),
    ],
    ids=str,
)
@pytest.mark.parametrize("channels", [2, 4])
def test_a_multiple_of_the_identity_fills_every_tap(graph, scale, channels):
    solution = solve(graph, _identity(channels, scale))
    assert solution.residual <= 1e-12
    assert solution.weak == ()
    if all(e.kernel == (3, 3) for e in graph.convolutions):  # else a pair shares the taps that both have
        assert solution.zero_share == 0
        assert solution.condition == 1


@pytest.mark.parametrize("channels", [2, 3])
def test_eq_3_holds_where_no_edge_can_take_the_whole_filter(channels):
    graph, weight = module("sa at", channels={"a": "3x"}), normal(channels, channels, 5, 5)
    feasible = check_feasible(graph, weight.shape)
    assert not feasible.is_exact
    assert feasible.meets_eq3
    solution = solve(graph, weight)
    assert solution.residual <= 1e-10
    assert solution.zero_share == 0
    assert solution.weak == ()
    assert not solve(module("sa at", channels={"a": "2x"}), weight).converged


@pytest.mark.parametrize("pairs", ["sa:1x1 sb:1x1 at bt", "sa sb at:1x1 bt:1x1", "sa:1x1 sb:1x1 at:1x1 bt:1x1"])
def test_two_routes_of_half_the_width_are_solved_together(pairs):
    kernel = 1 if pairs.count(":") == 4 else 3
    weight = normal(4, 4, kernel, kernel)
    graph = module(pairs, channels={"a": 2, "b": 2})
    assert not check_feasible(graph, weight.shape).is_exact
    solution = solve(graph, weight)
    assert solution.residual <= 1e-10
    assert not solve(module(pairs, channels={"a": 2, "b": 1}), weight).converged


@pytest.mark.parametrize(
    ("graph", "shape", "advice"),
    [
        (module("sa at", channels={"a": 2}), (4, 4, 3, 3), "give vertex a at least 4 channels (it has 2)"),
        (module("sa at", channels={"a": 3}), (3, 4, 3, 3), None),
        (module("sa at", 1), (3, 3, 3, 3), "give edge s-a a kernel of at least 3x3"),
        (module("sa:3x1 at:1x3"), (3, 3, 3, 3), "a kernel of at least 3x3"),
        (module("sa ab bt", 1, {"a": 1, "b": 2}), (3, 4, 3, 2), " and "),
        (module(BRIDGE, 1), (4, 4, 1, 5), "a kernel of at least 1x5"),
        (module("sa at", 3, {"a": 1}), (4, 2, 2, 4), "3x5"),
    ],
    ids=str,
)
def test_what_the_outcome_says_would_make_it_exact_does(graph, shape, advice):
    weight = normal(*shape)
    solution = solve(graph, weight)
    if advice is None:  # the first edge takes it: after it three channels are enough
        assert solution.converged
        return
    assert not solution.converged
    assert solution.residual > 1e-3
    assert advice in solution.outcome
    changed = _follow(graph, solution.outcome)
    assert solve(changed, weight).residual <= 1e-12


def _follow(graph, outcome):
    """``graph`` with the changes that an outcome asks for."""
    kernels = {e.name: e.kernel for e in graph.edges}
    channels = dict(graph.channels)
    for name, height, width in re.findall(r"give edge (\S+) a kernel of at least (\d+)x(\d+)", outcome):
        kernels[name] = (int(height), int(width))
    for vertex, width in re.findall(r"give vertex (\S+) at least (\d+) channels", outcome):
        channels[vertex] = int(width)
    return ModuleGraph([Edge(e.source, e.target, kernels[e.name]) for e in graph.edges], channels)


@settings(deadline=None, max_examples=30)
@given(problems())
def test_following_the_advice_is_enough_on_any_module(problem):
    weight = embed_even(problem.weight)
    if any(e.identity for e in problem.graph.edges):  # whose ends may no longer be of one width
        return
    advice = check_feasible(problem.graph, weight.shape).advice
    changed = _follow(problem.graph, advice) if advice else problem.graph
    assert check_feasible(changed, weight.shape).is_exact
    assert solve(changed, weight).residual <= 1e-12


def test_identities_that_cancel_are_an_outcome_not_an_error():
    graph = module("sa=0.5 sa=-0.25 sa=-0.25 at")
    for method in ("auto", "als"):
        solution = solve(graph, normal(3, 3, 3, 3), method)
        assert not solution.converged
        assert solution.residual == pytest.approx(1)
        assert all(torch.isfinite(weight).all() for weight in solution.filters.values())
    assert "identity edges cancel each other" in solve(graph, normal(3, 3, 3, 3)).outcome


def test_identities_alone_leave_nothing_to_solve():
    graph = module("sa=0.5 at=1 st=0.25")
    right, wrong = solve(graph, _identity(3, 0.75)), solve(graph, _identity(3))
    assert right.converged
    assert right.filters == {}
    assert not wrong.converged
    assert wrong.residual == pytest.approx(0.25)
    assert "only identities" in wrong.outcome
    assert "differs from the filter by" in wrong.outcome


@pytest.mark.parametrize("method", ["auto", "als"])
@pytest.mark.parametrize("graph", [module("sa at:1x1"), module("st st")], ids=str)
def test_the_seed_decides_the_filters(graph, method):
    def filters(seed):
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return list(solve(graph, normal(4, 4, 3, 3), method, generator).filters.values())

    assert all(torch.equal(a, b) for a, b in zip(filters(5), filters(5), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(filters(5), filters(6), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(filters(None), filters(0), strict=True))


def test_a_generator_is_advanced():
    generator = torch.Generator().manual_seed(0)
    first, second = (solve(D, normal(4, 4, 3, 3), generator=generator) for _ in range(2))
    assert not torch.equal(first.filters["s-a"], second.filters["s-a"])


def test_filters_are_found_by_edge_and_by_name():
    graph = module("st st sa at")
    filters = solve(graph, normal(2, 3, 3, 3)).filters
    assert isinstance(filters, Filters)
    assert list(filters) == list(graph.convolutions)
    for edge in graph.edges:
        assert filters[edge] is filters[edge.name]
    assert filters["s-t.1"] is filters[graph.edges[1]]
    with pytest.raises(KeyError, match=r"no filter for s-b; expected one of s-t, s-t\.1, s-a, a-t"):
        filters["s-b"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_filters_are_float64_whatever_the_weight_is(dtype):
    weight = normal(3, 3, 3, 3).to(dtype)
    solution = solve(A, weight)
    assert {w.dtype for w in solution.filters.values()} == {torch.float64}
    assert solution.residual <= 1e-12
    whole = compose(*reversed(list(solution.filters.values())))
    assert_close(whole, _grown(weight.double(), (5, 5)))


def test_the_weight_is_not_changed_and_needs_no_gradient():
    weight = torch.nn.Parameter(normal(3, 3, 3, 3))
    before = weight.detach().clone()
    solution = solve(D, weight)
    assert torch.equal(weight, before)
    assert not any(w.requires_grad for w in solution.filters.values())


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"graph": [Edge("s", "t")]}, TypeError, "a ModuleGraph is needed; got list"),
        ({"weight": torch.zeros(3, 3, 3)}, ValueError, r"got \(3, 3, 3\) of torch.float32"),
        ({"weight": torch.zeros(0, 3, 1, 1)}, ValueError, r"got \(0, 3, 1, 1\)"),
        ({"weight": torch.zeros(3, 3, 1, 1, dtype=torch.long)}, ValueError, "torch.int64"),
        ({"weight": torch.zeros(3, 3, 1, 1, dtype=torch.cfloat)}, ValueError, "torch.complex64"),
        ({"weight": [[1.0]]}, ValueError, "got list"),
        ({"weight": torch.full((3, 3, 1, 1), float("nan"))}, ValueError, "infinities or NaN"),
        ({"weight": torch.full((3, 3, 1, 1), float("inf"))}, ValueError, "infinities or NaN"),
        ({"method": "newton"}, ValueError, "method='newton'; expected auto or als"),
        ({"init": "fancy"}, ValueError, "init='fancy'; expected dense or sparse"),
        ({"graph": module("sa=1 at", channels={"a": 5})}, GraphError, "joins 3 and 5 channels"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused(change, error, match):
    with pytest.raises(error, match=match):
        solve(**{"graph": A, "weight": torch.zeros(3, 3, 3, 3), **change})


def test_filters_are_not_blown_up_where_a_route_happens_to_pass_next_to_nothing_on():
    """With the default seed the two random filters into ``a`` meet a route of 1e-4: 30 times the norm, cancelling."""
    graph, weight = module("sa sb:1x1 ab:3x5 sa:3x1 bt:1x1", channels={"a": 4, "b": 4}), normal(1, 2, 1, 1)
    solution = solve(graph, weight)
    rounded = {edge: weight_.float().double() for edge, weight_ in solution.filters.items()}
    assert solution.residual <= 1e-13
    assert residual_of(graph, rounded, weight) < 1e-5


def test_a_path_scaled_up_against_identities_leaves_the_others_alive():
    graph = module("ab=0.5 ab:3x3 sa:3x5 bt=2 at:3x1 bt=1")
    solution = solve(graph, normal(3, 3, 1, 4))
    assert solution.condition <= 3
    assert solution.weak == ()
