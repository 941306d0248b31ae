"""The memory format of networks, trained in processes of their own: what goes wrong there ends the process."""

import json
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from morphnet import Edge, ModuleGraph, morph_conv
from morphnet.train import choose_engine

#: Of stride 2 it ends in a 1x1 of 4 channels that carries the stride.
FORK = ModuleGraph([Edge("s", "t", kernel=3), Edge("s", "a"), Edge("a", "b", kernel=3), Edge("b", "t")], {"b": 4})


def _train(cwd, *overrides, processor="AVX2"):
    """Trains three epochs on digits, with the instructions of ``processor`` at most."""
    command = [sys.executable, "-m", "morphnet", "train", "controls=[]", "schedule.epochs=3", "trainer.threads=1"]
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": processor, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *overrides], cwd=cwd, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, f"{done.returncode} {done.stdout} {done.stderr}"
    return [json.loads(path.read_text()) for path in (cwd / "run" / "phases").glob("*/record.json")]


def test_narrow_networks_train_without_avx512(tmp_path):
    assert len(_train(tmp_path, "network.widths=[4,4,4]", "hydra.run.dir=run", "phases=[{morph: null}]")) == 1
    (tmp_path / "run").rename(tmp_path / "parent")
    phases = "phases=[{morph: null}, {morph: 1c1}]"
    assert len(_train(tmp_path, "parent=parent", "hydra.run.dir=run", phases)) == 2


@pytest.mark.slow
def test_narrow_networks_train_compiled_without_avx512(tmp_path):
    compiled = ["network.widths=[4,4,4]", "hydra.run.dir=run", "phases=[{morph: null}]", "trainer.compile=true"]
    assert len(_train(tmp_path, *compiled)) == 1


@pytest.mark.parametrize(
    ("layer", "safe"),
    [
        (nn.Conv2d(4, 4, 1, stride=2), False),
        (nn.Conv2d(16, 8, 1, stride=(1, 2), groups=4), False),
        (morph_conv(nn.Conv2d(8, 8, 3, stride=2, padding=1), FORK), False),
        (nn.Conv2d(8, 4, 1, stride=2), True),
        (nn.Conv2d(4, 4, 1), True),
        (nn.Conv2d(4, 4, 3, stride=2), True),
    ],
)
def test_networks_stay_contiguous_where_channels_last_corrupts_memory(layer, safe):
    network = nn.Sequential(nn.Conv2d(3, layer.in_channels, 3), nn.Sequential(layer))
    engine = choose_engine("cpu", "float32").place(network)
    expected = torch.channels_last if safe else torch.contiguous_format
    assert engine.place_images(torch.randn(2, 3, 8, 8)).is_contiguous(memory_format=expected)
    assert network[0].weight.is_contiguous(memory_format=expected)
