"""The dataclasses that ``configs/`` must satisfy: a mistyped key or value is refused before anything runs.

Standard library only. ``"???"`` marks a value that has to be given.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class NetworkConfig:
    """A ResNet; classes and image channels come from the data."""

    family: str = "cifar"  # cifar | imagenet
    depth: int = 20  # 6n+2 | 18, 34, 50, 101, 152
    widths: list[int] | None = None  # channels of each stage; null: 16, 32, 64 | 64, 128, 256, 512
    shortcut: str = "projection"  # projection | padding
    activation: str = "relu"  # relu | prelu | gelu | pgelu | ...


@dataclass
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


@dataclass
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


@dataclass
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


@dataclass
class AfterConfig:
    """How the phases after the first begin, and what of the schedule is theirs (null: as in ``schedule``, ``optim``).

    It holds for children and for controls alike, except those trained from scratch.
    """

    lr: float | None = None  # null here and below: as in schedule and optim
    milestones: list[float] | None = None
    factor: float | None = None
    decay: str | None = None  # step | cosine
    warmup_steps: int | None = None
    warmup_lr: float | None = None
    warmup: str | None = None  # constant | linear
    kept_lr: float = 1.0  # rate of parameters that were there before the morph, over that of new ones
    momentum: str = "fresh"  # fresh | kept: what the phase before ended with, zeros for new parameters
    shrink: float = 1.0  # weights become shrink times themselves
    perturb: float = 0.0  # plus perturb times random ones


@dataclass
class PhaseConfig:
    """One phase: what it starts with, and what of the schedule is its own (null: as in ``after``, or everywhere)."""

    name: str | None = None
    morph: str | None = None  # the spec its network is morphed to first
    module: Any = None  # or a module that layers become: a name in configs/module, or {edges: ..., channels: ...}
    deepen: Any = None  # or a layer morph: kernel of a second convolution
    widen: float | None = None  # factor of output channels
    enlarge: Any = None  # kernel to grow to
    target: str | None = None  # of module, deepen, widen or enlarge: a pattern of layer names
    steps: int | None = None  # null here and below: as in after, or in schedule and optim
    epochs: float | None = None
    lr: float | None = None
    milestones: list[float] | None = None
    factor: float | None = None
    warmup_steps: int | None = None
    warmup_lr: float | None = None


@dataclass
class LayerMorphConfig:
    """How layers that a ``target`` names are morphed."""

    bn: str = "none"  # none | calibrated | paper: a batch normalisation after every new convolution
    padding: str = "exact"  # exact | same
    method: str = "auto"  # auto | als
    init: str = "dense"  # dense | sparse; of specs too, where padding is exact


@dataclass
class MorphConfig:
    """How networks are morphed, in every phase; bn, padding, split and width are those of a spec."""

    bn: str = "calibrated"  # calibrated | folded | paper | paper_first
    padding: str = "same"  # same | exact
    split: float = 0.5  # share of the identity that becomes the first branch
    width: float = 1.0  # C_l over the block's channels
    activation: str = "prelu"  # of the new places
    calibration_batches: int = 8  # of 128 images: half measured on, half kept for the proof
    layers: LayerMorphConfig = field(default_factory=LayerMorphConfig)


@dataclass
class EdgeConfig:
    """A convolution of a module, or with ``identity`` the map ``scale * I``."""

    source: str = "???"
    target: str = "???"
    kernel: Any = 1  # odd: one number, or [height, width]
    identity: bool = False
    scale: float = 1.0  # of an identity


@dataclass
class ModuleConfig:
    """A module, as :meth:`morphnet.graph.ModuleGraph.from_dict` reads it."""

    edges: list[EdgeConfig] = field(default_factory=list)
    channels: dict[str, Any] = field(default_factory=dict)  # of inner vertices: 32, or 0.5x of max(C_i, C_j)


@dataclass
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
    watch_steps: int = (
        0  # first steps of a phase after the parent's in which slopes and growth are written to watch.csv
    )
    watch_every: int = 10  # steps between two rows there


@dataclass
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


@dataclass
class MorphCommandConfig:
    """``morphnet morph``: a spec for the shortcuts, or a module or layer morph for the layers of ``target``."""

    parent: str = "???"  # a run directory, a saved network, a state dict, or torchvision:NAME
    output: str = "???"  # a new folder
    morph: str | None = None  # {k1}c{k2}[_2branch][_half], for residual shortcuts; or for the layers of target:
    module: ModuleConfig = field(default_factory=ModuleConfig)
    deepen: Any = None  # kernel of a second convolution
    widen: float | None = None  # factor of output channels
    enlarge: Any = None  # kernel to grow to
    target: str | None = None  # pattern of layer names: 'layer3.*.conv2'
    weights: str = "none"  # of torchvision:NAME: none | default | a path
    bn: str | None = None  # calibrated | folded | paper | paper_first; with target none, calibrated or paper
    padding: str | None = None  # same | exact; null: same with morph, exact with target
    method: str = "auto"  # auto | als (module) | net2net (morph, deepen)
    init: str = "dense"  # dense | sparse
    split: float = 0.5  # share of the identity that becomes the first branch
    width: float = 1.0  # C_l over the block's channels
    activation: str = "prelu"  # of the new places
    calibration_batches: int = 8  # of 128 images: half measured on, half kept for the proof
    input_size: list[int] | None = None  # [C,H,W] of the random inputs of the proof, where there is no data
    seed: int = 0
    device: str = "auto"  # auto | cpu | cuda | cuda:0
    network: NetworkConfig | None = None
    data: DataConfig | None = None


@dataclass
class EvalConfig:
    """``morphnet eval``."""

    parent: str = "???"  # a run directory, a saved network, a state dict, or torchvision:NAME
    weights: str = "none"  # of torchvision:NAME: none | default | a path
    device: str = "auto"  # auto | cpu | cuda | cuda:0
    precision: str = "float32"  # float32 | bfloat16 | float16 | float64
    format: str = "text"  # text | json
    predictions: str | None = None  # FILE.npy for the class of every image; of ten views FILE_10_views.npy too
    network: NetworkConfig | None = None
    data: DataConfig | None = None  # data.views=10 counts over ten views as well


@dataclass
class CollapseConfig:
    """``morphnet collapse``."""

    parent: str = "???"  # a run directory or a saved network, with morphed modules
    output: str = "???"  # a new folder
    tolerance: float = 0.05  # distance of slopes from 1 up to which a module counts as linear
    weights: str = "none"  # of torchvision:NAME: none | default | a path
    device: str = "auto"  # auto | cpu | cuda | cuda:0
    network: NetworkConfig | None = None
    data: DataConfig | None = None


@dataclass
class ExportConfig:
    """``morphnet export``."""

    parent: str = "???"  # a run directory, a saved network, a state dict, or torchvision:NAME
    output: str = "???"  # a new folder
    format: str = "onnx"  # onnx | program (torch.export) | source (model.py and weights.pt, without morphnet)
    input_size: list[int] | None = None  # [C,H,W] of its images; null: as its file says
    weights: str = "none"  # of torchvision:NAME: none | default | a path
    network: NetworkConfig | None = None
    data: DataConfig | None = None


@dataclass
class FlopsConfig:
    """``morphnet flops``."""

    format: str = "text"  # text | markdown | csv | latex | json


@dataclass
class GraphConfig:
    """``morphnet graph``."""

    module: ModuleConfig = field(default_factory=ModuleConfig)  # without edges: not given
    morph: str | None = None  # {k1}c{k2}[_2branch]: the module of a spec
    in_channels: int = 16  # of the convolution it grows from
    out_channels: int = 16
    kernel: Any = None  # of the parent; null: 1 with morph, whose parent is an identity, else 3
    solve: Any = field(
        default_factory=list
    )  # one or a list of dense, sparse, als: filters for a random parent (spec: identity)
    seed: int = 0  # of that parent and of the filters
    output: str = "outputs/graph"  # folder of the pictures
    format: str = "text"  # text | json
    pictures: bool = True


@dataclass
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
