"""A run in TensorBoard: one writer for each phase, and one for the run as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: The tag of a metric: what it was measured on, then what it is. Other metrics are their own tags.
TAGS = {
    "train_loss": "train/loss",
    "train_error": "train/error",
    "loss": "{split}/loss",
    "error": "{split}/error",
    "error_10_views": "{split}/error_10_views",
    "lr": "train/learning_rate",
    "images_per_second": "train/images_per_second",
}
#: Metrics that are logged a second time, with the steps of each phase counted from its own beginning.
BY_PHASE = {"loss": "by_phase/{split}_loss", "error": "by_phase/{split}_error", "train_error": "by_phase/train_error"}
#: Metrics that come in large numbers: a flush takes 5 ms, so the flush of the next other metric writes them.
MANY = ("slopes/", "norms/", "bn_drift/", "after_morph/growth:")
#: Width of a picture in pixels: TensorBoard drops pixels of a wider one, and its text becomes illegible.
WIDTH = 340
#: The folder of the whole run; those of phases are ``phase<i>_<name>``.
WHOLE = "run"


class PhaseLog:
    """A :data:`~morphnet.train.phase.Log` that writes the metrics of one phase to ``folder``.

    If it cannot be written, one line says so and training continues without it.

    Args:
        split: what errors are counted on, ``test`` or ``validation``.
        offset: iterations of the phases before this one.
        writes: False in every process but the first.
    """

    def __init__(self, folder: Path, split: str, offset: int, writes: bool = True) -> None:
        self.folder, self.split, self.offset = folder, split, offset
        self._writer: Any = None
        self._silent = not writes

    def __call__(self, step: int, metric: str, value: float) -> None:
        def write(writer: Any) -> None:
            writer.add_scalar(TAGS.get(metric, metric).format(split=self.split), value, self.offset + step)
            if metric in BY_PHASE:
                writer.add_scalar(BY_PHASE[metric].format(split=self.split), value, step)
            if not metric.startswith(MANY):
                writer.flush()  # what is not on the disk when the process is killed is not logged again

        self._write(step, write)

    def text(self, tag: str, text: str) -> None:
        """A text as it stands, at the beginning of the phase."""
        lines = "\n".join(f"    {line}" for line in text.splitlines())  # as code in Markdown
        self._write(0, lambda writer: writer.add_text(tag, lines, self.offset))

    def picture(self, tag: str, figure: Figure) -> None:
        """A figure, at the beginning of the phase."""
        self._write(0, lambda writer: writer.add_image(tag, _pixels(figure), self.offset, dataformats="HWC"))

    def close(self) -> None:
        """Writes the rest."""
        if self._writer is not None:
            self._write(0, lambda writer: writer.close())

    def _write(self, step: int, write: Callable[[Any], None]) -> None:
        if self._silent:
            return
        self._silent = True  # unless all goes well
        with _optional(self.folder, "training goes on"):
            if self._writer is None:
                from torch.utils.tensorboard import SummaryWriter

                # Hides what a killed attempt wrote from here on: it is written again.
                self._writer = SummaryWriter(str(self.folder), purge_step=self.offset + step)
            write(self._writer)
            self._silent = False


def write_layout(tensorboard: Path, split: str) -> None:
    """Charts of the custom scalars tab, each with all phases of a run."""
    from torch.utils.tensorboard import SummaryWriter

    layout = {
        "The run": {
            f"{split} error": ["Multiline", [f"^{split}/error$"]],
            "training error": ["Multiline", ["^train/error$"]],
            "learning rate": ["Multiline", ["^train/learning_rate$"]],
            "images per second": ["Multiline", ["^train/images_per_second$"]],
        },
        "Phases from their own beginning": {f"{split} error": ["Multiline", [f"^by_phase/{split}_error$"]]},
        "Inside the network": {
            "slopes (1: linear)": ["Multiline", ["^slopes/"]],
            "norm of weights": ["Multiline", ["^norms/weights"]],
            "norm of gradients": ["Multiline", ["^norms/gradients"]],
            "drift of running means": ["Multiline", ["^bn_drift/"]],
        },
    }
    with _optional(tensorboard), SummaryWriter(str(tensorboard / WHOLE)) as writer:
        writer.add_custom_scalars(layout)


def write_hparams(tensorboard: Path, settings: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
    """Settings and final metrics of a run, for the hparams tab."""
    from torch.utils.tensorboard import SummaryWriter
    from torch.utils.tensorboard.summary import hparams

    plain = {key: value if isinstance(value, (bool, int, float)) else str(value) for key, value in settings.items()}
    with _optional(tensorboard), SummaryWriter(str(tensorboard / WHOLE)) as writer:
        for summary in hparams(plain, dict(metrics)):
            writer.file_writer.add_summary(summary)
        for name, value in metrics.items():
            writer.add_scalar(name, value)


@contextmanager
def _optional(folder: Path, consequence: str = "the run goes on") -> Iterator[None]:
    """If the log cannot be written, one line says so."""
    try:
        yield
    except OSError as error:
        print(f"{folder}: TensorBoard's log cannot be written ({error.strerror}); {consequence}", flush=True)


def _pixels(figure: Figure) -> Any:
    """``figure`` as an array of shape (height, width, 3)."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set_dpi(min(110, WIDTH / figure.get_figwidth()))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()
