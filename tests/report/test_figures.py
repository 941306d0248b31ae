from dataclasses import replace

from morphnet.report.comparison import paper_lines, runs_of
from morphnet.report.figures import draw_cost, draw_curves
from tests.report.test_comparison import _record, _run


def _labels(figure):
    return {text.get_text() for text in figure.axes[0].get_legend().get_texts()}


def test_the_cost_figure_has_every_row_printed_and_those_measured():
    figure = draw_cost(paper_lines(runs_of([*_run(0, 0.10, 0.08), *_run(1, 0.12, 0.09)]), 1))
    literature = "literature, He et al. 2016"
    assert _labels(figure) == {"as printed in the paper", "measured here, mean and deviation over seeds", literature}
    written = {text.get_text() for text in figure.axes[0].texts}
    assert {"ResNet-110 (literature)", "ResNet-164 (literature)"} <= written
    lines = [line for line in figure.axes[0].lines if line.get_marker() == "o" and len(line.get_xdata())]
    points = {(round(line.get_xdata()[0], 3), round(line.get_ydata()[0], 3)) for line in lines}
    assert {(253.1, 6.61), (43.959, 8.5)} <= points
    assert _labels(draw_cost(paper_lines([], 2))) == {"as printed in the paper"}


def test_curves_follow_each_other_and_a_control_starts_at_its_parent():
    records = _run(0)
    for i, record in enumerate(records):
        steps = (0, 640) if record.phase == "parent" else (0, 320, 640)
        history = tuple({"step": s, "errors": 10, "images": 100} for s in steps)
        records[i] = replace(record, history=history)
    records.append(
        _record(
            0,
            3,
            "scratch",
            0.2,
            role="control",
            source="1_1c1",
            from_scratch=True,
            label="from scratch",
            history=({"step": 0, "errors": 90, "images": 100},),
        )
    )
    figure = draw_curves(runs_of(records))
    assert _labels(figure) == {"parent", "child (1c1)", "parent on", "from scratch"}
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata())]
    assert [list(line.get_xdata()) for line in lines if line.get_linestyle() == ":"] == [[640, 640]]  # a child begins
    curves = [line.get_xdata().tolist() for line in lines if line.get_linestyle() != ":"]
    assert curves == [[0, 640], [640, 960, 1280], [640, 960, 1280], [0]]
