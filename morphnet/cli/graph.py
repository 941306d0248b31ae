"""``morphnet graph``: a module and its reduction, step by step, as text and as a picture."""

from __future__ import annotations

import itertools
import json
import math
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from morphnet.cli.compose import run_job, to_dataclass
from morphnet.config import GraphConfig
from morphnet.graph import Edge, Feasibility, ModuleGraph, Reduction, check_feasible, reduce
from morphnet.spec import parse_spec, spec_graph

if TYPE_CHECKING:
    from morphnet.solvers import Solution

FORMATS = ("text", "json")
#: Values of ``solve``.
SOLVE = ("dense", "sparse", "als")
#: Time limit of ``als``.
SECONDS = 30.0
#: At most so many paths are printed.
TERMS = 12
WIDTH = 100


@dataclass(frozen=True)
class _Findings:
    """Everything that is printed about a module."""

    name: str
    reduction: Reduction
    widths: dict[str, int]
    kernel: tuple[int, int]
    feasible: Feasibility
    solutions: dict[str, Solution]
    pictures: Sequence[Path]


def main() -> None:
    """Prints a module and its reduction, and draws them."""
    run_job("graph", graph)


def graph(composed: DictConfig) -> None:
    config = to_dataclass(composed, GraphConfig)
    if config.format not in FORMATS:
        raise ValueError(f"format={config.format!r}; expected one of {', '.join(FORMATS)}")
    for key in ("in_channels", "out_channels"):
        if getattr(config, key) < 1:
            raise ValueError(f"{key}={getattr(config, key)}: a number of channels is at least 1")
    if config.pictures and not config.output:
        raise ValueError("output is empty: give a folder for the pictures, or pictures=false")
    name, module = _module(config)
    kernel = _parent_kernel(config)
    widths, reduction = module.widths(config.in_channels, config.out_channels), reduce(module)
    solutions = _solve(config, module, kernel)
    pictures: Sequence[Path] = ()
    if config.pictures:
        from morphnet.report.picture import draw_reduction, save_picture

        place = Path(config.output) / name.replace("/", "_")
        pictures = save_picture(draw_reduction(reduction, widths), place)
        if solutions:
            from morphnet.report.filters import draw_filters

            titles = {f"{how}: residual {each.residual:.1e}": each.filters for how, each in solutions.items()}
            pictures = [*pictures, *save_picture(draw_filters(titles), place.with_name(f"{place.name}_filters"))]
    feasible = check_feasible(module, (config.out_channels, config.in_channels, *kernel))
    findings = _Findings(name, reduction, widths, kernel, feasible, solutions, pictures)
    print(json.dumps(_to_dict(findings), indent=1) if config.format == "json" else _to_text(findings))


def _solve(config: GraphConfig, module: ModuleGraph, kernel: tuple[int, int]) -> dict[str, Solution]:
    """Solutions of the module by each value of ``solve``, for a random normal parent, or with a spec the identity."""
    ways = [config.solve] if isinstance(config.solve, str) else config.solve or []
    if not isinstance(ways, list) or any(how not in SOLVE for how in ways):
        raise ValueError(f"solve={config.solve}: expected one or a list of {', '.join(SOLVE)}")
    if not ways:
        return {}
    import torch

    from morphnet.solvers import solve

    generator = torch.Generator().manual_seed(config.seed)
    shape = (config.out_channels, config.in_channels, *kernel)
    if config.morph is not None:
        weight = torch.eye(config.out_channels, config.in_channels, dtype=torch.float64)[:, :, None, None]
    else:
        scale = (config.in_channels * kernel[0] * kernel[1]) ** -0.5
        weight = scale * torch.randn(shape, generator=generator, dtype=torch.float64)
    solutions = {}
    for how in ways:
        method, init = ("als", "dense") if how == "als" else ("auto", how)
        generator = torch.Generator().manual_seed(config.seed)
        solutions[how] = solve(module, weight, method, generator, init=init, max_seconds=SECONDS)
    return solutions


def _module(config: GraphConfig) -> tuple[str, ModuleGraph]:
    """The module and its name, which its pictures get."""
    choice = HydraConfig.get().runtime.choices.get("module")
    has_module = choice is not None or bool(config.module.edges or config.module.channels)
    if has_module == (config.morph is not None):
        given = "both" if has_module else "neither"
        raise ValueError(f"give module=NAME (such as bridge) or morph=SPEC (such as 3c3), one of the two; got {given}")
    if config.morph is not None:
        spec = parse_spec(config.morph)
        return str(spec), spec_graph(spec)
    return choice or "custom", ModuleGraph.from_dict(asdict(config.module))


def _parent_kernel(config: GraphConfig) -> tuple[int, int]:
    kernel: Any = config.kernel
    if kernel is None:
        kernel = 3 if config.morph is None else 1
    pair = (kernel, kernel) if type(kernel) is int else kernel
    if not isinstance(pair, list | tuple) or len(pair) != 2 or any(type(k) is not int or k < 1 for k in pair):
        raise ValueError(f"kernel={kernel}: the parent's kernel is a number from 1, or a pair [height,width]")
    if any(k % 2 == 0 for k in pair):
        odd = ",".join(str(k + 1 - k % 2) for k in pair)
        raise ValueError(f"kernel={kernel} is even: it is morphed inside the next odd one, so give kernel=[{odd}]")
    return (pair[0], pair[1])


def _to_text(it: _Findings) -> str:
    module = it.reduction.module
    paths, convolutions = module.count_paths(), len(module.convolutions)
    vertices = ", ".join(f"{vertex} {width}" for vertex, width in it.widths.items())
    lines = [
        f"module {it.name}: {len(it.widths)} vertices, {len(module.edges)} edges ({convolutions} with a filter)",
        "",
        *_wrapped("vertices", f"{vertices} (name, channels)"),
    ]
    wide = max(len(edge.name) for edge in module.edges)
    for i, edge in enumerate(module.edges):
        lines.append(f"{'edges' if i == 0 else '':11}{edge.name:{wide}}  {edge.describe()}")
    lines.append(f"{'paths':11}{paths}, whose sum is the module's filter (Eq. 5):")
    terms = [_term(path) for path in itertools.islice(module.paths(), TERMS)]
    lines += [f"{'':11}{'G = ' if i == 0 else '  + '}{term}" for i, term in enumerate(terms)]
    if paths > TERMS:
        lines.append(f"{'':11}  + {paths - TERMS:,} more")
    (rows, columns), taps = module.kernel, len(module.support)
    few = f" with {taps} of {rows * columns} taps" if taps < rows * columns else ""
    lines.append(f"{'kernel':11}{rows}x{columns}{few}, {_holds(module, it.kernel)}")
    lines += _wrapped("solvable", str(it.feasible))
    lines += [f"{'reduction' if i == 0 else '':11}{line}" for i, line in enumerate(str(it.reduction).splitlines())]
    for how, solution in it.solutions.items():
        facts = [
            f"residual {solution.residual:.1e}",
            f"{solution.zero_share:.0%} zeros",
            *([f"condition {solution.condition:.1f}"] if math.isfinite(solution.condition) else []),
            f"{solution.seconds:.2f} s",
            *([] if solution.converged else [solution.outcome]),
            *solution.weak,
        ]
        lines += _wrapped(how, "; ".join(facts))
    if it.pictures:
        lines.append(f"{'pictures':11}{', '.join(map(str, it.pictures))}")
    return "\n".join(lines)


def _wrapped(title: str, text: str) -> list[str]:
    return textwrap.wrap(f"{title:11}{text}", WIDTH, subsequent_indent=" " * 11)


def _term(path: tuple[Edge, ...]) -> str:
    """A path as its term of Eq. (5), the last edge first; an identity is its scale."""

    def factor(edge: Edge) -> str:
        if not edge.identity:
            return edge.name
        return "I" if edge.scale == 1 else f"{edge.scale:g} I"

    return " ⊛ ".join(factor(edge) for edge in reversed(path))


def _holds(module: ModuleGraph, kernel: tuple[int, int]) -> str:
    parent = f"the parent's {kernel[0]}x{kernel[1]}"
    needed = Edge("s", "t", kernel).taps
    own = "x".join(map(str, module.kernel))
    hint = f"kernel={module.kernel[0]} for one of {own}" + (", or an identity" if own == "1x1" else "")
    return f"which holds {parent}" if needed <= module.support else f"too small for {parent} ({hint})"


def _to_dict(it: _Findings) -> dict[str, Any]:
    module = it.reduction.module
    return {
        "name": it.name,
        "module": module.to_dict(),
        "widths": it.widths,
        "edges": [edge.name for edge in module.edges],
        "paths": module.count_paths(),
        "terms": [[edge.name for edge in path] for path in itertools.islice(module.paths(), TERMS)],
        "kernel": list(module.kernel),
        "taps": len(module.support),
        "parent_kernel": list(it.kernel),
        "holds_parent": Edge("s", "t", it.kernel).taps <= module.support,
        "exact": it.feasible.is_exact,
        "meets_eq3": it.feasible.meets_eq3,
        "advice": it.feasible.advice,
        "simple_morphable": it.reduction.is_simple_morphable,
        "steps": [
            {
                "type": step.kind,
                "edge": step.edge.name,
                "source": step.edge.source,
                "target": step.edge.target,
                "kernel": list(step.edge.kernel),
                "taps": len(step.edge.taps),
                "parts": [part.name for part in step.parts],
                "vertex": step.vertex,
            }
            for step in it.reduction.steps
        ],
        "irreducible": [edge.name for edge in it.reduction.irreducible.edges],
        "solutions": {
            how: {
                **{key: getattr(solution, key) for key in ("residual", "converged", "outcome")},
                "condition": solution.condition if math.isfinite(solution.condition) else None,
                **{key: getattr(solution, key) for key in ("zero_share", "iterations", "seconds", "weak")},
            }
            for how, solution in it.solutions.items()
        },
        "pictures": [str(path) for path in it.pictures],
    }
