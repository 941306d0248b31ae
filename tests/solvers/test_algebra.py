import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from morphnet.solvers import compose, orthogonal, zero_pad

sizes = st.integers(1, 4)
kernels = st.tuples(st.sampled_from([1, 3, 5]), st.sampled_from([1, 3]))


def _random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(deadline=None, max_examples=40)
@given(sizes, sizes, sizes, kernels, kernels)
def test_composed_filter_equals_two_convolutions(c_i, c_l, c_j, k1, k2):
    inner, outer, x = _random(c_l, c_i, *k1), _random(c_j, c_l, *k2, seed=1), _random(2, c_i, 11, 12, seed=2)
    assert_close(F.conv2d(F.conv2d(x, inner), outer), F.conv2d(x, compose(outer, inner)))


def test_compose_is_associative_and_bilinear():
    a, b, c = _random(2, 3, 3, 3), _random(3, 4, 1, 3, seed=1), _random(4, 2, 3, 1, seed=2)
    assert_close(compose(compose(a, b), c), compose(a, compose(b, c)))
    other = _random(3, 4, 1, 3, seed=3)
    assert_close(compose(a, 2 * b + other), 2 * compose(a, b) + compose(a, other))


def test_compose_refuses_filters_that_do_not_meet():
    with pytest.raises(ValueError, match="takes 3 channels, the inner one gives 4"):
        compose(_random(2, 3, 1, 1), _random(4, 2, 1, 1))


def test_zero_padded_filter_is_the_same_function_with_same_padding():
    weight, x = _random(3, 2, 1, 3), _random(1, 2, 7, 7, seed=1)
    padded = zero_pad(weight, (5, 3))
    assert padded.shape == (3, 2, 5, 3)
    assert_close(F.conv2d(x, padded, padding=(2, 1)), F.conv2d(x, weight, padding=(0, 1)))


@pytest.mark.parametrize("size", [(1, 3), (4, 3), (3, 2)])
def test_zero_pad_refuses_a_kernel_without_a_middle(size):
    with pytest.raises(ValueError, match="cannot be centred"):
        zero_pad(_random(1, 1, 3, 3), size)


@pytest.mark.parametrize(("rows", "columns"), [(8, 8), (8, 5), (5, 8), (1, 1), (7, 7)])
def test_orthogonal_matrices_have_singular_values_of_one_and_a_positive_determinant(rows, columns):
    for seed in range(8):
        matrix = orthogonal(rows, columns, torch.Generator().manual_seed(seed))
        assert_close(torch.linalg.svdvals(matrix), torch.ones(min(rows, columns), dtype=torch.float64))
        if rows == columns:
            assert torch.linalg.det(matrix) > 0
