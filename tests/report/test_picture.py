from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch
from omegaconf import OmegaConf

from morphnet.cli.compose import configs_dir
from morphnet.graph import Edge, ModuleGraph, reduce
from morphnet.report.picture import MARKED, draw_module, draw_reduction, save_picture

FILES = sorted(Path(configs_dir(), "module").glob("*.yaml"))
CROSS = [
    Edge("s", "a", (3, 1)),
    Edge("s", "a", (1, 3)),
    Edge("a", "t", 3),
    Edge("s", "t", identity=True, scale=0.5),
    Edge("s", "t", 1),
    Edge("s", "t", identity=True),
]
PEAKED = [("s", "a"), ("s", "b"), ("s", "c"), ("a", "b"), ("a", "t"), ("b", "c"), ("b", "t"), ("c", "t"), ("s", "t")]
NAMED = [("s", "branch_one"), ("branch_one", "t"), ("s", "branch_two"), ("branch_two", "t"), ("branch_one", "t")]
GRAPHS = {
    **{path.stem: ModuleGraph.from_dict(OmegaConf.to_container(OmegaConf.load(path))) for path in FILES},
    "cross": ModuleGraph(CROSS, {"a": 1024}),
    "peaked": ModuleGraph([Edge(u, v, 3) for u, v in PEAKED]),
    "named": ModuleGraph([Edge(u, v, (11, 3)) for u, v in NAMED]),
}


def _texts(axes):
    return [text.get_text() for text in axes.texts]


@pytest.mark.parametrize("name", GRAPHS)
def test_every_panel_shows_the_widths_kernels_and_the_step(name):
    graph = GRAPHS[name]
    reduction = reduce(graph)
    widths = graph.widths(16, 16)
    figure = draw_reduction(reduction, widths)
    assert len(figure.axes) == len(reduction.steps) + 1
    panels = [graph, *(step.graph for step in reversed(reduction.steps))]
    for axes, panel in zip(figure.axes, panels, strict=True):
        texts = _texts(axes)
        for vertex in panel.vertices:
            assert vertex in texts
        assert len(texts) == 2 * len(panel.vertices) + len(panel.edges)
        for edge in panel.edges:
            what = f"id {edge.scale:g}" if edge.identity else f"{edge.kernel[0]}x{edge.kernel[1]}"
            assert any(what in text for text in texts)
        assert sorted(text for text in texts if text.isdigit()) == sorted(str(widths[v]) for v in panel.vertices)
    for axes, step in zip(figure.axes[1:], reversed(reduction.steps), strict=True):
        assert axes.get_title().startswith(f"TYPE-{step.kind}: {step.formula}")
        marked = [text.get_text() for text in axes.texts if text.get_color() == MARKED]
        assert [text.split(":")[0] for text in marked] == [step.edge.name]
    end = "simple morphable" if reduction.is_simple_morphable else "complex"
    assert end in figure.axes[-1].get_title()


@pytest.mark.parametrize("name", GRAPHS)
def test_nothing_runs_through_a_vertex_and_no_text_lies_on_another(name):
    graph = GRAPHS[name]
    figure = draw_reduction(reduce(graph), graph.widths(16, 16))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    for axes in figure.axes:
        boxes = [text.get_window_extent(renderer) for text in [*axes.texts, axes.title]]
        assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
        assert all(figure.bbox.contains(*corner) for box in boxes for corner in box.corners())
        circles = [patch for patch in axes.patches if isinstance(patch, Circle)]
        for arrow in (patch for patch in axes.patches if isinstance(patch, FancyArrowPatch)):
            parts = [bezier(np.linspace(0, 1, 30)) for bezier, _ in arrow._path_original.iter_bezier()]
            points = np.concatenate([np.atleast_2d(part) for part in parts])
            assert points.shape[1] == 2
            for circle in circles:
                assert np.hypot(*(points - circle.center).T).min() > 0.98 * circle.radius
        for label in axes.texts:
            if "x" not in label.get_text() and "id" not in label.get_text():
                continue
            box = label.get_window_extent(renderer).transformed(axes.transData.inverted())
            for circle in circles:
                near = np.clip(circle.center, box.min, box.max)
                assert np.hypot(*(near - circle.center)) > circle.radius


def test_a_cross_says_how_many_taps_it_has():
    figure = draw_reduction(reduce(GRAPHS["cross"]), GRAPHS["cross"].widths(16, 16))
    assert "r1: 3x3\n(5 taps)" in _texts(figure.axes[1])
    assert {"s-t: id 0.5", "s-t.1: 1x1", "s-t.2: id 1"} <= set(_texts(figure.axes[0]))


def test_what_a_step_leaves_alone_stays_where_it_was():
    graph = GRAPHS["inception"]
    figure = draw_reduction(reduce(graph), graph.widths(16, 16))
    places = [{t.get_text(): t.get_position() for t in axes.texts if t.get_text().isalpha()} for axes in figure.axes]
    assert all(place[vertex] == places[0][vertex] for place in places for vertex in place)


def test_a_module_can_be_drawn_into_any_axes():
    axes = Figure().subplots()
    draw_module(axes, GRAPHS["bridge"], title="module (D)")
    assert axes.get_title() == "module (D)"
    assert sorted(_texts(axes)) == sorted(["s", "a", "b", "c", "t", *["3x3"] * 7])
    widths = GRAPHS["bridge"].widths(8, 24)
    draw_module(axes, GRAPHS["bridge"], widths)
    assert _texts(axes).count("24") == 4
    assert len(axes.texts) == 17


def test_pictures_are_written_as_png_and_svg_and_are_the_same_each_time(tmp_path):
    graph = GRAPHS["3c3"]
    written = []
    for folder in ("one", "two"):
        figure = draw_reduction(reduce(graph), graph.widths(16, 16))
        png, svg = save_picture(figure, tmp_path / folder / "3c3.first")
        assert (png.name, svg.name) == ("3c3.first.png", "3c3.first.svg")
        assert sorted(path.name for path in png.parent.iterdir()) == [png.name, svg.name]
        written.append((png.read_bytes(), svg.read_bytes()))
    assert written[0] == written[1]
    assert written[0][0].startswith(b"\x89PNG")
    assert b"</svg>" in written[0][1]
    assert b"dc:date" not in written[0][1]
