import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from morphnet.solvers import adjoint, compose, module_filter, paraunitary, zero_pad
from morphnet.solvers.paraunitary import identity_chains, solve_identity_chains
from tests.modules import module, normal

sizes = st.integers(1, 6)
odd = st.sampled_from([1, 3, 5])


def _identity(channels, kernel=(1, 1)):
    return zero_pad(torch.eye(channels, dtype=torch.float64)[:, :, None, None], kernel)


@settings(deadline=None, max_examples=50)
@given(sizes, odd, odd, st.integers(0, 99))
def test_a_filter_and_its_adjoint_compose_to_the_identity(channels, rows, columns, seed):
    weight = paraunitary(channels, (rows, columns), torch.Generator().manual_seed(seed))
    assert weight.shape == (channels, channels, rows, columns)
    assert weight.dtype == torch.float64
    identity = _identity(channels, (2 * rows - 1, 2 * columns - 1))
    assert_close(compose(adjoint(weight), weight), identity, rtol=0, atol=1e-13)
    assert_close(compose(weight, adjoint(weight)), identity, rtol=0, atol=1e-13)
    assert float(torch.linalg.norm(weight)) ** 2 == pytest.approx(channels)


@pytest.mark.parametrize("channels", [2, 3, 8])
def test_every_tap_takes_part(channels):
    weight = paraunitary(channels, (3, 3), torch.Generator().manual_seed(1))
    assert (weight != 0).all()
    taps = torch.linalg.vector_norm(weight, dim=(0, 1))
    assert taps.min() > 0.01 * taps.max()


def test_it_keeps_the_length_of_a_signal():
    weight = paraunitary(4, (3, 5), torch.Generator())
    x = torch.nn.functional.pad(normal(1, 4, 6, 7), (4, 4, 2, 2))
    assert torch.linalg.norm(torch.nn.functional.conv2d(x, weight)) == pytest.approx(float(torch.linalg.norm(x)))


@pytest.mark.parametrize(
    ("pairs", "kernel", "left", "chains"),
    [
        ("sa at", 1, 2.0, ["s-a a-t"]),
        ("sa at", 3, 2.0, ["s-a a-t"]),
        ("sa at st=0.5", 1, 1.5, ["s-a a-t"]),
        ("sa sb at bt st=0.5 st=-1", 1, 2.5, ["s-a a-t", "s-b b-t"]),
        ("sa ab bt", 3, 2.0, ["s-a a-b b-t"]),
    ],
)
def test_chains_and_what_is_left_for_them_are_found(pairs, kernel, left, chains):
    scale, found = identity_chains(module(pairs), 2 * _identity(3, (kernel, kernel)))
    assert scale == left
    assert sorted(" ".join(e.name for e in chain) for chain in found) == chains


@pytest.mark.parametrize(
    ("pairs", "channels", "target"),
    [
        ("sa at st", None, _identity(3)),  # a single convolution is no chain
        ("sa at ab bt", None, _identity(3)),  # chains that meet
        ("sa ab=1 bt", None, _identity(3)),  # an identity within
        ("sa sa at", None, _identity(3)),
        ("sa at", {"a": 4}, _identity(3)),
        ("sa at st=1", None, _identity(3)),  # nothing is left
        ("sa at", None, torch.diag(torch.tensor([1.0, 1.0, 2.0], dtype=torch.float64))[:, :, None, None]),
        ("sa at", None, _identity(3)[:2]),
        ("sa at", None, _identity(3)[:, :2]),
        ("sa at", None, torch.roll(_identity(3, (3, 3)), 1, 2)),  # the identity, one pixel further
        ("sa at", None, torch.zeros(3, 3, 1, 1, dtype=torch.float64)),
    ],
)
def test_anything_else_is_none(pairs, channels, target):
    assert identity_chains(module(pairs, channels=channels), target) is None


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.lists(st.sampled_from(["1x1", "3x3", "1x3", "3x1", "5x3"]), min_size=2, max_size=4), max_size=2),
    st.integers(1, 4),
    st.sampled_from([1.0, -0.5, 3.0]),
)
def test_chains_of_any_kernels_add_up_to_the_identity(kernels, channels, scale):
    pairs = []
    for n, chain in enumerate([*kernels, ["3x3", "3x3"]]):
        stops = ["s", *"abc"[: len(chain) - 1], "t"] if n == 0 else ["s", *("def", "ghi")[n - 1][: len(chain) - 1], "t"]
        pairs += [f"{u}{v}:{kernel}" for u, v, kernel in zip(stops, stops[1:], chain, strict=False)]
    graph = module(pairs)
    left, chains = identity_chains(graph, scale * _identity(channels))
    assert len(chains) == len(kernels) + 1
    filters = solve_identity_chains(chains, left, channels, torch.Generator().manual_seed(3))
    whole = module_filter(graph, filters, channels, channels)
    assert_close(whole, scale * _identity(channels, graph.kernel), rtol=0, atol=1e-12)
    for chain in chains:
        assert all(filters[edge].shape == (channels, channels, *edge.kernel) for edge in chain)
        alone = filters[chain[0]]
        for edge in chain[1:]:
            alone = compose(filters[edge], alone)
        assert_close(alone, scale / len(chains) * _identity(channels, alone.shape[2:]), rtol=0, atol=1e-12)
