import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from morphnet.graph import Edge, ModuleGraph, reduce

BRIDGE = ["sa", "sb", "ac", "bc", "at", "ct", "bt"]
KERNELS = [1, 3, (3, 1), (1, 3), (5, 3), 5]


def _edge(draw, source, target):
    if draw(st.integers(0, 4)) == 0:
        return Edge(source, target, identity=True, scale=draw(st.sampled_from([0.5, 1.0, -0.25])))
    return Edge(source, target, draw(st.sampled_from(KERNELS)))


@st.composite
def grown(draw, start=("st",), most=8):
    """Edges grown from those of ``start`` by random atomic morphs, and how many of these there were."""
    ends, number = [tuple(pair) for pair in start], draw(st.integers(0, most))
    for i in range(number):
        source, target = ends.pop(draw(st.integers(0, len(ends) - 1)))
        if draw(st.booleans()):
            ends += [(source, f"v{i}"), (f"v{i}", target)]
        else:
            ends += [(source, target), (source, target)]
    edges = draw(st.permutations([_edge(draw, *pair) for pair in ends]))
    inner = sorted({vertex for pair in ends for vertex in pair} - {"s", "t"})
    channels = draw(st.dictionaries(st.sampled_from(inner), st.sampled_from([3, "0.5x"]))) if inner else {}
    return ModuleGraph(edges, channels), number


def _copies(edges):
    return [Edge(e.source, e.target, e.kernel, identity=e.identity, scale=e.scale) for e in edges]


@settings(deadline=None, max_examples=60)
@given(grown())
def test_what_atomic_morphs_grew_from_one_edge_reduces_to_one(example):
    graph, number = example
    reduction = reduce(graph)
    assert reduction.is_simple_morphable
    assert len(reduction.steps) == number
    (last,) = reduction.irreducible.edges
    assert (last.source, last.target) == ("s", "t")
    assert last.taps == graph.support
    assert last.kernel == graph.kernel


@settings(deadline=None, max_examples=40)
@given(grown(BRIDGE, most=6))
def test_what_grew_from_the_bridge_reduces_to_the_bridge(example):
    graph, number = example
    reduction = reduce(graph)
    assert not reduction.is_simple_morphable
    assert len(reduction.steps) == number
    left = reduction.irreducible
    assert sorted((e.source, e.target) for e in left.edges) == sorted(tuple(pair) for pair in BRIDGE)
    assert left.support == graph.support


@settings(deadline=None, max_examples=60)
@given(st.one_of(grown(), grown(BRIDGE)), st.data())
def test_the_order_of_the_edges_changes_nothing(example, data):
    graph, _ = example
    other = ModuleGraph(data.draw(st.permutations(_copies(graph.edges))), graph.channels)
    assert other == graph
    first, second = reduce(graph), reduce(other)
    assert first.irreducible == second.irreducible
    assert first.is_simple_morphable == second.is_simple_morphable
    assert [step.kind for step in first.steps] == [step.kind for step in second.steps]
    assert [step.edge.signature for step in first.steps] == [step.edge.signature for step in second.steps]


@settings(deadline=None, max_examples=60)
@given(st.one_of(grown(), grown(BRIDGE)))
def test_the_steps_played_forwards_rebuild_the_module(example):
    graph, _ = example
    reduction = reduce(graph)
    modules = list(reduction.replay())
    assert modules[0] is reduction.irreducible
    assert modules[-1] == graph
    assert set(modules[-1].edges) == set(graph.edges)  # the same objects
    assert modules[-1].channels == graph.channels
    for step, before, after in zip(reduction.steps, modules, modules[1:], strict=False):
        assert step.edge in step.graph.edges
        assert set(step.parts) <= set(step.morphed.edges)
        assert (before, after) == (step.graph, step.morphed)
        assert (step.vertex is None) == (step.kind == "II")
        assert before.support == after.support == graph.support
        first, second = step.parts
        if step.kind == "I":
            assert (first.source, first.target, second.target) == (step.edge.source, second.source, step.edge.target)
        else:
            assert {(e.source, e.target) for e in step.parts} == {(step.edge.source, step.edge.target)}


@settings(deadline=None, max_examples=30)
@given(grown())
def test_names_stay_distinct_at_every_step(example):
    graph, _ = example
    for module in reduce(graph).replay():
        names = [edge.name for edge in module.edges]
        assert len(set(names)) == len(names)


def test_module_d_is_irreducible():
    graph = ModuleGraph([Edge(u, v, 3) for u, v in BRIDGE])
    reduction = reduce(graph)
    assert reduction.steps == ()
    assert reduction.irreducible is graph
    assert "complex: irreducible as it is" in str(reduction)


@pytest.mark.parametrize(
    ("pairs", "kinds"),
    [
        (["st"], ""),
        (["sa", "at"], "I"),
        (["sa", "at", "st"], "II I"),
        (["sa", "at", "ab", "bt", "st"], "II I II I"),
        (["sa", "sb", "st", "ab", "at", "bt"], None),
    ],
)
def test_modules_a_b_and_c_are_simple_morphable_and_a_dense_block_is_not(pairs, kinds):
    reduction = reduce(ModuleGraph([Edge(u, v, 3) for u, v in pairs]))
    assert reduction.is_simple_morphable == (kinds is not None)
    assert " ".join(step.kind for step in reduction.steps) == (kinds or "")


def test_a_bridge_with_more_edges_is_still_complex():
    pairs = [*BRIDGE, "sa", "cx", "xt"]
    reduction = reduce(ModuleGraph([Edge(u, v, 3) for u, v in pairs]))
    assert len(reduction.steps) == 3
    assert len(reduction.irreducible.edges) == 7
    assert "3 atomic morphs" in str(reduction)
    assert "(c-t)" in str(reduction)


def test_identities_in_series_and_in_parallel_stay_identities():
    graph = ModuleGraph(
        [
            Edge("s", "a", identity=True, scale=0.5),
            Edge("a", "t", identity=True, scale=0.5),
            Edge("s", "t", identity=True, scale=0.25),
        ]
    )
    (edge,) = reduce(graph).irreducible.edges
    assert edge.identity
    assert edge.scale == 0.5


def test_a_reduced_edge_has_the_support_of_what_it_stands_for():
    graph = ModuleGraph([Edge("s", "t", (3, 1)), Edge("s", "t", (1, 3))])
    (edge,) = reduce(graph).irreducible.edges
    assert edge.kernel == (3, 3)
    assert edge.taps == graph.support
    assert "3x3 with 5 of 9 taps" in str(edge)


def test_the_text_of_a_reduction_reads_from_the_single_convolution_upwards():
    text = str(reduce(ModuleGraph([Edge("s", "a", 3), Edge("a", "t", 1), Edge("s", "t", 1)])))
    assert text.splitlines() == [
        "simple morphable: one convolution grows into it by 2 atomic morphs",
        "  1. TYPE-II  r2 (s-t, 3x3) becomes s-t + r1: in parallel",
        "  2. TYPE-I   r1 (s-t, 3x3) becomes a-t ⊛ s-a: in series, with the new vertex a",
    ]
    assert str(reduce(ModuleGraph([Edge("s", "t")]))) == "simple morphable: it is one convolution"


def test_a_step_applies_only_where_its_edge_is():
    first, second = (reduce(ModuleGraph([Edge("s", "a"), Edge("a", "t")])) for _ in range(2))
    with pytest.raises(ValueError, match="which is not in the graph"):
        first.steps[0].apply(second.irreducible)
