"""What a step needs to be captured as a CUDA graph, shown without a GPU: tensors of the device "meta" hold no values,
so that an operation which reads one back on the host raises, as it would stop a capture."""

from importlib import import_module
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from morphnet.config import OptimConfig
from morphnet.data import Augmentation, Split, TrainBatches
from morphnet.data.images import ImageData
from morphnet.morph import plan_morph
from morphnet.nn.resnet import ResNet, cifar_architecture
from morphnet.spec import parse_spec
from morphnet.train import choose_engine
from morphnet.train import step as step_module
from morphnet.train.average import WeightAverage
from morphnet.train.engine import Engine
from morphnet.train.handover import Beginning
from morphnet.train.optimizer import make_optimizer
from morphnet.train.step import Learner, TrainStep

META = torch.device("meta")


class Devices(TorchDispatchMode):
    """Every operation, and the devices of its tensors; SGD's fused kernel, which "meta" lacks, changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, set[torch.device]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        fused = func is torch.ops.aten._fused_sgd_.tensor_lr
        out = None if fused else func(*args, **(kwargs or {}))
        places = {t.device for t in tree_leaves((args, kwargs, out)) if isinstance(t, torch.Tensor)}
        self.seen.setdefault(str(func), set()).update(places)
        return out


def _step(network: nn.Module, **more: Any) -> TrainStep:
    def split(count: int) -> Split:
        images = torch.zeros(count, 3, 32, 32, dtype=torch.uint8, device=META)
        return Split(images, torch.zeros(count, dtype=torch.int64, device=META))

    data = ImageData("none", split(64), split(16), tuple("abcdefghij"), (0.5,) * 3, (0.25,) * 3)
    kept = frozenset(name for name, _ in network.named_parameters() if "conv1" in name)
    optimizer = make_optimizer(network, 0.1, OptimConfig(), Beginning(kept, 0.1))
    for group in optimizer.param_groups:
        group["lr"] = torch.zeros((), device=META)  # as `capture` makes it
    batches = TrainBatches(data, 16, Augmentation(4, True), (0, "phase"))
    step = TrainStep(Learner(network, optimizer, Engine(META, torch.float32, True), **more), batches)
    step.load(0)
    return step


@pytest.fixture(autouse=True)
def _fused_sgd_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer = import_module("torch.optim.optimizer")
    monkeypatch.setattr(optimizer, "_get_fused_kernels_supported_devices", lambda: ["meta"])


@pytest.mark.parametrize("spec", [None, "1c1", "3c3_half", "1c1_2branch"])
def test_a_step_reads_nothing_back_and_all_its_tensors_are_on_one_device(spec):
    parent = cifar_architecture(20, 10)
    architecture = parent if spec is None else plan_morph(parent, parse_spec(spec)).child
    with META:
        network = ResNet(architecture)
    step = _step(network, average=WeightAverage(network, 0.99), label_smoothing=0.1)
    with Devices() as devices:
        step._step_once()
    assert {"aten.convolution_backward.default", "aten._fused_sgd_.tensor_lr", "aten.lerp_.Tensor"} <= set(devices.seen)
    assert {name: places for name, places in devices.seen.items() if places - {META}} == {}


def test_random_numbers_in_a_step_are_a_function_of_the_step():
    split = Split(torch.zeros(48, 3, 8, 8, dtype=torch.uint8), torch.zeros(48, dtype=torch.int64))
    data = ImageData("none", split, split, tuple("abcdefghij"), (0.5,) * 3, (0.25,) * 3)
    drawn: list[float] = []
    for order in ((0, 1, 2), (2, 1)):
        model = nn.Sequential(nn.Flatten(), nn.Linear(192, 10))
        model.register_forward_pre_hook(lambda *_: drawn.append(float(torch.rand(()))))
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        batches = TrainBatches(data, 16, Augmentation(1, True), (0, "phase"))
        step = TrainStep(Learner(model, optimizer, Engine(torch.device("cpu"))), batches)
        step.load(0)
        for at in order:
            step.run(at, 0.1)
    assert drawn[3:] == [drawn[2], drawn[1]]
    assert len(set(drawn)) == 3


@pytest.mark.parametrize(("network", "seeded"), [(nn.Dropout(0.5), [0, 1, 2]), (nn.Identity(), [0])])
def test_generators_are_seeded_where_a_step_draws(monkeypatch, network, seeded):
    split = Split(torch.zeros(48, 3, 8, 8, dtype=torch.uint8), torch.zeros(48, dtype=torch.int64))
    data = ImageData("none", split, split, tuple("abcdefghij"), (0.5,) * 3, (0.25,) * 3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 10), network)
    batches = TrainBatches(data, 16, Augmentation(1, True), (0, "phase"))
    step = TrainStep(Learner(model, torch.optim.SGD(model.parameters(), 0.1), Engine(torch.device("cpu"))), batches)
    steps: list[int] = []
    seed_step = step_module.seed_step
    monkeypatch.setattr(
        step_module, "seed_step", lambda base, at, *more: (steps.append(at), seed_step(base, at, *more))
    )
    step.load(0)
    for at in range(3):
        step.run(at, 0.1)
    assert steps == seeded


def test_generators_are_seeded_as_torch_does_it():
    step_module.seed_step(5, 3, torch.device("cpu"))
    drawn = torch.rand(3)
    torch.manual_seed((5 + 0x9E3779B97F4A7C15 * 4) % 2**63)
    assert torch.equal(drawn, torch.rand(3))


def test_a_network_that_reads_a_value_is_found():
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3 * 32 * 32, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x.flatten(1)) * float(x.mean())

    with META:
        step = _step(Reads())
    with pytest.raises(RuntimeError, match="meta"):
        step._step_once()


@pytest.mark.parametrize(
    ("settings", "processes", "captured"),
    [
        ({"precision": "bfloat16"}, 1, True),
        ({"precision": "float32", "cuda_graph": "true"}, 1, True),
        ({"precision": "float32", "cuda_graph": "false"}, 1, False),
        ({"precision": "float16"}, 1, False),
        ({"precision": "bfloat16"}, 2, False),
    ],
)
def test_steps_on_a_gpu_are_captured_where_they_can_be(settings, processes, captured):
    choices = {"precision": "float32", "cuda_graph": "auto"} | settings
    precision = getattr(torch, choices["precision"])
    gpu = Engine(torch.device("cuda"), precision, True, cuda_graph=choices["cuda_graph"])
    assert gpu.captures(processes) is captured
    assert not Engine(torch.device("cpu"), precision, True).captures(processes)


def test_a_graph_that_cannot_be_is_refused_when_it_is_asked_for():
    with pytest.raises(ValueError, match="needs one process on one GPU"):
        choose_engine("cpu", "float32", cuda_graph="true").captures()
