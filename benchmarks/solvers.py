"""Residual and time of each method for the morphism equation.

    python benchmarks/solvers.py [--seconds 600] [--memory 8] [--channels 3 16 64] [--modules b c d]
                                 [--methods auto als newton] [--seeds 3] [--output results/solvers]

Modules (B), (C) and (D) with 3x3 kernels, all vertices as wide as the parent, a random normal 3x3 parent. ``auto`` and
``als`` are this package's; ``newton`` exists only in this benchmark: damped Gauss-Newton (Levenberg-Marquardt) on
all filters at once, with its dense normal equations. Every cell runs in its own process with a limit of time and
memory and reports why it ended. Further seeds run if the previous one took at most a tenth of the limit.

Writes ``solvers.json`` (every cell with its curve), ``.csv``, ``.md`` (Markdown table), ``.png`` and ``.svg`` (residual
against time) to the output folder; ``--redraw`` makes the last four from the first.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import resource
import shlex
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from morphnet.graph import SINK, SOURCE, Edge, ModuleGraph
from morphnet.solvers import TOLERANCE, Filters, compose, module_filter, residual_of, solve, solve_als, zero_pad
from morphnet.solvers.module_filter import routes_from_source, routes_to_sink

#: Source and target of every edge; all kernels are 3x3.
MODULES = {"b": "sa at st", "c": "sa at ab bt st", "d": "sa sb ac bc at ct bt"}
METHODS = ("auto", "als", "newton")
NEWTON_STEPS = 500
GIGABYTE = 1e9


def module(name: str) -> ModuleGraph:
    return ModuleGraph([Edge(ends[0], ends[1], 3) for ends in MODULES[name].split()])


def parent_filter(channels: int, generator: torch.Generator) -> Tensor:
    weight = torch.randn(channels, channels, 3, 3, generator=generator, dtype=torch.float64)
    return weight / (9 * channels) ** 0.5


# --- newton, on all filters ---


def newton_bytes(graph: ModuleGraph, channels: int) -> float:
    """Memory of the normal equations, their factor and the Jacobian of one inner edge."""
    equations = channels**2 * len(graph.support)
    unknowns = max((len(e.taps) for e in graph.convolutions if _is_inner(e)), default=0) * channels**2
    return 8.0 * equations * (2 * equations + unknowns)


def newton(graph: ModuleGraph, target: Tensor, generator: torch.Generator) -> Iterator[tuple[Filters, float]]:
    """The filters and their relative residual after every linear system.

    Levenberg-Marquardt: the step is -J^T (J J^T + damping)^-1 r, since there are more unknowns than equations. If the
    residual falls, it accepts the step and divides the damping by 10, else it multiplies the damping by 4. Starts from
    the noise of ``als``.
    """
    channels = target.shape[0]
    filters = Filters({edge: parent_filter(channels, generator) for edge in graph.convolutions})
    padded, size = zero_pad(target, graph.kernel), float(torch.linalg.norm(target))

    def miss(filters: Filters) -> Tensor:
        return module_filter(graph, filters, channels, channels) - padded

    missing, damping = miss(filters), 0.0
    while True:
        gram = normal_matrix(graph, filters, channels)
        mean = float(gram.diagonal().mean())
        damping = damping or 1e-2 * mean
        taken = False
        while not taken:
            gram.diagonal().add_(damping)
            factor, failed = torch.linalg.cholesky_ex(gram)
            gram.diagonal().sub_(damping)
            if not failed:
                y = torch.cholesky_solve(missing.reshape(-1, 1), factor).reshape(missing.shape)
                del factor
                step = transposed_jacobian(graph, filters, y)
                moved = Filters({edge: weight - step[edge] for edge, weight in filters.items()})
                now = miss(moved)
                taken = bool(torch.linalg.norm(now) < torch.linalg.norm(missing))
            if taken:
                filters, missing = moved, now
                damping = max(0.1 * damping, 1e-14 * mean)
            else:
                damping *= 4
            yield filters, float(torch.linalg.norm(missing)) / size
            if damping > 1e6 * mean:
                return


def normal_matrix(graph: ModuleGraph, filters: Filters, channels: int) -> Tensor:
    """J J^T of Eq. (5); rows are (output channel, input channel, tap).

    An edge into the sink has one block for all output channels, an edge out of the source one for all input channels;
    only inner edges need their full part of J.
    """
    c, (height, width) = channels, graph.kernel
    taps = height * width
    widths = graph.widths(c, c)
    eye = torch.eye(c, dtype=torch.float64)[:, :, None, None]
    before = {**routes_from_source(graph, filters, widths), SOURCE: eye}
    after = {**routes_to_sink(graph, filters, widths), SINK: eye}
    gram = torch.zeros(c * c * taps, c * c * taps, dtype=torch.float64)
    for edge in graph.convolutions:
        head, tail = after[edge.target], before[edge.source]
        if edge.target == SINK:
            block = zero_pad(compose(_units(edge, c).transpose(0, 1), tail), graph.kernel).flatten(1).T
            shared = block @ block.T
            for j in range(c):
                gram.view(c, c * taps, c, c * taps)[j, :, j] += shared
        elif edge.source == SOURCE:
            block = zero_pad(compose(head, _units(edge, c)), graph.kernel).permute(0, 2, 3, 1).reshape(c * taps, -1)
            shared = (block @ block.T).reshape(c, taps, c, taps)
            for i in range(c):
                gram.view(c, c, taps, c, c, taps)[:, i, :, :, i] += shared
        else:
            jacobian = _inner_jacobian(edge, head, tail, (height, width))
            gram.addmm_(jacobian, jacobian.T)
            del jacobian
    return gram


def transposed_jacobian(graph: ModuleGraph, filters: Filters, y: Tensor) -> dict[Edge, Tensor]:
    """J^T y, edge by edge."""
    leaves = Filters({edge: weight.detach().requires_grad_() for edge, weight in filters.items()})
    whole = module_filter(graph, leaves, y.shape[1], y.shape[0])
    return dict(zip(leaves, torch.autograd.grad((whole * y).sum(), list(leaves.values())), strict=True))


def _is_inner(edge: Edge) -> bool:
    return edge.source != SOURCE and edge.target != SINK


def _units(edge: Edge, channels: int) -> Tensor:
    """Filters of one tap and one channel, one for each (channel, tap): ``(C, C * taps, K, K)``."""
    rows, columns = edge.kernel
    unit = torch.eye(channels * rows * columns, dtype=torch.float64)
    unit = unit.reshape(channels, rows * columns, channels, rows, columns)
    return unit.flatten(0, 1).transpose(0, 1)


def _inner_jacobian(edge: Edge, head: Tensor, tail: Tensor, kernel: tuple[int, int]) -> Tensor:
    c, (rows, columns) = head.shape[0], edge.kernel
    jacobian = torch.zeros(c, c, *kernel, c, c, rows, columns, dtype=torch.float64)
    for h in range(c):
        # An entry of the filter adds the product of one column of `head` and one row of `tail`, moved by its tap.
        product = compose(head[:, h : h + 1], tail.flatten(0, 1)[None])
        product = product.unflatten(1, (c, c)).permute(0, 2, 3, 4, 1)
        top, left = ((kernel[i] - product.shape[2 + i]) // 2 for i in (0, 1))
        for y in range(rows):
            for x in range(columns):
                v, u = top + y - rows // 2, left + x - columns // 2
                jacobian[:, :, v : v + product.shape[2], u : u + product.shape[3], h, :, y, x] = product
    return jacobian.reshape(c * c * kernel[0] * kernel[1], -1)


# --- one cell, in a process of its own ---


class Clock:
    """Counts seconds of work without recording, and ends the process after the limit."""

    def __init__(self, limit: float) -> None:
        self.worked = 0.0
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, limit)
        self.started = time.perf_counter()

    def pause(self) -> None:
        self.worked += time.perf_counter() - self.started
        self.left = signal.setitimer(signal.ITIMER_REAL, 0)[0]

    def go_on(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, max(self.left, 1e-3))
        self.started = time.perf_counter()


def run_cell(arguments: argparse.Namespace) -> None:
    """Prints a line of JSON per sweep or step, and a last one with the reason of the end."""
    name, method, channels, seed = arguments.cell
    graph, channels = module(name), int(channels)
    torch.set_num_threads(arguments.threads)
    solve(module(name), parent_filter(3, torch.Generator().manual_seed(0)))  # completes the imports made on first use
    limit = int(arguments.memory * GIGABYTE) + _data_bytes()
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    generator = torch.Generator().manual_seed(int(seed))
    target = parent_filter(channels, generator)
    if method == "newton" and newton_bytes(graph, channels) > arguments.memory * GIGABYTE:
        need, equations = newton_bytes(graph, channels) / GIGABYTE, channels**2 * len(graph.support)
        say(ended=f"needs {need:.0f} GB for the dense normal equations of its {equations:,} equations")
        return
    clock = Clock(arguments.seconds)

    def record(graph: ModuleGraph, filters: Filters) -> None:
        clock.pause()
        # With one edge the filter is the parent's: nothing is solved yet.
        if len(graph.edges) > 1:
            residual = residual_of(graph, filters, target)
            say(seconds=clock.worked, residual=residual, edges=len(graph.edges))
        clock.go_on()

    try:
        say(ended=solve_cell(graph, target, method, generator, arguments.sweeps, record))
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "allocate" not in str(error) and "memory" not in str(error):
            raise
        say(ended=f"{arguments.memory:g} GB are not enough")


def solve_cell(
    graph: ModuleGraph, target: Tensor, method: str, generator: torch.Generator, sweeps: int, record: Any
) -> str:
    if method == "auto":
        solution = solve(graph, target, generator=generator)
        record(graph, solution.filters)
        return ""
    if method == "als":
        widths = graph.widths(target.shape[1], target.shape[0])
        counts: Counter[int] = Counter()

        def count(graph: ModuleGraph, filters: Filters) -> None:
            counts[len(graph.edges)] += 1
            record(graph, filters)

        filters, _ = solve_als(graph, target, widths, generator, sweeps, count)
        if residual_of(graph, filters, target) <= TOLERANCE:
            return ""
        if max(counts.values()) >= sweeps:
            return f"all {sweeps} sweeps done"
        return "stalled: a sweep gains less than 0.01 %"
    for step, (filters, residual) in enumerate(newton(graph, target, generator), 1):
        record(graph, filters)
        if residual <= TOLERANCE:
            return ""
        if step == NEWTON_STEPS:
            return f"all {NEWTON_STEPS} steps done"
    return "no step lowers the residual any more"


def say(**values: Any) -> None:
    print(json.dumps(values), flush=True)


def _data_bytes() -> int:
    with open("/proc/self/status") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmData"))


# --- all cells ---


def measure(name: str, method: str, channels: int, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, "--cell", name, method, str(channels), str(seed)]
    for option in ("seconds", "memory", "threads", "sweeps"):
        command += [f"--{option}", str(getattr(arguments, option))]
    threads = {f"{library}_NUM_THREADS": str(arguments.threads) for library in ("OMP", "MKL", "OPENBLAS")}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, **threads}, timeout=3 * arguments.seconds + 120
        )
        code, output, errors = done.returncode, done.stdout, done.stderr
    except subprocess.TimeoutExpired as expired:
        code, output, errors = -signal.SIGALRM, (expired.stdout or b"").decode(), ""
    lines = [json.loads(line) for line in output.splitlines() if line.endswith("}")]
    points = [line for line in lines if "residual" in line]
    note = next((line["ended"] for line in lines if "ended" in line), None)
    if note is None and code == -signal.SIGALRM:
        unit = "sweep" if method == "als" else "step"
        note = f"{arguments.seconds:g} s passed"
        note += "" if points or method == "auto" else f" before the first {unit} ended"
    elif note is None:
        last = (errors.strip().splitlines() or [""])[-1]
        memory = code == -signal.SIGKILL or "emory" in last or "alloc" in last
        note = f"{arguments.memory:g} GB are not enough" if memory else f"failed, exit code {code}: {last}"
    edges = len(MODULES[name].split())
    if points and points[-1]["edges"] < edges:
        note += f"; its module has {points[-1]['edges']} of {edges} edges by then"
    kept = [p for i, p in enumerate(points, 1) if i <= 100 or i % 10 == 0 or i == len(points)]
    return {
        "module": name,
        "channels": channels,
        "method": method,
        "seed": seed,
        "residual": points[-1]["residual"] if points else None,
        "seconds": points[-1]["seconds"] if points else None,
        "steps": len(points),
        "exact": bool(points) and not note and points[-1]["residual"] <= TOLERANCE,
        "note": note,
        "curve": [[float(f"{p['seconds']:.4g}"), float(f"{p['residual']:.4g}"), p["edges"]] for p in kept],
    }


def about(threads: int) -> dict[str, str]:
    """The provenance of a figure: command, commit, hardware, versions, date."""

    def git(*words: str) -> str:
        where = Path(__file__).parent
        return subprocess.run(["git", *words], cwd=where, capture_output=True, text=True).stdout.strip()

    words = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
    with open("/proc/cpuinfo") as lines:
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")
    import numpy
    import scipy

    return {
        "command": shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *words]),
        "commit": git("rev-parse", "--short", "HEAD") or "unknown",
        "hardware": f"{os.cpu_count()} cores of {model}; {threads} thread{'s' * (threads > 1)} used; no GPU",
        "versions": f"Python {platform.python_version()}, torch {torch.__version__}, numpy {numpy.__version__}, "
        f"scipy {scipy.__version__}",
        "load": f"{os.getloadavg()[0]:.1f} processes running when it started",
        "date": date.today().isoformat(),
    }


def markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def table(cells: list[dict[str, Any]]) -> str:
    """One row per module, width and method, with the median and the worst residual over seeds."""
    groups: dict[tuple[str, int, str], list[dict[str, Any]]] = {}
    for cell in cells:
        groups.setdefault((cell["module"], cell["channels"], cell["method"]), []).append(cell)
    rows = []
    for (name, channels, method), group in groups.items():
        found = [cell for cell in group if cell["residual"] is not None]
        residual = seconds = steps = ""
        if found:
            residuals = sorted(cell["residual"] for cell in found)
            residual = f"{statistics.median(residuals):.1e}"
            residual += f" (worst {residuals[-1]:.1e})" if len(found) > 1 else ""
            seconds = f"{statistics.median(cell['seconds'] for cell in found):.3g}"
            steps = "" if method == "auto" else f"{statistics.median(cell['steps'] for cell in found):.0f}"
        exact = f"{sum(cell['exact'] for cell in group)} of {len(group)}" if found else ""
        notes = list(dict.fromkeys(cell["note"] for cell in group if cell["note"]))
        cells_of_row = [f"({name.upper()})", str(channels), method, str(len(group)), residual, steps, seconds, exact]
        rows.append([*cells_of_row, "; ".join(notes)])
    header = ["module", "channels", "method", "seeds", "relative residual", "sweeps or steps", "seconds", "exact"]
    return markdown([*header, "why it ended"], rows)


def draw(cells: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D

    colors = {"auto": "#009E73", "als": "#D55E00", "newton": "#0072B2"}
    looks = dict(zip(sorted({c["channels"] for c in cells}), [("-", "o"), ("--", "s"), (":", "^")] * 2, strict=False))
    names = list(dict.fromkeys(cell["module"] for cell in cells))
    plt.rcParams.update({"font.size": 10, "svg.hashsalt": "solvers"})
    figure, axes = plt.subplots(1, len(names), figsize=(4.3 * len(names), 4.4), sharex=True, sharey=True, squeeze=False)
    for name, ax in zip(names, axes[0], strict=True):
        for cell in cells:
            if cell["module"] != name or not cell["curve"]:
                continue
            line, marker = looks[cell["channels"]]
            seconds = [point[0] for point in cell["curve"]]
            residuals = [max(point[1], 1e-17) for point in cell["curve"]]
            color = colors[cell["method"]]
            ax.plot(seconds, residuals, line, color=color, linewidth=1.1, alpha=0.8)
            face = color if cell["exact"] else "white"
            ax.plot(seconds[-1], residuals[-1], marker, color=color, markerfacecolor=face, markersize=6, zorder=3)
        ax.axhline(TOLERANCE, color="0.6", linewidth=0.8, zorder=0)
        ax.set(xscale="log", yscale="log", title=f"Module ({name.upper()})", xlabel="seconds")
        ax.grid(alpha=0.25, which="major")
    axes[0, 0].set_ylabel("relative residual")
    axes[0, 0].text(
        0.4, TOLERANCE * 1.6, "exact below this line", transform=axes[0, 0].get_yaxis_transform(), fontsize=8
    )
    handles = [Line2D([], [], color=color, linewidth=3, label=method) for method, color in colors.items()]
    handles += [
        Line2D([], [], color="0.3", linestyle=line, marker=marker, label=f"{channels} channels")
        for channels, (line, marker) in looks.items()
    ]
    handles.append(
        Line2D([], [], color="0.3", linestyle="", marker="o", markerfacecolor="white", label="ended inexact")
    )
    figure.legend(handles=handles, loc="lower center", ncol=len(handles), frameon=False)
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    for ending in (".png", ".svg"):
        figure.savefig(path.with_suffix(ending), dpi=150, metadata={"Date": None} if ending == ".svg" else None)


def write(result: dict[str, Any], output: Path) -> None:
    cells = result["cells"]
    output.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(cell) for cell in cells]
    head = json.dumps({key: value for key, value in result.items() if key != "cells"}, indent=1)
    text = head[:-2] + ',\n "cells": [\n  ' + ",\n  ".join(lines) + "\n ]\n}\n"
    (output / "solvers.json").write_text(text)
    (output / "solvers.md").write_text(table(cells))
    with open(output / "solvers.csv", "w", newline="") as file:
        columns = ["module", "channels", "method", "seed", "residual", "seconds", "steps", "exact", "note"]
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modules", nargs="+", default=list(MODULES), choices=list(MODULES))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--channels", nargs="+", type=int, default=[3, 16, 64])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=600, help="limit of a cell")
    parser.add_argument("--memory", type=float, default=8, help="limit of a cell in GB")
    parser.add_argument("--sweeps", type=int, default=1000, help="limit of als (100 in the package)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, default=Path("results/solvers"))
    parser.add_argument("--redraw", action="store_true", help="tables and pictures from solvers.json")
    parser.add_argument("--cell", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.cell:
        run_cell(arguments)
        return
    if arguments.redraw:
        result = json.loads((arguments.output / "solvers.json").read_text())
    else:
        limits = {"seconds": arguments.seconds, "memory": arguments.memory, "sweeps": arguments.sweeps}
        result = {"about": about(arguments.threads), "limits": limits, "cells": []}
        for name in arguments.modules:
            for channels in arguments.channels:
                for method in arguments.methods:
                    for seed in range(arguments.seeds):
                        cell = measure(name, method, channels, seed, arguments)
                        result["cells"].append(cell)
                        write(result, arguments.output)
                        print({key: value for key, value in cell.items() if key != "curve"}, flush=True)
                        if cell["seconds"] is None or cell["seconds"] > arguments.seconds / 10:
                            break
    write(result, arguments.output)
    draw(result["cells"], arguments.output / "solvers")
    print(table(result["cells"]))


if __name__ == "__main__":
    main()
