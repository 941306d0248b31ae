"""The processes that train one network together: the number of this one, and what they exchange."""

from __future__ import annotations

import datetime
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from morphnet.store import load_network

T = TypeVar("T")

#: How long a step may wait for the other processes, and the others for what the first one does alone.
STEP_TIMEOUT, ALONE_TIMEOUT = datetime.timedelta(minutes=10), datetime.timedelta(days=7)


@dataclass(frozen=True)
class Ranks:
    """This process (``index``, from 0) among the ``count`` that train together.

    Attributes:
        control: the group over which they agree, on the CPU; None where there is one process.
    """

    index: int = 0
    count: int = 1
    control: dist.ProcessGroup | None = None

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes files and prints."""
        return self.index == 0

    def share(self, batch_size: int) -> int:
        """Images of a batch of ``batch_size`` that each process takes.

        Raises:
            ValueError: they cannot be divided equally.
        """
        if batch_size % self.count:
            raise ValueError(
                f"optim.batch_size={batch_size} is the batch over all processes, and does not divide by {self.count}; "
                "give a multiple, or optim.batch_size_per_process"
            )
        return batch_size // self.count

    def from_first(self, make: Callable[[], T]) -> T:
        """What ``make`` returns in the first process, in all of them; the others wait for it and do not call it."""
        if self.count == 1:
            return make()
        value = [make() if self.is_first else None]
        dist.broadcast_object_list(value, 0, self.control)
        return value[0]  # type: ignore[return-value]

    def one_first_on_each_machine(self, make: Callable[[], T]) -> T:
        """What ``make`` returns, which one process of every machine calls before the others: it may download."""
        value = [make()] if local_index() == 0 else []
        if self.count > 1:
            dist.barrier(self.control)
        return value[0] if value else make()

    def network_from_first(self, make: Callable[[], Path]) -> nn.Module:
        """The network in the file that ``make`` returns in the first process; the others have no such file."""
        if self.count == 1:
            return load_network(make())  # type: ignore[no-any-return]
        content = self.from_first(lambda: make().read_bytes())
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "network.safetensors"
            path.write_bytes(content)
            return load_network(path)  # type: ignore[no-any-return]

    def add_up(self, value: Tensor) -> Tensor:
        """The sum of ``value`` over all processes, in place."""
        if self.count > 1:
            dist.all_reduce(value)
        return value

    def spread_buffers(self, network: nn.Module) -> None:
        """Gives every process the buffers of the first one: the running statistics of batch normalisation."""
        if self.count > 1:
            for buffer in network.buffers():
                dist.broadcast(buffer, 0)

    def parallel(self, network: nn.Module, device: torch.device, sync_bn: bool = False) -> nn.Module:
        """A model over the parameters of ``network`` whose gradients are means over the processes.

        Batch normalisation uses the statistics of each process's own part of the batch, unless ``sync_bn``; the running
        statistics that are saved are those of the first process.
        """
        if self.count == 1:
            return network
        network = _with_synchronised_norms(network) if sync_bn else network
        ddp, devices = nn.parallel.DistributedDataParallel, None if device.type == "cpu" else [device]
        # Buffers are spread before every evaluation, not in every step; newer versions have another name for that.
        name = "forward_sync_buffers" if "forward_sync_buffers" in signature(ddp).parameters else "broadcast_buffers"
        # Without the second, DDP orders its sums anew after one step, and a continued run differs in the last bits.
        options: dict[str, Any] = {name: False, "find_unused_parameters": device.type == "cpu"}
        return ddp(network, device_ids=devices, gradient_as_bucket_view=True, **options)


#: One process by itself.
ALONE = Ranks()


def started_by_launcher() -> bool:
    """Whether ``torchrun``, or ``devices=`` through it, started this process as one of several."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def local_index() -> int:
    """Which of the processes on this machine this one is; it takes the GPU of that number."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def local_count() -> int:
    """How many of them run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def own_device(device: str) -> str:
    """The device of this process, given ``device`` for all: of several GPUs the one with its own number."""
    wants_gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    return f"cuda:{local_index()}" if started_by_launcher() and wants_gpu else device


def check_devices(device: str, count: int) -> None:
    """Refuses more processes than there are GPUs, one for each.

    Raises:
        ValueError: with how many there are.
    """
    on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    if device.startswith("cuda:"):
        raise ValueError(f"device={device} names one GPU, and devices={count} needs as many: give device=cuda")
    if on_gpu and count > torch.cuda.device_count():
        raise ValueError(
            f"devices={count}: there are {torch.cuda.device_count()} GPUs here; give fewer, or device=cpu to train on "
            "the CPU"
        )


@contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """Joins the processes of a launcher, over NCCL on GPUs and gloo on CPUs; without a launcher this one is alone."""
    if not started_by_launcher():
        yield ALONE
        return
    index, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if device.type == "cuda":
        torch.cuda.set_device(device)
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    agents = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    tcp = dist.TCPStore(address, port, count, index == 0 and not agents, timeout=STEP_TIMEOUT)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=dist.PrefixStore(_meeting(tcp, index, count), tcp),
        rank=index,
        world_size=count,
        timeout=STEP_TIMEOUT,
    )
    control = dist.new_group(backend="gloo", timeout=ALONE_TIMEOUT)
    assert isinstance(control, dist.ProcessGroup)  # this process is one of the group
    yield Ranks(index, count, control)
    dist.destroy_process_group()  # after an error it could wait for processes that are gone


def _meeting(store: dist.Store, index: int, count: int) -> str:
    """A name for this attempt that all its processes share, and no process of an attempt that died.

    The agents of ``torchrun`` keep their store when they restart processes, with the addresses of the dead in it, and
    each agent counts its own restarts. So the processes meet anew::

        rank k                                      rank 0
        hello/k = a name of its own        --->     sees it
        waits for welcome/<name>           <---     welcome/<name> = token
        joined/<token>/k                   --->     answers until all have joined
    """
    if index == 0:
        token, missing = uuid.uuid4().hex, set(range(1, count))
        until = time.monotonic() + STEP_TIMEOUT.total_seconds()
        while missing:
            for k in list(missing):
                if store.check([f"morphnet/hello/{k}"]):
                    store.set(f"morphnet/welcome/{store.get(f'morphnet/hello/{k}').decode()}", token)
                if store.check([f"morphnet/joined/{token}/{k}"]):
                    missing.discard(k)
            if time.monotonic() > until:
                raise RuntimeError(f"rank {', '.join(map(str, sorted(missing)))} did not come within {STEP_TIMEOUT}")
            time.sleep(0.05)
        return token
    asks = uuid.uuid4().hex
    store.set(f"morphnet/hello/{index}", asks)
    token = store.get(f"morphnet/welcome/{asks}").decode()  # waits for it
    store.set(f"morphnet/joined/{token}/{index}", "")
    return token


def _with_synchronised_norms(network: nn.Module) -> nn.Module:
    """A copy of ``network`` over the same tensors whose batch normalisations measure the whole batch."""
    import copy

    shared = {id(t): t for t in [*network.parameters(), *network.buffers()]}
    return nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(network, shared))
