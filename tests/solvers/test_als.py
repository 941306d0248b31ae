import importlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from morphnet.solvers import (
    add,
    adjoint,
    compose,
    embed_even,
    module_filter,
    solve,
    solve_irreducible,
    solve_type2,
    zero_pad,
)
from morphnet.solvers.deconvolution import deconvolve, solve_outer, tap_mask
from tests.modules import BRIDGE, POSITIVE, module, normal, problems, random_filters

DECONVOLUTION = importlib.import_module("morphnet.solvers.deconvolution")
KERNELS = st.sampled_from([(1, 1), (3, 3), (1, 3), (3, 1)])
CROSS = frozenset({(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)})


def _identity(channels):
    return torch.eye(channels, dtype=torch.float64)[:, :, None, None]


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("pairs", "channels", "kernel"),
    [
        ("sa:1x1 at:1x1", None, 1),
        ("sa at:1x1", None, 1),
        ("sa at:1x1", None, 3),
        ("sa:1x1 at", None, 3),
        ("sa at", {"a": "3x"}, 3),
        ("st st", None, 3),
        ("st:1x3 st:3x1 st", None, 3),
        ("sa:1x1 at st", None, 3),
        ("sa:1x1 at st=0.5", None, 3),
        ("sa=0.5 at", None, 3),
        ("sa at=-2", None, 3),
        ("sa=2 at:1x1 st", None, 3),
        ("sa sb:1x1 bt:1x1 at:1x1 st:1x3", None, 3),
    ],
)
def test_algorithm_2_is_exact_where_eq_3_holds(pairs, channels, kernel):
    weight = normal(4, 4, kernel, kernel)
    for seed in range(3):
        solution = solve(module(pairs, 3, channels), weight, "als", _generator(seed))
        assert solution.converged, solution.outcome
        assert solution.residual <= 1e-10
        assert solution.iterations <= 6
        assert solution.outcome.startswith("als: residual")
        assert solution.method == "als"


def test_algorithm_2_is_exact_on_an_irreducible_module_of_1x1_kernels():
    solution = solve(module(BRIDGE, 1), normal(3, 3, 1, 1), "als")
    assert solution.residual <= 1e-10
    assert solution.iterations == 1


def test_algorithm_2_fails_on_half_an_identity_and_says_what_does_not():
    graph = module("sa at st=0.5")
    solution = solve(graph, _identity(4), "als", max_sweeps=60)
    assert not solution.converged
    assert solution.residual > 1e-4
    assert "sweeps, not converged; method=auto is exact here" in solution.outcome
    assert solve(graph, _identity(4)).residual <= 1e-12


def test_algorithm_2_fails_on_module_d_with_3x3_kernels():
    graph, weight = module(BRIDGE), normal(2, 2, 3, 3)
    solution = solve(graph, weight, "als", max_sweeps=15)
    assert not solution.converged
    assert 1e-4 < solution.residual < 0.5
    assert solution.iterations == 15
    assert "after 15 sweeps, not converged; method=auto is exact here" in solution.outcome
    assert solve(graph, weight).residual <= 1e-12


def test_an_impossible_problem_stalls_and_says_what_to_change():
    solution = solve(module("sa at", 1), normal(3, 3, 3, 3), "als")
    assert not solution.converged
    assert "stalled; give edge s-a a kernel of at least 3x3" in solution.outcome
    assert solution.iterations < 100


def test_sweeps_lower_the_residual_and_are_told():
    graph, weight, seen = module(BRIDGE), normal(2, 2, 3, 3), []

    def on_sweep(module_, filters):
        whole = module_filter(module_, filters, 2, 2)
        seen.append(float(torch.linalg.norm(add(whole, -weight)) / torch.linalg.norm(weight)))

    filters, sweeps = solve_irreducible(graph, weight, graph.widths(2, 2), _generator(), 5, on_sweep=on_sweep)
    assert sweeps == len(seen) == 5
    assert seen == sorted(seen, reverse=True)
    assert seen[-1] < 0.5 * seen[0]
    whole = module_filter(graph, filters, 2, 2)
    assert float(torch.linalg.norm(add(whole, -weight)) / torch.linalg.norm(weight)) == pytest.approx(seen[-1])


def test_a_reduced_edge_keeps_to_its_support():
    """3x1 beside 1x3 reduces to a cross: what is solved for it must split into the two."""
    graph = module("sa:1x1 at:3x1 at:1x3")
    target = module_filter(graph, random_filters(graph, 3, 3), 3, 3)
    assert target[:, :, 0, 0].abs().max() == 0
    solution = solve(graph, target, "als")
    assert solution.residual <= 1e-10
    assert solution.filters["a-t"].shape[2:] == (3, 1)


@settings(deadline=None, max_examples=15)
@given(problems(feasible=True, scales=POSITIVE, most_inner=2), st.integers(1, 3))
def test_the_residual_reported_is_that_of_the_whole_module(problem, max_sweeps):
    solution = solve(problem.graph, problem.weight, "als", max_sweeps=max_sweeps)
    assert solution.converged == (solution.residual <= 1e-10)
    weight = embed_even(problem.weight)
    whole = module_filter(problem.graph, solution.filters, *problem.channels)
    residual = float(torch.linalg.norm(add(whole, -weight)) / torch.linalg.norm(weight))
    assert solution.residual == pytest.approx(residual, rel=1e-6, abs=1e-12)


MASKS = [torch.ones(kernel) > 0 for kernel in ((3, 3), (1, 3), (3, 1), (5, 3), (1, 1))] + [tap_mask((3, 3), CROSS)]


@pytest.mark.parametrize("first", MASKS, ids=lambda mask: f"{int(mask.sum())}of{tuple(mask.shape)}")
@pytest.mark.parametrize("second", MASKS, ids=lambda mask: f"{int(mask.sum())}of{tuple(mask.shape)}")
def test_two_parallel_filters_add_up_wherever_either_has_a_tap(first, second):
    masks = (first, second)
    target = normal(3, 2, 3, 3)
    found = solve_type2(target, *masks, _generator())
    for weight, mask in zip(found, masks, strict=True):
        assert weight.shape == (3, 2, *mask.shape)
        assert weight[:, :, ~mask].abs().sum() == 0
    total = add(*found)
    held = add(*(mask[None, None].double() for mask in masks)) > 0
    padded = add(target, torch.zeros_like(total))
    assert_close(add(total, torch.zeros_like(padded)), padded * add(held.double(), torch.zeros_like(padded[:1, :1])))


def test_a_shared_tap_is_split_in_two_filters_of_like_size():
    mask = torch.ones(3, 3, dtype=torch.bool)
    first, second = solve_type2(normal(8, 8, 3, 3, seed=1), mask, mask, _generator())
    assert 0.8 < float(torch.linalg.norm(first) / torch.linalg.norm(second)) < 1.25
    assert not torch.allclose(first, second)


def _problem(c_tail=3, c_head=2, kernel=(3, 3), around=(3, 3), taps=None):
    """A filter between two others, and the filter of the three."""
    mask = torch.ones(kernel, dtype=torch.bool) if taps is None else tap_mask(kernel, taps)
    before, after = normal(c_tail, 4, *around, seed=1), normal(4, c_head, *around, seed=2)
    middle = normal(c_head, c_tail, *kernel, seed=3) * mask
    return compose(after, compose(middle, before)), after, before, mask, middle


@pytest.mark.parametrize("taps", [None, CROSS])
@pytest.mark.parametrize("around", [(1, 1), (1, 3), (3, 3)])
def test_every_branch_of_the_deconvolution_finds_the_filter_that_was_there(monkeypatch, around, taps):
    target, after, before, mask, middle = _problem(around=around, taps=taps)
    shape = tuple(middle.shape[:2])
    monkeypatch.setattr(DECONVOLUTION, "DENSE_UNKNOWNS", 2500)
    usual = deconvolve(target, after, before, mask, shape)
    dense = DECONVOLUTION._dense(target, after, before, mask, shape)
    monkeypatch.setattr(DECONVOLUTION, "DENSE_UNKNOWNS", 0)
    iterated = deconvolve(target, after, before, mask, shape)
    for found in (usual, dense, iterated):
        assert found.shape == middle.shape
        assert_close(found, middle, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("c_head", [2, 6])
def test_the_branches_agree_on_the_nearest_filter_where_none_is_exact(monkeypatch, c_head):
    """Also of minimum norm: six channels before an end of four leave two unseen."""
    _, after, before, mask, middle = _problem(c_head=c_head, around=(1, 1))
    target, shape = normal(4, 4, 5, 5, seed=7), tuple(middle.shape[:2])
    by_taps = deconvolve(target, after, before, mask, shape)
    dense = DECONVOLUTION._dense(target, after, before, mask, shape)
    iterated = DECONVOLUTION._iterate(target, after, before, mask, shape)
    assert_close(by_taps, dense, rtol=1e-7, atol=1e-7)
    assert_close(by_taps, iterated, rtol=1e-6, atol=1e-6)


def test_an_inner_edge_is_iterated_only_where_it_is_large(monkeypatch):
    called = []
    monkeypatch.setattr(DECONVOLUTION, "_iterate", lambda *a: called.append("iterate"))
    monkeypatch.setattr(DECONVOLUTION, "_dense", lambda *a: called.append("dense"))
    target, after, before, mask, middle = _problem()
    for limit in (middle.numel(), middle.numel() - 1):
        monkeypatch.setattr(DECONVOLUTION, "DENSE_UNKNOWNS", limit)
        deconvolve(target, after, before, mask, tuple(middle.shape[:2]))
    assert called == ["dense", "iterate"]


@settings(deadline=None, max_examples=25)
@given(KERNELS, KERNELS, st.integers(1, 3), st.booleans())
def test_an_edge_at_an_end_takes_what_is_there_to_find(kernel, other, channels, at_sink):
    mask = torch.ones(kernel, dtype=torch.bool)
    near, far = normal(channels, 3, *kernel), normal(channels + 3, channels, *other, seed=1)
    if at_sink:
        before = adjoint(far)
        target = compose(adjoint(near), before)
        found = deconvolve(target, None, before, mask.flip(-1, -2), (3, channels))
        assert_close(compose(found, before), target, rtol=1e-9, atol=1e-9)
    else:
        target = compose(far, near)
        found = deconvolve(target, far, None, mask, (channels, 3))
        assert_close(found, near, rtol=1e-7, atol=1e-7)


def test_an_edge_at_the_source_keeps_to_its_own_taps():
    """The system is solved for the turned filter; a support that is not symmetric must be turned with it."""
    mask = tap_mask((3, 3), frozenset({(-1, 0), (-1, 1), (0, -1)}))
    near, far = normal(2, 3, 3, 3) * mask, normal(5, 2, 3, 3, seed=1)
    assert_close(deconvolve(compose(far, near), far, None, mask, (2, 3)), near, rtol=1e-8, atol=1e-8)


def test_a_lone_edge_takes_the_middle_of_the_filter():
    target = normal(2, 3, 5, 5)
    found = deconvolve(target, None, None, tap_mask((3, 3), CROSS), (2, 3))
    inside = target[:, :, 1:4, 1:4]
    assert_close(found[:, :, 1], inside[:, :, 1])
    assert_close(found[:, :, :, 1], inside[:, :, :, 1])
    assert found[:, :, 0, 0].abs().max() == 0
    assert_close(deconvolve(target, None, None, torch.ones(7, 7) > 0, (2, 3)), zero_pad(target, (7, 7)))


def test_edges_into_the_sink_are_solved_together():
    target = normal(3, 4, 3, 3)
    halves = [(normal(2, 4, 1, 1, seed=i), torch.ones(3, 3, dtype=torch.bool)) for i in (1, 2)]
    found = solve_outer(target, halves)
    together = add(*(compose(x, inner) for x, (inner, _) in zip(found, halves, strict=True)))
    assert_close(together, target)
    alone = solve_outer(target, halves[:1])[0]
    assert float(torch.linalg.norm(compose(alone, halves[0][0]) - target)) > 1


def test_a_system_that_is_too_large_is_refused_before_it_is_built(monkeypatch):
    monkeypatch.setattr(DECONVOLUTION, "DENSE_ENTRIES", 1000)
    with pytest.raises(MemoryError, match="36 x 36 entries"):
        solve_outer(normal(4, 4, 3, 3), [(normal(4, 4, 1, 1), torch.ones(3, 3, dtype=torch.bool))])
