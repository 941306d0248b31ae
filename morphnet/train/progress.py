"""What a run says while it trains: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any

from tqdm import tqdm

from morphnet.train.loop import Evaluation

#: Seconds between two plain lines of one phase, and between two readings on a terminal.
LINE_SECONDS, BAR_SECONDS = 30.0, 2.0


class Progress:
    """Loss, error, images/s and time left of one phase; says nothing unless ``speaks``."""

    def __init__(self, name: str, steps: int, batch_size: int, done: int = 0, speaks: bool = True) -> None:
        self.name, self.steps, self.batch_size = name, steps, batch_size
        self._started = self._read_at = time.perf_counter()
        self._first, self._evaluated = done, ""
        self._bar: Any = None
        self._speaks = speaks
        if speaks and sys.stderr.isatty():
            self._bar = tqdm(
                total=steps, initial=done, desc=name, unit="step", dynamic_ncols=True, mininterval=0.5, leave=False
            )

    def step(self, step: int) -> bool:
        """Called after every step; whether it is time to :meth:`show` how the epoch goes."""
        if self._bar is not None:
            self._bar.update(1)
        interval = LINE_SECONDS if self._bar is None else BAR_SECONDS
        return self._speaks and step < self.steps and time.perf_counter() - self._read_at >= interval

    def evaluated(self, step: int, split: str, test: Evaluation, train: Evaluation) -> None:
        """Called after an evaluation; the last one is always shown."""
        self._evaluated = f", {split} error {100 * test.error:.2f}%"
        if self._bar is not None or step == self.steps:
            self.show(step, train)

    def close(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def show(self, step: int, train: Evaluation) -> None:
        """Says how it goes; ``train`` is what was measured since the last evaluation."""
        if not self._speaks:
            return
        self._read_at = now = time.perf_counter()
        figures = f"train loss {train.loss:.3f}, train error {100 * train.error:.2f}%{self._evaluated}"
        seconds = max(now - self._started, 1e-9) / max(step - self._first, 1)
        speed = f"{self.batch_size / seconds:,.0f} images/s"
        if self._bar is not None and step < self.steps:
            self._bar.set_postfix_str(f"{figures}, {speed}")
            return
        self.close()
        # The speed counts evaluations, as the time left does; the record says that of training alone.
        left = f"{speed}, {duration(seconds * (self.steps - step))} left" if step < self.steps else "done"
        print(f"{self.name}: step {step:,} of {self.steps:,}, {figures}, {left}", flush=True)


def duration(seconds: float) -> str:
    """Seconds as a person says them: ``41 s``, ``12 min``, ``3 h 05 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
