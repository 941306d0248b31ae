"""Networks for use elsewhere: what is written computes the same, without morphnet where that is promised."""

import importlib.util
import runpy
import subprocess
import sys
from collections import OrderedDict

import pytest
import torch
from torch import nn

from morphnet import Edge, ModuleGraph, export_network, morph_network
from morphnet.nn.activation import ParametricActivation

SIZE = (3, 16, 16)
onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="onnx, onnxscript and onnxruntime are needed: pip install '.[export]'",
)
FORK = ModuleGraph([Edge("s", "a", kernel=3), Edge("a", "t", kernel=(1, 3)), Edge("s", "t", kernel=3)])


@pytest.fixture
def child(make_network):
    batches = [torch.randn(16, *SIZE, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    grown, _ = morph_network(make_network(14), "1c1", calibration=batches, allow_inexact=True)
    grown, _ = morph_network(grown, {"layer2.?.conv2": FORK}, example_input=torch.zeros(2, *SIZE))
    with torch.no_grad():
        for module in grown.modules():
            if isinstance(module, ParametricActivation):
                module.a.add_(0.1 * torch.randn(module.a.shape, generator=torch.Generator().manual_seed(1)))
    return grown


@pytest.mark.parametrize(
    "format", [pytest.param("program", marks=pytest.mark.slow), "source", pytest.param("onnx", marks=onnx)]
)
def test_what_is_written_computes_the_same(child, tmp_path, format):
    report = export_network(child, tmp_path / "out", format, SIZE)
    assert report.difference < 1e-5
    assert all(file.is_file() for file in report.files)


def test_the_source_needs_no_morphnet_and_has_the_networks_names(child, tmp_path):
    child.metadata.update(mean=[0.5] * 3, std=[0.25] * 3, data="noise")
    export_network(child, tmp_path, "source", SIZE)
    images = torch.randn(5, *SIZE, generator=torch.Generator().manual_seed(9))
    with torch.inference_mode():
        torch.save((images, child.eval()(images)), tmp_path / "expected.pt")
    code = """
import sys, torch
sys.modules["morphnet"] = None  # importing it fails
from model import Network
network = Network()
network.load_state_dict(torch.load("weights.pt", weights_only=True))
images, expected = torch.load("expected.pt", weights_only=True)
with torch.inference_mode():
    assert torch.allclose(network.eval()(images), expected, rtol=0, atol=1e-5 * expected.abs().max())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert torch.load(tmp_path / "weights.pt", weights_only=True).keys() == child.state_dict().keys()
    assert "mean [0.5, 0.5, 0.5]" in (tmp_path / "model.py").read_text()


@pytest.mark.parametrize("name", ['x"""\nraise SystemExit\n"""', "'", "\\", "{data}", "\ud800", 7, float("nan")])
def test_whatever_the_data_are_called_is_a_text_in_the_source_and_no_code(make_network, tmp_path, name):
    network = make_network(8)
    network.metadata["data"] = name
    export_network(network, tmp_path, "source", SIZE)
    assert runpy.run_path(str(tmp_path / "model.py"))["DATA"] == str(name)


def test_a_layer_whose_name_would_be_code_is_refused_and_nothing_stays(tmp_path):
    network = nn.Sequential(OrderedDict({"a\"), print('ran'), (\"": nn.Conv2d(3, 4, 1), "b": nn.Flatten()}))
    with pytest.raises(ValueError, match=r"a layer is called .*print.*; rename it"):
        export_network(network, tmp_path / "out", "source", SIZE)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("mode", ["reflect", "reflect), print('ran'"])
def test_a_layer_that_does_not_print_itself_as_literals_is_refused(tmp_path, mode):
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), nn.Flatten())
    network[0].extra_repr = lambda: f"3, 4, kernel_size=3, padding_mode={mode}"
    with pytest.raises(ValueError, match=r"nn\.Conv2d.* is no call with numbers and texts alone"):
        export_network(network, tmp_path, "source", SIZE)


class _Buffers(nn.Module):
    """A buffer that is used, a parameter that is not, and a buffer that no state dict holds."""

    def __init__(self, lost=False):
        super().__init__()
        self.conv, self.spare = nn.Conv2d(3, 4, 1), nn.Parameter(torch.ones(2))
        self.register_buffer("scale", torch.arange(4.0))
        self.register_buffer("unused", torch.ones(3))
        self.lost = torch.full((4,), 2.0) if lost else None

    def forward(self, x):
        y = self.conv(x).mean((2, 3)) * self.scale
        return y if self.lost is None else y * self.lost


def test_buffers_are_written_and_what_is_never_used_is_left_out(tmp_path):
    export_network(_Buffers(), tmp_path, "source", SIZE)
    kept = torch.load(tmp_path / "weights.pt", weights_only=True)
    assert kept.keys() == {"conv.weight", "conv.bias", "scale"}


def test_a_tensor_that_no_state_dict_holds_is_refused_and_nothing_stays(tmp_path):
    with pytest.raises(ValueError, match="neither parameter nor buffer"):
        export_network(_Buffers(lost=True), tmp_path / "out", "source", SIZE)
    assert not (tmp_path / "out").exists()


class _Branches(nn.Module):
    """Code that nobody can write down: its way depends on the numbers."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x):
        y = self.conv(x).mean((2, 3))
        return y if float(y.sum()) > 0 else -y


@pytest.mark.parametrize("format", ["program", "source"])
def test_code_that_cannot_be_followed_is_said(tmp_path, format):
    with pytest.raises(ValueError, match="_Branches"):
        export_network(_Branches(), tmp_path, format, SIZE)


def test_an_unknown_format_is_refused_with_those_there_are(child, tmp_path):
    with pytest.raises(ValueError, match="format='tflite'; expected one of onnx, program, source"):
        export_network(child, tmp_path, "tflite", SIZE)


def test_what_computes_something_else_is_taken_away(child, tmp_path, monkeypatch):
    import morphnet.export.formats as formats

    def wrong(network, output, images):
        (output / "network.bin").write_bytes(b"x")
        return [output / "network.bin"], lambda x: network(x) + 1, "nothing"

    monkeypatch.setitem(formats.FORMATS, "wrong", wrong)
    with pytest.raises(RuntimeError, match="they were deleted"):
        export_network(child, tmp_path, "wrong", SIZE)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named(child, tmp_path, monkeypatch):
    monkeypatch.setattr("morphnet.export.formats.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"format=onnx needs onnx, .*pip install onnx"):
        export_network(child, tmp_path, "onnx", SIZE)
