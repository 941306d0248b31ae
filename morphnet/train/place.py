"""Where a phase is trained, as a value."""

from __future__ import annotations

from dataclasses import dataclass, field

from morphnet.train.engine import Engine
from morphnet.train.interruption import Interruption
from morphnet.train.ranks import Ranks


@dataclass(frozen=True)
class Place:
    """The device, and the processes that compute together.

    Attributes:
        engine: device, precision and memory format.
        stop: tells the processes to stop, all after the same step.
    """

    engine: Engine
    stop: Interruption = field(default_factory=Interruption)

    @property
    def ranks(self) -> Ranks:
        """The processes that share every batch and every evaluation."""
        return self.stop.ranks

    @property
    def is_cpu(self) -> bool:
        """Whether losses can be read within an epoch without making a device wait."""
        return self.engine.device.type == "cpu"
