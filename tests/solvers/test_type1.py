import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from morphnet.solvers import compose, solve_type1, zero_pad


def _random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 4), st.integers(1, 4), st.sampled_from([1, 3]), st.integers(0, 9))
def test_it_is_exact_where_eq_3_holds_for_a_1x1_inner_filter(c_i, c_j, kernel, seed):
    target, inner = _random(c_j, c_i, kernel, kernel, seed=seed), _random(c_i + 1, c_i, 1, 1, seed=seed + 100)
    solution = solve_type1(target, inner, (kernel, kernel))
    assert solution.converged, solution.outcome
    assert_close(compose(solution.outer, solution.inner), target, rtol=1e-8, atol=1e-8)


def test_it_finds_an_answer_that_was_there_before_the_problem():
    inner, outer = _random(6, 2, 3, 3), _random(3, 6, 1, 1, seed=1)
    solution = solve_type1(compose(outer, inner), inner, (1, 1))
    assert solution.residual < 1e-12


def test_too_few_unknowns_is_an_outcome_with_what_would_help():
    solution = solve_type1(_random(4, 4, 1, 1), _random(4, 4, 3, 3, seed=1), (3, 3))
    assert not solution.converged
    assert solution.residual > 0.1
    assert "36 unknowns for 100 equations" in solution.outcome
    assert "more channels or a larger kernel" in solution.outcome


def test_float32_comes_in_and_float64_goes_out():
    solution = solve_type1(_random(2, 2, 1, 1).float(), _random(2, 2, 1, 1).float(), (1, 1))
    assert solution.outer.dtype == solution.inner.dtype == torch.float64


def test_a_target_of_zeros_is_solved_by_zeros():
    solution = solve_type1(torch.zeros(2, 2, 1, 1), _random(2, 2, 1, 1), (1, 1))
    assert solution.converged
    assert solution.outer.abs().max() == 0


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="target takes 2 channels, the inner filter 3"):
        solve_type1(_random(2, 2, 1, 1), _random(4, 3, 1, 1), (1, 1))
    with pytest.raises(ValueError, match="cannot be centred"):
        solve_type1(_random(2, 2, 5, 5), _random(4, 2, 1, 1), (3, 3))


def test_zero_padding_the_target_changes_nothing():
    inner, target = _random(2, 2, 1, 1), _random(2, 2, 1, 1, seed=3)
    small, large = solve_type1(target, inner, (3, 3)), solve_type1(zero_pad(target, (3, 3)), inner, (3, 3))
    assert_close(small.outer, large.outer)
