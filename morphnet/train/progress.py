"""What a run says while it trains: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any

from tqdm import tqdm

#: Seconds between two plain lines of one phase.
LINE_SECONDS = 30.0


class Progress:
    """Loss, error, images/s and time left of one phase."""

    def __init__(self, name: str, steps: int, done: int = 0) -> None:
        self.name, self.steps = name, steps
        self._started, self._first = time.perf_counter(), done
        self._last_line = self._started
        self._terminal = sys.stderr.isatty()
        self._bar: Any = tqdm(total=steps, initial=done, desc=name, unit="step", dynamic_ncols=True, mininterval=0.5) if self._terminal else None

    def step(self) -> None:
        if self._bar is not None:
            self._bar.update(1)

    def epoch(self, step: int, epoch: int, values: dict[str, Any], images_per_second: float) -> None:
        """Shows what was measured at the end of an epoch."""
        error = f"{100 * values['test_error']:.2f}%"
        if self._bar is not None:
            self._bar.set_postfix_str(
                f"loss {values['train_loss']:.3f}, error {100 * values['train_error']:.2f}%, "
                f"{values['evaluated_on']} error {error}, {images_per_second:,.0f} images/s"
            )
            return
        now = time.perf_counter()
        if now - self._last_line < LINE_SECONDS and step < self.steps:
            return
        self._last_line = now
        left = (now - self._started) / max(step - self._first, 1) * (self.steps - step)
        print(
            f"{self.name}: epoch {epoch}, step {step:,} of {self.steps:,}, loss {values['train_loss']:.3f}, "
            f"error {100 * values['train_error']:.2f}%, {values['evaluated_on']} error {error}, lr {values['lr']:.3g}, "
            f"{images_per_second:,.0f} images/s, {duration(left)} left",
            flush=True,
        )

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def duration(seconds: float) -> str:
    """Seconds as a person says them: ``41 s``, ``12 min``, ``3 h 05 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
