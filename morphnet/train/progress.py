"""The progress of a run: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

from morphnet.train.evaluate import Evaluation

#: Seconds between two plain lines of one phase, between two readings on a terminal, and the longest silence.
LINE_SECONDS, BAR_SECONDS, SILENCE_SECONDS = 25.0, 2.0, 30.0


class Heartbeat:
    """Prints ``line()`` after ``SILENCE_SECONDS`` without a print; not on a terminal, which has a bar."""

    def __init__(self, line: Callable[[], str], speaks: bool = True) -> None:
        self._line, self._over = line, threading.Event()
        self.printed()
        if speaks and not sys.stderr.isatty():
            threading.Thread(target=self._beat, daemon=True).start()

    def printed(self) -> None:
        """Called when something has been printed."""
        self._at = time.monotonic()

    def close(self) -> None:
        self._over.set()

    def __enter__(self) -> Heartbeat:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _beat(self) -> None:
        while not self._over.wait(max(0.1, self._at + SILENCE_SECONDS - time.monotonic())):
            if time.monotonic() - self._at >= SILENCE_SECONDS:
                self.printed()
                print(self._line(), flush=True)


class Progress:
    """Loss, error, images/s and time left of one phase; silent unless ``speaks``.

    Attributes:
        doing: what the phase does now, in a word.
    """

    def __init__(self, name: str, steps: int, batch_size: int, done: int = 0, speaks: bool = True) -> None:
        self.name, self.steps, self.batch_size = name, steps, batch_size
        self.doing = "preparing"
        self._started = self._read_at = time.perf_counter()
        self._first, self._step, self._evaluated = done + 1, done, ""
        self._bar: Any = None
        self._speaks = speaks
        self._heartbeat = Heartbeat(self._line, speaks)
        if speaks and sys.stderr.isatty():
            self._bar = tqdm(
                total=steps, initial=done, desc=name, unit="step", dynamic_ncols=True, mininterval=0.5, leave=False
            )

    def step(self, step: int) -> bool:
        """Called after every step; returns whether it is time to :meth:`show` the figures of the epoch."""
        if self._step < self._first:  # the first one may have compiled, so that the pace is of those after it
            self._started = time.perf_counter()
        self._step, self.doing = step, "training"
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
        """Removes the bar, and ends the heartbeat."""
        self._heartbeat.close()
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def show(self, step: int, train: Evaluation) -> None:
        """Shows the figures; ``train`` is what was measured since the last evaluation."""
        if not self._speaks:
            return
        self._read_at = time.perf_counter()
        figures = f"train loss {train.loss:.3f}, train error {100 * train.error:.2f}%{self._evaluated}"
        if self._bar is not None and step < self.steps:
            self._bar.set_postfix_str(f"{figures}{self._pace(step)}")
            return
        self._heartbeat.printed()
        if step == self.steps:
            self.close()
        # Speed and time left include evaluations; the record has the speed of training alone.
        pace = self._pace(step) if step < self.steps else ", done"
        print(f"{self.name}: step {step:,} of {self.steps:,}, {figures}{pace}", flush=True)

    def _pace(self, step: int) -> str:
        """Images a second and the time left, in words; nothing before there are two steps."""
        if step <= self._first:
            return ""
        seconds = max(time.perf_counter() - self._started, 1e-9) / (step - self._first)
        return f", {self.batch_size / seconds:,.0f} images/s, {duration(seconds * (self.steps - step))} left"

    def _line(self) -> str:
        """The progress without reading the device."""
        step = self._step
        return f"{self.name}: {self.doing}, step {step:,} of {self.steps:,}{self._evaluated}{self._pace(step)}"


def duration(seconds: float) -> str:
    """Seconds in words: ``41 s``, ``12 min``, ``3 h 05 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
