"""What a morph did, from its report: modules before and after as a picture, the proof in words."""

from __future__ import annotations

import json
from typing import Any

from matplotlib.figure import Figure

from morphnet.graph import SINK, SOURCE, Edge, ModuleGraph
from morphnet.morph.report import noise_in_words
from morphnet.report.picture import draw_modules
from morphnet.spec import parse_spec, spec_graph


def draw_morph(report: dict[str, Any], columns: int = 4) -> Figure | None:
    """The first module of each kind before and after the morph, ``columns`` pictures in a row; None without modules."""
    kinds: dict[str, tuple[ModuleGraph, ModuleGraph, int, int]] = {}
    for layer in report["layers"]:
        module = layer.get("module")
        if module:
            conv = module["conv"]
            kernel = tuple(k + 1 - k % 2 for k in conv["kernel_size"])
            before, after = ModuleGraph([Edge("s", "t", kernel)]), ModuleGraph.from_dict(module["graph"])
            kinds.setdefault(json.dumps(module["graph"]), (before, after, conv["in_channels"], conv["out_channels"]))
        elif layer.get("shape") and not report["spec"].startswith("{"):
            before = ModuleGraph([Edge(SOURCE, SINK, identity=True)])
            width = int(layer["shape"]["mid_channels"])
            kinds.setdefault("spec", (before, spec_graph(parse_spec(report["spec"])), width, width))
    if not kinds:
        return None
    panels = []
    for before, after, inside, outside in kinds.values():
        panels += [(before, before.widths(inside, outside), "before"), (after, after.widths(inside, outside), "after")]
    return draw_modules(panels, columns)


def proof_lines(report: dict[str, Any]) -> list[tuple[str, str]]:
    """How far parent and child differ, by what was compared."""
    proof, lines = report["proof"], []
    for key, label in (
        ("exactness", "in float64, before the cast"),
        ("delivered", "with the weights it has, in float64"),
        ("own_dtype", "in its own precision"),
    ):
        if proof.get(key):
            part = proof[key]
            few = "the first " if part["images"] < (proof.get("own_dtype") or part)["images"] else ""
            differ = f"{part['flips']} of {few}{part['images']} images change their class"
            noise = proof.get("noise_floor")
            alone = f" (rounding of the parent alone: {noise:.1e})" if key == "own_dtype" and noise is not None else ""
            lines.append((label, f"{part['relative']:.1e} of the largest logit{alone}; {differ}"))
    training = proof.get("training")
    if training:
        unjudged = "" if training["judged"] else f" ({training['unjudged']})"
        by = noise_in_words(training["ratio"], training["difference"], training["size"])
        lines.append(("with batch statistics", f"logits differ by {by}{unjudged}"))
    return lines


def morph_in_words(report: dict[str, Any]) -> str:
    """The proof of a morph and what it did to each layer, line by line."""
    verdict = "passed" if report["passed"] else "failed"
    lines = proof_lines(report)
    if report.get("macs_before") and report.get("macs_after"):
        lines.append(("FLOP", f"{report['macs_before']:,} -> {report['macs_after']:,}"))
    lines += [(layer["name"], f"{layer['change']}, residual {layer['residual']:.1e}") for layer in report["layers"]]
    width = max(len(label) for label, _ in lines)
    head = f"{report['spec']}, bn={report['bn']}, padding={report['padding']}: {verdict}"
    return "\n".join([head, *(f"{label:<{width}}  {text}" for label, text in lines)])
