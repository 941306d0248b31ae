import importlib

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from morphnet.graph import SINK, SOURCE, Edge, ModuleGraph
from morphnet.solvers import add, compose, embed_even, evaluate_module, module_filter, path_sum, residual_of, solve
from morphnet.solvers.module_filter import routes_from_source, routes_to_sink
from tests.modules import BRIDGE, POSITIVE, module, normal, problems, random_filters

# The package has a function of this name, which hides the module.
MODULE_FILTER = importlib.import_module("morphnet.solvers.module_filter")


def _relative(first, second):
    return float(torch.linalg.norm(first - second) / torch.linalg.norm(second))


@settings(deadline=None, max_examples=60)
@given(problems())
def test_eq_5_over_paths_is_the_filter_that_the_graph_computes_vertex_by_vertex(problem):
    graph, filters = problem.graph, random_filters(problem.graph, *problem.channels)
    whole = module_filter(graph, filters, *problem.channels)
    assert whole.shape == (*reversed(problem.channels), *graph.kernel)
    assert _relative(path_sum(graph, filters, *problem.channels), whole) < 1e-13
    x = normal(2, problem.channels[0], graph.kernel[0] + 2, graph.kernel[1] + 1, seed=1)
    y = evaluate_module(graph, filters, x)
    assert y.shape == (2, problem.channels[1], 3, 2)
    assert _relative(y, F.conv2d(x, whole)) < 1e-13


@settings(deadline=None, max_examples=40)
@given(problems())
def test_taps_outside_the_support_of_the_graph_are_zero(problem):
    graph = problem.graph
    whole = module_filter(graph, random_filters(graph, *problem.channels), *problem.channels)
    rows, columns = graph.radius
    taps = {(y - rows, x - columns) for y, x in torch.nonzero(whole.abs().amax((0, 1)) > 1e-12).tolist()}
    assert taps == graph.support


@settings(deadline=None, max_examples=40)
@given(problems(), st.data())
def test_routes_to_and_from_every_vertex_meet(problem, data):
    """What goes through a vertex is composed of what leads there and what leads on."""
    graph, (c_i, c_j) = problem.graph, problem.channels
    filters, widths = random_filters(graph, c_i, c_j), graph.widths(c_i, c_j)
    there, onwards = routes_from_source(graph, filters, widths), routes_to_sink(graph, filters, widths)
    assert set(there) == set(graph.vertices) - {SOURCE}
    assert set(onwards) == set(graph.vertices) - {SINK}
    assert _relative(there[SINK], onwards[SOURCE]) < 1e-13
    if not graph.inner:
        return
    vertex = data.draw(st.sampled_from(graph.inner))
    assert _relative(routes_from_source(graph, filters, widths, vertex)[vertex], there[vertex]) == 0
    assert _relative(routes_to_sink(graph, filters, widths, vertex)[vertex], onwards[vertex]) == 0
    around = [e for e in graph.edges if vertex in (e.source, e.target)]
    through = [path for path in graph.paths() if any(e in around for e in path)]
    total = None
    for path in through:
        route = MODULE_FILTER.filter_of(path[0], filters, c_i)
        for edge in path[1:]:
            route = compose(MODULE_FILTER.filter_of(edge, filters, widths[edge.source]), route)
        total = route if total is None else add(total, route)
    met = compose(onwards[vertex], there[vertex])
    assert float(torch.linalg.norm(add(met, -total))) < 1e-12 * float(torch.linalg.norm(total))


@settings(deadline=None, max_examples=30)
@given(problems(feasible=True, scales=POSITIVE), st.integers(0, 1), st.sampled_from([1e-3, 1e-2, 1.0]))
def test_the_probe_agrees_with_the_composed_residual(problem, at, size):
    solution = solve(problem.graph, problem.weight)
    weight = embed_even(problem.weight)
    spoilt = weight.clone()
    spoilt[-1, 0, at * (weight.shape[2] - 1), -1] += size * torch.linalg.norm(weight)
    composed = [residual_of(problem.graph, solution.filters, w) for w in (weight, spoilt)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MODULE_FILTER, "COMPOSE_MACS", 0)
        probed = [residual_of(problem.graph, solution.filters, w) for w in (weight, spoilt)]
    assert max(composed[0], probed[0]) < 1e-11
    assert min(composed[1], probed[1]) > 0.02 * size
    assert 0.05 < probed[1] / composed[1] < 10


def test_the_probe_estimates_the_residual(monkeypatch):
    graph = module(BRIDGE)
    filters, weight = random_filters(graph, 4, 4), normal(4, 4, 3, 3, seed=9)
    composed = residual_of(graph, filters, weight)
    monkeypatch.setattr(MODULE_FILTER, "COMPOSE_MACS", 0)
    assert residual_of(graph, filters, weight) == pytest.approx(composed, rel=0.2)


@pytest.mark.parametrize("kernel", [(3, 3), (1, 5), (7, 1)])
@pytest.mark.parametrize("compose_macs", [4e9, 0])
def test_a_parent_kernel_beyond_the_modules_counts_as_residual(monkeypatch, kernel, compose_macs):
    monkeypatch.setattr(MODULE_FILTER, "COMPOSE_MACS", compose_macs)
    graph = module("st", kernel=3)
    weight = normal(2, 2, *kernel)
    filters = {graph["s-t"]: torch.zeros(2, 2, 3, 3, dtype=torch.float64)}
    rows, columns = (max(0, (k - 3) // 2) for k in kernel)
    middle = weight[:, :, rows : kernel[0] - rows, columns : kernel[1] - columns]
    filters[graph["s-t"]] = add(filters[graph["s-t"]], middle)
    lost = float(torch.linalg.norm(weight) ** 2 - torch.linalg.norm(middle) ** 2) ** 0.5
    expected = lost / float(torch.linalg.norm(weight))
    assert residual_of(graph, filters, weight) == pytest.approx(expected, rel=0.35, abs=1e-12)


def test_over_a_filter_of_zeros_the_residual_is_absolute():
    graph = module("st", kernel=1)
    filters = {graph["s-t"]: 0.5 * torch.eye(3, dtype=torch.float64)[:, :, None, None]}
    zeros = torch.zeros(3, 3, 1, 1, dtype=torch.float64)
    assert residual_of(graph, filters, zeros) == pytest.approx(0.75**0.5)
    assert residual_of(graph, {graph["s-t"]: zeros}, zeros) == 0


def test_identities_alone_are_a_multiple_of_the_identity():
    graph = ModuleGraph(
        [Edge("s", "t", identity=True, scale=0.5), Edge("s", "a", identity=True), Edge("a", "t", identity=True)]
    )
    assert_close(module_filter(graph, {}, 2, 2)[:, :, 0, 0], 1.5 * torch.eye(2, dtype=torch.float64))
