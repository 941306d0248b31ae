"""What the paper's tables say, and how to build the network of each row."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from morphnet.flops import count_macs
from morphnet.morph import plan_morph
from morphnet.nn.resnet import Architecture, bare, cifar_architecture, imagenet_architecture
from morphnet.spec import parse_spec


@dataclass(frozen=True)
class PaperRow:
    """One row of Tables 1 to 3.

    Attributes:
        table: 1 (CIFAR-10), 2 (CIFAR-100) or 3 (ImageNet).
        depth: layers of the parent.
        spec: of the last morph; None for the parent itself.
        via: the specs of the intermediate phases, in order.
        error: as a fraction; on ImageNet top-1, 1-view.
        error_ten_views: the same over ten views, in Table 3 alone.
        flop: in millions, and ``relative_flop`` over the parent's, both as printed.
    """

    table: int
    name: str
    depth: int
    spec: str | None
    via: tuple[str, ...]
    error: float
    flop: float
    relative_flop: float
    error_ten_views: float | None = None

    @property
    def parent(self) -> Architecture:
        """The architecture of the network the row starts from."""
        if self.table == 3:
            return imagenet_architecture(self.depth)
        return cifar_architecture(self.depth, 10 if self.table == 1 else 100)

    @property
    def network(self) -> Architecture:
        """The architecture whose FLOP the row states."""
        return self.parent if self.spec is None else plan_morph(self.parent, parse_spec(self.spec)).child

    @property
    def input_size(self) -> tuple[int, int, int, int]:
        return (1, 3, 224, 224) if self.table == 3 else (1, 3, 32, 32)


#: Every row of Tables 1 to 3. ResNets of Table 1 are those of He et al. 2015, as the paper cites them.
PAPER = (
    PaperRow(1, "resnet20", 20, None, (), 0.0875, 40.8, 1.0),
    PaperRow(1, "morph20_1c1", 20, "1c1", (), 0.0735, 44.0, 1.08),
    PaperRow(1, "morph20_3c1", 20, "3c1", (), 0.0710, 56.5, 1.38),
    PaperRow(1, "morph20_3c1", 20, "3c1", ("1c1",), 0.0683, 56.5, 1.38),
    PaperRow(1, "morph20_3c3", 20, "3c3", (), 0.0697, 69.1, 1.69),
    PaperRow(1, "morph20_3c3", 20, "3c3", ("1c1", "3c1"), 0.0666, 69.1, 1.69),
    PaperRow(1, "morph20_1c1_2branch", 20, "1c1_2branch", (), 0.0726, 47.1, 1.15),
    PaperRow(1, "morph20_1c1_2branch", 20, "1c1_2branch", ("1c1", "1c1_2branch_half"), 0.0660, 47.1, 1.15),
    PaperRow(1, "resnet56", 56, None, (), 0.0697, 125.7, 1.0),
    PaperRow(1, "morph56_1c1_half", 56, "1c1_half", (), 0.0568, 132.0, 1.05),
    PaperRow(1, "morph56_1c1", 56, "1c1", (), 0.0594, 138.3, 1.10),
    PaperRow(1, "morph56_1c1", 56, "1c1", ("1c1_half",), 0.0537, 138.3, 1.10),
    PaperRow(1, "resnet110", 110, None, (), 0.0661, 253.1, 1.0),
    PaperRow(1, "morph110_1c1_half", 110, "1c1_half", (), 0.0574, 267.3, 1.06),
    PaperRow(1, "morph110_1c1", 110, "1c1", (), 0.0593, 279.9, 1.11),
    PaperRow(1, "morph110_1c1", 110, "1c1", ("1c1_half",), 0.0550, 279.9, 1.11),
    PaperRow(2, "resnet20", 20, None, (), 0.3282, 40.8, 1.0),
    PaperRow(2, "morph20_1c1", 20, "1c1", (), 0.317, 44.0, 1.08),
    PaperRow(2, "resnet56", 56, None, (), 0.2983, 125.8, 1.0),
    PaperRow(2, "morph56_1c1", 56, "1c1", ("1c1_half",), 0.2752, 138.3, 1.10),
    PaperRow(2, "resnet110", 110, None, (), 0.2846, 253.2, 1.0),
    PaperRow(2, "morph110_1c1", 110, "1c1", ("1c1_half",), 0.2681, 279.9, 1.11),
    PaperRow(3, "resnet18", 18, None, (), 0.3256, 1814.0, 1.0, 0.3086),
    PaperRow(3, "morph18_1c1", 18, "1c1", (), 0.3169, 1917.0, 1.06, 0.2990),
)


@dataclass(frozen=True)
class CountedRow:
    """A row of the paper with the cost of its network: multiply-accumulates, and their ratio to the parent's.

    ``difference`` is counted - printed, in millions; below half of the last printed digit the two agree.
    """

    row: PaperRow
    macs: int
    relative: float
    difference: float

    @property
    def agrees(self) -> bool:
        """Whether the count rounds to the printed FLOP: one decimal in Tables 1 and 2, a whole million in Table 3."""
        digits = 0 if self.row.table == 3 else 1
        return round(self.macs / 1e6, digits) == self.row.flop


@cache
def count_rows() -> tuple[CountedRow, ...]:
    """Every row of the paper, counted on the real network, once in a process."""
    counted: dict[tuple[int, int, str | None], int] = {}
    rows = []
    for row in PAPER:
        key = (row.table, row.depth, row.spec)
        if key not in counted:
            counted[key] = count_macs(bare(row.network), row.input_size)
        macs = counted[key]
        parent = counted[(row.table, row.depth, None)]
        rows.append(CountedRow(row, macs, macs / parent, macs / 1e6 - row.flop))
    return tuple(rows)
