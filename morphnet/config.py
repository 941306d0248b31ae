"""The settings of every command: their keys, types, defaults, what they mean, and what is refused.

``configs/`` is merged into these dataclasses, and the code uses them as they are. A comment of a key is its ``--help``.
Standard library only. ``"???"`` marks a value that has to be given.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Collection
from dataclasses import FrozenInstanceError, dataclass, field, fields
from math import inf
from typing import TYPE_CHECKING, Any, TypeVar, dataclass_transform

from morphnet.settings import is_line

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")
#: What ``bn``, ``padding``, ``method`` and ``init`` may be: of a spec, and of the layers of ``target``; defaults first.
OF_SPECS = {
    "bn": ("calibrated", "folded", "paper", "paper_first"),
    "padding": ("same", "exact"),
    "method": ("auto", "net2net"),
    "init": ("dense", "sparse"),
}
OF_LAYERS = {
    "bn": ("none", "calibrated", "paper"),
    "padding": ("exact", "same"),
    "method": ("auto", "als", "net2net"),
    "init": ("dense", "sparse"),
}


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def immutable(cls: type[T]) -> type[T]:
    """``cls`` as a dataclass whose fields are set once.

    With ``frozen=True`` OmegaConf would make the nodes of its schema read-only, and overrides could not be merged.
    """

    def set_once(self: object, name: str, value: Any) -> None:
        if name in vars(self):
            raise FrozenInstanceError(f"cannot assign to field {name!r}")
        object.__setattr__(self, name, value)

    cls.__setattr__ = set_once  # type: ignore[assignment,method-assign]
    return dataclass(cls)


def _are_fractions(milestones: list[float]) -> bool:
    return all(0 < m < 1 for m in milestones) and list(milestones) == sorted(milestones)


#: What a key of such a name has to be, whatever group it is in.
RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "lr": (lambda v: 0 < v < inf, "a positive number is needed"),
    "warmup_lr": (lambda v: 0 < v < inf, "a positive number is needed"),
    "factor": (lambda v: 0 < v < inf, "a positive number is needed"),
    "scale": (lambda v: 0 < v < inf, "a positive number is needed; 0.1 makes every phase a tenth as long"),
    "warmup_steps": (lambda v: v >= 0, "a number from 0 is needed"),
    "milestones": (_are_fractions, "fractions of the phase, between 0 and 1 and in order, are needed"),
    "batch_size_per_process": (lambda v: v >= 1, "a number from 1 is needed"),
    "weight_decay": (lambda v: 0 <= v < inf, "a number from 0 is needed, such as 1e-4"),
    "label_smoothing": (lambda v: 0 <= v < 1, "from 0 to below 1 is needed"),
    "ema": (lambda v: 0 <= v < 1, "a decay from 0 to below 1 is needed, such as 0.999; 0 for none"),
    "kept_lr": (lambda v: 0 <= v < inf, "a number from 0 is needed; 0.1 makes kept layers slower"),
    "shrink": (lambda v: 0 < v <= 1, "a number above 0 and up to 1 is needed"),
    "perturb": (lambda v: 0 <= v < inf, "a number from 0 is needed"),
    "shorter_side": (lambda v: len(v) == 2, "[shortest, longest] in pixels is needed, as [256,480]"),
    "workers": (lambda v: 0 <= v <= 256, "a number of processes from 0 to 256 is needed"),
    "devices": (lambda v: v >= 1, "a number of processes from 1 is needed"),
    "evaluate_every": (lambda v: v >= 1, "a number of epochs from 1 is needed"),
    "checkpoint_seconds": (lambda v: v >= 0, "a number from 0 is needed"),
    "restarts": (lambda v: v >= 0, "a number from 0 is needed"),
    "stop_after": (lambda v: 0 < v < threading.TIMEOUT_MAX, "a number of seconds above 0 is needed"),
    "threads": (lambda v: 1 <= v <= 1024, "a number from 1 to 1024 is needed, or null for all cores"),
    "watch_steps": (lambda v: v >= 0, "a number of steps from 0 is needed"),
    "watch_every": (lambda v: v >= 1, "a number of steps from 1 is needed"),
}
CHOICES = {"family": ("cifar", "imagenet"), "decay": ("step", "cosine"), "warmup": ("constant", "linear")}


def check(prefix: str, config: DataclassInstance) -> None:
    """Refuses values that ``RULES`` and ``CHOICES`` do not allow; None is not checked."""
    for key, value in ((f.name, getattr(config, f.name)) for f in fields(config)):
        if value is not None and key in RULES and not RULES[key][0](value):
            raise ValueError(f"{prefix}{key}={value}: {RULES[key][1]}")
        if value is not None and key in CHOICES and value not in CHOICES[key]:
            raise ValueError(f"{prefix}{key}={value!r}; expected one of {', '.join(CHOICES[key])}")


@immutable
class NetworkConfig:
    """A ResNet; classes and image channels come from the data."""

    family: str = "cifar"  # cifar | imagenet
    depth: int = 20  # 6n+2 | 18, 34, 50, 101, 152
    widths: list[int] | None = None  # channels of each stage; null: 16, 32, 64 | 64, 128, 256, 512
    shortcut: str = "projection"  # projection | padding
    activation: str = "relu"  # relu | prelu | gelu | pgelu | ...

    def __post_init__(self) -> None:
        check("network.", self)


@immutable
class DataConfig:
    """A data set and how it is augmented."""

    name: str = "???"  # of the data: digits | cifar10 | cifar100 | any name for an .npz or a folder
    path: str | None = None  # an .npz of train_images, ..., or with crop a folder of train/<class>/ and val/<class>/
    root: str = "data"  # where torchvision keeps its downloads
    download: bool = False
    normalize: Any = None  # own | imagenet | [[means],[stds]]; null: the parent's if its file says, else own
    validation: int = 0  # training images held out, in place of the test images; 5000 for CIFAR's 45k/5k
    validation_seed: int = 0
    pad: int = 0  # zeros on each side before the random crop
    flip: bool = False  # mirror at random
    policy: str = "none"  # of torchvision, on each image in memory: none | randaugment | trivialaugment | cutout
    # Of images in files:
    crop: int | None = None  # side of the square that a network sees; 224
    shorter_side: list[int] | None = None  # range of the random length of an image's shorter side; [256, 480]
    eval_shorter_side: int = 256  # its length for evaluation
    views: int = 1  # 10: errors over ten views as well, where a phase ends
    labels: str | None = None  # ground truth of a flat val/; null: looked for in path
    exif: bool = False  # turn images as their EXIF orientation says
    workers: int | None = None  # processes that decode, for each process that trains; null: one for each core, up to 16

    def __post_init__(self) -> None:
        check("data.", self)
        if not is_line(self.name):
            raise ValueError(f"data.name={self.name!r}: a name of one line is needed, such as data.name=mine")
        in_files = {"shorter_side": self.shorter_side, "labels": self.labels, "workers": self.workers}
        in_files["views"] = None if self.views == 1 else self.views
        for key, value in in_files.items():
            if self.crop is None and value is not None:
                needed = "goes with images in files (data=imagenet, data=folder), which have data.crop"
                raise ValueError(f"data.{key}={value} {needed}")
        if self.crop is not None and self.policy != "none":
            needed = "goes with images in memory; those in files have shorter_side, flip"
            raise ValueError(f"data.policy={self.policy} {needed}")
        if self.crop is not None and self.pad:
            raise ValueError(f"data.pad={self.pad} goes with images in memory; of files give data.shorter_side")


@immutable
class OptimConfig:
    """SGD."""

    batch_size: int = 128  # in total, over all processes
    batch_size_per_process: int | None = None  # or this many in each of them
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4  # not on the slopes of parametric activations
    label_smoothing: float = 0.0
    ema: float = 0.0  # decay of a moving average of the weights, which is evaluated and saved; 0: none

    def __post_init__(self) -> None:
        check("optim.", self)
        if not 0 <= self.momentum < 1:
            raise ValueError(f"optim.momentum={self.momentum}: a number from 0 to below 1 is needed")
        if self.nesterov and self.momentum == 0:
            raise ValueError("optim.nesterov=true needs optim.momentum above 0")


@immutable
class ScheduleConfig:
    """The learning rate of a phase; every length is multiplied by ``scale``."""

    steps: int | None = None  # length of a phase in iterations, or
    epochs: float | None = None  # in epochs
    milestones: list[float] = field(default_factory=lambda: [0.5, 0.75])  # fractions of the phase
    factor: float = 0.1  # the rate is multiplied by this at each milestone
    decay: str = "step"  # step, at the milestones | cosine, to 0
    warmup_steps: int = 0
    warmup_lr: float = 0.01
    warmup: str = "constant"  # constant, at warmup_lr | linear, from there to lr
    scale: float = 1.0

    def __post_init__(self) -> None:
        check("schedule.", self)


@immutable
class OwnRates:
    """What phases may have of their own in place of ``schedule`` and ``optim``."""

    lr: float | None = None  # null here and below: of phases as in after, of after as in schedule and optim
    milestones: list[float] | None = None
    factor: float | None = None
    warmup_steps: int | None = None
    warmup_lr: float | None = None


@immutable
class AfterConfig(OwnRates):
    """How the phases after the first begin, and what of the schedule is theirs.

    It holds for children and for controls alike, except those trained from scratch.

    Source: Ash and Adams 2020, "On warm-starting neural network training", for ``shrink`` and ``perturb``.
    """

    decay: str | None = None  # step | cosine; null: as in schedule
    warmup: str | None = None  # constant | linear; null: as in schedule
    kept_lr: float = 1.0  # rate of parameters that were there before the morph, over that of new ones
    momentum: str = "fresh"  # fresh | kept: what the phase before ended with, zeros for new parameters
    shrink: float = 1.0  # weights become shrink times themselves
    perturb: float = 0.0  # plus perturb times random ones

    def __post_init__(self) -> None:
        check("after.", self)
        if self.momentum not in ("fresh", "kept"):
            raise ValueError(f"after.momentum={self.momentum!r}; expected fresh or kept")

    @property
    def changes_weights(self) -> bool:
        return self.shrink != 1 or self.perturb != 0


@immutable
class PhaseConfig(OwnRates):
    """One phase: what it starts with, and what of the schedule is its own."""

    name: str | None = None
    morph: str | None = None  # the spec its network is morphed to first
    module: Any = None  # or a module that layers become: a name in configs/module, or {edges: ..., channels: ...}
    deepen: Any = None  # or a layer morph: kernel of a second convolution
    widen: float | None = None  # factor of output channels
    enlarge: Any = None  # kernel to grow to
    target: str | None = None  # of module, deepen, widen or enlarge: a pattern of layer names
    steps: int | None = None  # null: as in schedule
    epochs: float | None = None


@immutable
class MorphConfig:
    """How networks are morphed; null: the default of a spec, or of the layers of ``target``."""

    bn: str | None = None  # none | calibrated | folded | paper | paper_first; null: calibrated, with target none
    padding: str | None = None  # same | exact; null: same with a spec, exact with target
    method: str | None = None  # auto | als (modules) | net2net (specs, deepen); null: auto
    init: str | None = None  # dense | sparse; null: dense
    split: float = 0.5  # of a spec: share of the identity that becomes the first branch
    width: float = 1.0  # of a spec: C_l over the block's channels
    activation: str = "prelu"  # of the new places
    calibration_batches: int = 8  # of 128 images: half measured on, half kept for the proof

    def settings_of(self, layers: bool) -> dict[str, Any]:
        """The settings of :func:`morphnet.morph.morph_network` for named layers, or for a spec.

        A value that does not fit is that of the other kind, and the default takes its place.
        """
        expected = OF_LAYERS if layers else OF_SPECS
        given = {key: getattr(self, key) for key in expected}
        fitting = {key: given[key] if given[key] in known else known[0] for key, known in expected.items()}
        return {**fitting, "split": self.split, "width": self.width, "activation": self.activation}

    def check_fits(self, kinds: Collection[bool], prefix: str = "") -> None:
        """Refuses a value that no target can take; ``kinds`` has True for named layers and False for specs."""
        for key in OF_SPECS:
            value = getattr(self, key)
            expected = [e for layers in sorted(kinds) for e in (OF_LAYERS if layers else OF_SPECS)[key]]
            if value is not None and value not in expected:
                where = {1: " with target=" if True in kinds else " with a spec"}.get(len(kinds), "")
                known = ", ".join(dict.fromkeys(expected))
                raise ValueError(f"{prefix}{key}={value!r}; expected one of {known}{where}")


@immutable
class EdgeConfig:
    """A convolution of a module, or with ``identity`` the map ``scale * I``."""

    source: str = "???"
    target: str = "???"
    kernel: Any = 1  # odd: one number, or [height, width]
    identity: bool = False
    scale: float = 1.0  # of an identity


@immutable
class ModuleConfig:
    """A module, as :meth:`morphnet.graph.ModuleGraph.from_dict` reads it."""

    edges: list[EdgeConfig] = field(default_factory=list)
    channels: dict[str, Any] = field(default_factory=dict)  # of inner vertices: 32, or 0.5x of max(C_i, C_j)


@immutable
class TrainerConfig:
    """How the arithmetic is done."""

    compile: str = "auto"  # auto | true | false
    cuda_graph: str = "auto"  # auto | true | false: a step on a GPU is captured once and replayed
    evaluate_every: int = 1  # epochs
    checkpoint_seconds: float = 30.0
    sync_bn: bool = False  # batch normalisation over the whole batch of all processes; GPUs only
    restarts: int = 3  # of all processes, when one of them was killed
    stop_after: float | None = None  # seconds since the command began: a checkpoint, and exit code 143, as on SIGTERM
    threads: int | None = None  # of the CPU; null: all cores
    watch_steps: int = 0  # first steps of each phase after the parent whose slopes and growth go to watch.csv
    watch_every: int = 10  # steps between two rows there

    def __post_init__(self) -> None:
        check("trainer.", self)


@immutable
class TrainConfig:
    """``morphnet train``."""

    name: str = "custom"  # of the experiment, in records and run directories
    output: str = "outputs"  # where run directories are made
    seed: int = 0  # everything random is a function of it
    parent: str | None = None  # SOURCE of a trained parent, instead of training one
    new_head: bool = False  # with parent=: a new last layer for the classes of the data, which the first phase trains
    share_parent: bool = True  # phases trained here lie in output/parents, where other runs find them
    weights: str = "none"  # of torchvision:NAME: none | default | a path
    device: str = "auto"  # auto | cpu | cuda | cuda:0
    dry_run: bool = False  # say what would run, its parameters, FLOP, steps and time, and stop
    devices: int = 1  # processes on this machine that train together, one for each GPU; under torchrun its own number
    precision: str = "auto"  # of training: auto | float32 | bfloat16 | float16 | float64
    phases: list[PhaseConfig] = field(default_factory=list)
    controls: list[str] = field(default_factory=list)  # relu, prelu, linear, net2net, random, scratch, scratch_total
    network: NetworkConfig = field(default_factory=NetworkConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    after: AfterConfig = field(default_factory=AfterConfig)
    morphing: MorphConfig = field(default_factory=MorphConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)

    def __post_init__(self) -> None:
        check("", self)
        if self.parent is None and self.weights != "none":
            raise ValueError(f"weights={self.weights} goes with parent=torchvision:NAME; there is no parent")
        if self.parent is None and self.new_head:
            raise ValueError("new_head=true goes with parent=; a parent trained here has the classes of the data")
        for i, phase in enumerate(self.phases):
            check(f"phases.{i}.", phase)
            if phase.name is not None and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", phase.name):
                needed = "letters, digits, '_', '-' and '.' are needed; it names a folder"
                raise ValueError(f"phases.{i}.name={phase.name!r}: {needed}")


@immutable
class SourceConfig:
    """What the file of a parent does not say of itself."""

    weights: str = "none"  # of torchvision:NAME: none | default | a path
    network: NetworkConfig | None = None
    data: DataConfig | None = None


@immutable
class MorphCommandConfig(SourceConfig, MorphConfig):
    """``morphnet morph``: a spec for the shortcuts, or a module or layer morph for the layers of ``target``."""

    parent: str = "???"  # a run directory, a saved network, a state dict, or torchvision:NAME
    output: str = "???"  # a new folder
    morph: str | None = None  # {k1}c{k2}[_2branch][_half], for residual shortcuts; or for the layers of target:
    module: ModuleConfig = field(default_factory=ModuleConfig)
    deepen: Any = None  # kernel of a second convolution
    widen: float | None = None  # factor of output channels
    enlarge: Any = None  # kernel to grow to
    target: str | None = None  # pattern of layer names: 'layer3.*.conv2'
    input_size: list[int] | None = None  # [C,H,W] of the random inputs of the proof, where there is no data
    seed: int = 0
    device: str = "auto"  # auto | cpu | cuda | cuda:0


@immutable
class EvalConfig(SourceConfig):
    """``morphnet eval``; data.views=10 counts over ten views as well."""

    parent: str = "???"  # a run directory, a saved network, a state dict, or torchvision:NAME
    device: str = "auto"  # auto | cpu | cuda | cuda:0
    precision: str = "float32"  # float32 | bfloat16 | float16 | float64
    format: str = "text"  # text | json
    predictions: str | None = None  # FILE.npy for the class of every image; of ten views FILE_10_views.npy too


@immutable
class CollapseConfig(SourceConfig):
    """``morphnet collapse``."""

    parent: str = "???"  # a run directory or a saved network, with morphed modules
    output: str = "???"  # a new folder
    tolerance: float = 0.05  # distance of slopes from 1 up to which a module counts as linear
    device: str = "auto"  # auto | cpu | cuda | cuda:0


@immutable
class ExportConfig(SourceConfig):
    """``morphnet export``."""

    parent: str = "???"  # a run directory, a saved network, a state dict, or torchvision:NAME
    output: str = "???"  # a new folder
    format: str = "onnx"  # onnx | program (torch.export) | source (model.py and weights.pt, without morphnet)
    input_size: list[int] | None = None  # [C,H,W] of its images; null: as its file says


@immutable
class FlopsConfig:
    """``morphnet flops``."""

    format: str = "text"  # text | markdown | csv | latex | json


@immutable
class GraphConfig:
    """``morphnet graph``."""

    module: ModuleConfig = field(default_factory=ModuleConfig)  # without edges: not given
    morph: str | None = None  # {k1}c{k2}[_2branch]: the module of a spec
    in_channels: int = 16  # of the convolution it grows from
    out_channels: int = 16
    kernel: Any = None  # of the parent; null: 1 with morph, whose parent is an identity, else 3
    solve: Any = field(default_factory=list)  # dense | sparse | als, or a list: filters for a random parent
    seed: int = 0  # of that parent and of the filters
    output: str = "outputs/graph"  # folder of the pictures
    format: str = "text"  # text | json
    pictures: bool = True


@immutable
class ReportConfig:
    """``morphnet report``."""

    records: str = "outputs/**"  # a pattern of run directories or records
    table: str = "runs"  # runs | 1 | 2 | 3 (the paper's) | controls | first_steps
    with_recipe: str = "paper"  # paper | morphnet | modern: of the runs that count in the paper's tables
    format: str = "text"  # text | markdown | csv | latex | json | html: one page with everything, in output or report/
    output: str | None = None  # a folder for all tables in every format, the figures, and the page
    verify: bool = False  # evaluate the saved networks first; another error than recorded is one of the command
    collect: bool = False  # copy the records to results/records; those of uncommitted code are refused
    device: str = "auto"  # auto | cpu | cuda: of verify
