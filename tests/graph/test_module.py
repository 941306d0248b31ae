from itertools import pairwise
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from morphnet.cli.compose import configs_dir
from morphnet.graph import Edge, GraphError, ModuleGraph
from morphnet.spec import parse_spec, spec_graph

FILES = sorted(Path(configs_dir(), "module").glob("*.yaml"))


def _from_file(name):
    return ModuleGraph.from_dict(OmegaConf.to_container(OmegaConf.load(Path(configs_dir(), "module", f"{name}.yaml"))))


def _edges(*pairs):
    return [Edge(*pair) for pair in pairs]


WRONG = {
    "s-t t-a a-t": r"no cycles; got a -> t -> a",
    "s-a a-b b-a b-t": r"no cycles; got a -> b -> a",
    "s-a a-t a-b": r"'b' is a second sink",
    "s-t a-t": r"'a' is a second source",
    "s-t a-b": r"'a' is a second source",
    "a-s s-t": r"a-s leads into the source",
    "s-t t-a": r"t-a leads out of the sink",
    "a-t": r"source called 's'",
    "s-a": r"sink called 't'",
    "": r"at least one edge",
}


@pytest.mark.parametrize(("text", "message"), WRONG.items())
def test_a_graph_that_is_no_module_is_refused_by_name(text, message):
    with pytest.raises(GraphError, match=message):
        ModuleGraph(_edges(*(pair.split("-") for pair in text.split())))


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        (("a", "a"), {}, "edge a-a is a cycle"),
        (("s", "t", 4), {}, "edge s-t: kernel 4 is not odd"),
        (("s", "t", (3, 2)), {}, r"edge s-t: kernel \(3, 2\) is not odd"),
        (("s", "t", 0), {}, "kernel 0 is not odd"),
        (("s", "t", -3), {}, "kernel -3 is not odd"),
        (("s", "t", True), {}, "edge s-t: kernel is an odd number"),
        (("s", "t", 3.0), {}, "edge s-t: kernel is an odd number"),
        (("s", "t", (3, 3, 3)), {}, "edge s-t: kernel is an odd number"),
        (("s", "t", 3), {"identity": True}, "edge s-t is an identity, so it has no kernel"),
        (("s", "t", 3), {"scale": 0.5}, "edge s-t: scale=0.5 belongs to an identity"),
        (("s", "t"), {"identity": True, "scale": float("nan")}, "edge s-t: scale is a number"),
        (("s", "t"), {"identity": 1}, "edge s-t: identity is true or false"),
        (("s", "a b"), {}, "a vertex name consists of letters"),
        (("s", ""), {}, "a vertex name consists of letters"),
        (("s", "t", 3), {"support": frozenset()}, "support needs offsets"),
        (("s", "t", 3), {"support": frozenset({(0, 2)})}, r"within the \(3, 3\) kernel"),
    ],
)
def test_an_edge_that_is_none_is_refused_by_name(arguments, settings, message):
    with pytest.raises(GraphError, match=message):
        Edge(*arguments, **settings)


@pytest.mark.parametrize("width", [0, -1, 1.5, True, "x", "0x", "half", "16", None])
def test_a_width_that_is_none_is_refused_with_its_vertex(width):
    with pytest.raises(GraphError, match="channels of vertex 'a'"):
        ModuleGraph(_edges("sa", "at"), {"a": width})


def test_widths_belong_to_inner_vertices():
    for vertex, message in (
        ("s", "the parent filter sets the width of 's'"),
        ("q", "no vertex 'q'; inner vertices are a"),
    ):
        with pytest.raises(GraphError, match=message):
            ModuleGraph(_edges("sa", "at"), {vertex: 3})


def test_an_identity_of_scale_0_is_refused():
    with pytest.raises(GraphError, match="edge s-t: an identity with scale 0"):
        ModuleGraph([Edge("s", "t", identity=True, scale=0.0), Edge("s", "t")])


def test_what_is_no_edge_is_refused():
    with pytest.raises(TypeError, match="edges are Edge"):
        ModuleGraph([("s", "t")])


def test_a_width_is_a_number_or_a_multiple_of_the_larger_end():
    graph = ModuleGraph(_edges("sa", "ab", "bc", "ct"), {"a": 5, "b": "0.3x"})
    assert graph.widths(4, 10) == {"s": 4, "a": 5, "b": 3, "c": 10, "t": 10}
    assert graph.widths(1, 1)["b"] == 1


def test_an_identity_joins_equal_widths_only():
    graph = ModuleGraph([Edge("s", "t", 3), Edge("s", "t", identity=True)])
    assert graph.widths(4, 4) == {"s": 4, "t": 4}
    with pytest.raises(GraphError, match=r"identity edge s-t\.1 joins 4 and 8 channels"):
        graph.widths(4, 8)


def test_parallel_equal_edges_are_keys_of_their_own():
    graph = ModuleGraph([Edge("s", "t", 3), Edge("s", "t", 3), Edge("s", "t", 3)])
    assert [edge.name for edge in graph.edges] == ["s-t", "s-t.1", "s-t.2"]
    assert len({edge: edge.name for edge in graph.edges}) == 3
    assert graph["s-t.1"] is graph.edges[1]
    with pytest.raises(KeyError, match=r"no edge is called 's-t\.9'; expected one of"):
        graph["s-t.9"]


def test_the_same_edge_twice_is_two_edges():
    edge = Edge("s", "t", 3)
    graph = ModuleGraph([edge, edge])
    assert graph.edges[0] is edge
    assert len(set(graph.edges)) == 2
    assert [e.name for e in graph.edges] == ["s-t", "s-t.1"]


def test_the_edges_that_were_given_are_keys_of_the_graph():
    first, second = Edge("s", "t", 3), Edge("s", "t", 3)
    graph = ModuleGraph([first, second])
    assert graph.edges == (first, second)
    other = ModuleGraph([second])
    assert other.edges[0].name == "s-t"
    assert second.name == "s-t.1"  # as in its first graph


def test_a_graph_is_equal_whatever_the_order_of_its_edges():
    pairs = [("s", "a", 3), ("a", "t", 1), ("s", "t", (1, 3)), ("s", "t", 1)]
    graph, other = (ModuleGraph(_edges(*order), {"a": 3}) for order in (pairs, pairs[::-1]))
    assert graph == other
    assert hash(graph) == hash(other)
    assert graph != ModuleGraph(_edges(*pairs), {"a": 4})
    assert graph != ModuleGraph(_edges(*pairs[:3]), {"a": 3})


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_of_configs_module_is_a_module_and_says_what(path):
    graph = _from_file(path.stem)
    assert path.read_text().startswith("# ")
    assert ModuleGraph.from_dict(graph.to_dict()) == graph
    assert set(graph.widths(8, 8)) == set(graph.vertices)


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.stem not in ("1c1", "3c3")], ids=lambda path: path.stem
)
def test_a_file_has_a_path_wide_enough_for_a_3x3_parent(path):
    graph = _from_file(path.stem)
    for c_i, c_j in ((8, 8), (8, 16), (16, 8)):
        widths = graph.widths(c_i, c_j)
        assert any(
            min(edge.kernel) >= 3
            and all(widths[e.source] >= c_i for e in route[: i + 1])
            and all(widths[e.target] >= c_j for e in route[i:])
            for route in graph.paths()
            for i, edge in enumerate(route)
        )


def test_plain_values_are_read_and_written_the_same():
    graph = ModuleGraph(
        [Edge("s", "a", (3, 1)), Edge("a", "t", 5), Edge("s", "t", identity=True, scale=0.25)], {"a": "2x"}
    )
    values = graph.to_dict()
    assert values["edges"][0] == {"source": "s", "target": "a", "kernel": [3, 1]}
    assert values["edges"][2] == {"source": "s", "target": "t", "identity": True, "scale": 0.25}
    assert ModuleGraph.from_dict(values) == graph


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "has the key 'edges'"),
        ([], "has the key 'edges'"),
        ({"edges": [], "chanels": {}}, "has the key 'edges'"),
        ({"edges": "s-t"}, "edges is a list"),
        ({"edges": []}, "at least one edge"),
        ({"edges": [{"source": "s"}]}, r"edges\.0: "),
        ({"edges": [{"source": "s", "target": "t", "kernl": 3}]}, "kernl"),
        ({"edges": [{"source": "s", "target": "t"}], "channels": [3]}, "channels maps inner vertices"),
    ],
)
def test_plain_values_that_are_no_module_are_refused(values, message):
    with pytest.raises(GraphError, match=message):
        ModuleGraph.from_dict(values)


def test_3x1_beside_1x3_is_a_cross():
    cross = frozenset({(-1, 0), (0, 0), (1, 0), (0, -1), (0, 1)})
    graph = ModuleGraph([Edge("s", "t", (3, 1)), Edge("s", "t", (1, 3))])
    assert graph.support == cross
    assert graph.kernel == (3, 3)
    longer = ModuleGraph([Edge("s", "a", (3, 1)), Edge("s", "a", (1, 3)), Edge("a", "t", 3)])
    assert longer.kernel == (5, 5)
    assert len(longer.support) == 21


def test_the_bridge_has_the_paths_of_eq_6():
    graph = _from_file("bridge")
    number = {edge: i for i, edge in enumerate(graph.edges, 1)}
    routes = {tuple(number[edge] for edge in reversed(path)) for path in graph.paths()}
    assert routes == {(5, 1), (6, 3, 1), (6, 4, 2), (7, 2)}
    assert graph.count_paths() == 4
    assert graph.kernel == (7, 7)


def test_paths_are_counted_without_walking_them():
    edges = [Edge(u, v) for u, v in pairwise(["s", *(f"v{i}" for i in range(60)), "t"])]
    assert ModuleGraph([*edges, *(Edge(e.source, e.target) for e in edges)]).count_paths() == 2**61


def test_a_spec_is_a_branch_beside_half_of_the_identity_or_two_branches():
    one, two = spec_graph(parse_spec("3c1_half")), spec_graph(parse_spec("3c1_2branch"))
    assert [str(edge) for edge in one.edges] == ["s-a 3x3", "a-t 1x1", "s-t 0.5 x identity"]
    assert [str(edge) for edge in two.edges] == ["s-a 3x3", "a-t 1x1", "s-b 3x3", "b-t 1x1"]
    assert one == spec_graph(parse_spec("3c1"))
    for name in ("1c1", "3c3"):
        assert spec_graph(parse_spec(name)) == _from_file(name)
