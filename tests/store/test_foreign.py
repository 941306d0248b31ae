"""Networks that were morphed by layer names, saved and loaded: ours, torchvision's, and classes of one's own."""

import json
import struct
import sys

import pytest
import torch
import torchvision
from torch import nn

from morphnet import load_network, morph_network, save_network
from morphnet.morph import Deepen, Enlarge, Widen
from morphnet.store import load_source, network_hash
from tests.modules import module

PAIR = module("sa at")
PAIR_1X1 = module("sa at", 1)
SIDE = module("sa:1x1 at:1x1 st", channels={"a": "0.25x"})


class _Own(nn.Module):
    def __init__(self, width=6):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.shortcut = nn.Identity()
        self.last = nn.Conv2d(width, width, 1)
        self.head = nn.Linear(width, 4)

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(x)))
        return self.head((self.last(x) + self.shortcut(x)).mean((2, 3)))


def _own(seed=0, width=6):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _Own(width).eval()


def _images(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def _assert_same(first, second, x):
    assert network_hash(first) == network_hash(second)
    assert {n: v.dtype for n, v in first.state_dict().items()} == {n: v.dtype for n, v in second.state_dict().items()}
    with torch.no_grad():
        assert torch.equal(first(x), second(x))


def _rewrite(path, change):
    """Changes the description in a file, and nothing else."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    description = json.loads(header["__metadata__"]["morphnet"])
    change(description)
    header["__metadata__"]["morphnet"] = json.dumps(description)
    written = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(written)) + written + content[8 + length :])


# Our ResNets ----------------------------------------------------------------------------------------------------------


def test_a_resnet_morphed_by_names_and_specs_comes_back(make_network, batches, tmp_path):
    child, _ = morph_network(make_network(), {"layer1.1.conv2": PAIR, "layer2.0.shortcut.0": PAIR_1X1})
    child, _ = morph_network(child, "1c1_2branch", calibration=batches)
    patterns = {"layer1.0.conv1": Widen(1.5), "layer3.0.conv2": Enlarge(5), "layer3.1.conv2": Deepen(1)}
    child, _ = morph_network(child, patterns, calibration=batches)
    child, _ = morph_network(child, {"layer3.1.conv1": SIDE}, calibration=batches, bn="calibrated")
    child.metadata.update(mean=[0.5] * 3)
    loaded = load_network(save_network(child, tmp_path / "n.safetensors"))
    _assert_same(loaded, child, batches[0])
    assert loaded.metadata == child.metadata
    assert len(loaded.metadata["morphs"]) == 4
    assert loaded.layer1[0].conv1.out_channels == 6
    assert loaded.layer3[1].conv1.norms


def test_a_folder_with_such_a_network_is_a_source(make_network, tmp_path, batches):
    child, _ = morph_network(make_network(), {"layer1.1.conv2": PAIR})
    save_network(child, tmp_path / "network.safetensors")
    _assert_same(load_source(str(tmp_path)), child, batches[0])


def test_the_hash_of_a_morphed_network_tells_its_structure(make_network):
    parent = make_network()
    one, _ = morph_network(parent, {"layer1.1.conv2": PAIR})
    same, _ = morph_network(parent, {"layer1.1.conv2": PAIR})
    other, _ = morph_network(parent, {"layer1.1.conv2": PAIR}, activation="pgelu")
    assert network_hash(one) == network_hash(same)
    assert len({network_hash(n) for n in (parent, one, other)}) == 3
    with torch.no_grad():
        same.layer1[1].conv2.convs["s-a"].weight[0, 0, 0, 0] += 1e-6
    assert network_hash(one) != network_hash(same)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["modules"]["layer1.0.conv2"].pop("graph"), "not the description of a grown convolution"),
        (lambda s: s["modules"]["layer1.0.conv2"].update(padding="os.system"), "padding='os.system'"),
        (lambda s: s["modules"]["layer1.0.conv2"].update(activation="os.system"), r"os\.system"),
        (lambda s: s["modules"].update({"layer9": s["modules"]["layer1.0.conv2"]}), "this ResNet has no layer9"),
        (lambda s: s["modules"].update({"bn1": s["modules"]["layer1.0.conv2"]}), "bn1 is a BatchNorm2d"),
        (lambda s: s["modules"].update({"layer1.0.conv2": 3}), "not the description"),
        (lambda s: s["layers"].update({"bn1": {"kind": "os.system"}}), r"bn1 is a BatchNorm2d; a os\.system is needed"),
        (lambda s: s["layers"].update({"bn1": {"kind": "BatchNorm2d", "wurst": 1}}), "wurst"),
        (lambda s: s.update(modules=[1]), "damaged"),
        (lambda s: s["modules"].clear(), "layer1.0.conv2"),
    ],
)
def test_a_damaged_description_is_refused_by_name(make_network, tmp_path, change, message):
    child, _ = morph_network(make_network(8), {"layer1.0.conv2": PAIR})
    path = save_network(child, tmp_path / "n.safetensors")

    _rewrite(path, lambda description: change(description["structure"]))
    with pytest.raises(ValueError, match=message) as caught:
        load_network(path)
    assert "n.safetensors is damaged" in str(caught.value)


# torchvision's --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mobilenet():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torchvision.models.mobilenet_v2(num_classes=7).eval()


def test_a_torchvision_network_is_whole_in_its_file(mobilenet, tmp_path):
    patterns = {"features.3.conv.0.0": PAIR_1X1, "features.2.conv.1.0": PAIR, "features.17.conv.1.0": Enlarge(5)}
    child, _ = morph_network(mobilenet, patterns, example_input=torch.zeros(1, 3, 32, 32))
    child.metadata["mean"] = [0.5] * 3
    loaded = load_network(save_network(child, tmp_path / "n.safetensors"))
    assert type(loaded) is type(mobilenet)
    _assert_same(loaded, child, _images(2, 3, 32, 32))
    assert loaded.metadata == child.metadata
    assert len(loaded.metadata["morphs"]) == 1
    with pytest.raises(ValueError, match="holds a whole network, so it takes no base"):
        load_network(tmp_path / "n.safetensors", mobilenet)


def test_a_torchvision_network_without_metadata_and_in_another_dtype_is_recognised(mobilenet, tmp_path):
    assert not hasattr(mobilenet, "metadata")
    network = torchvision.models.mobilenet_v2(num_classes=3).bfloat16().eval()
    loaded = load_network(save_network(network, tmp_path / "n.safetensors"))
    _assert_same(loaded, network, _images(1, 3, 32, 32).bfloat16())
    assert loaded.classifier[1].out_features == 3


def test_a_widened_resnet18_comes_back(tmp_path):
    parent = torchvision.models.resnet18(num_classes=5).eval()
    child, _ = morph_network(
        parent, {"layer1.0.conv1": Widen(1.25), "layer2.1.conv2": SIDE}, example_input=torch.zeros(1, 3, 32, 32)
    )
    loaded = load_network(save_network(child, tmp_path / "n.safetensors"))
    assert (loaded.layer1[0].conv1.out_channels, loaded.layer1[0].bn1.num_features) == (80, 80)
    _assert_same(loaded, child, _images(1, 3, 32, 32))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["torchvision"].update(name="os.system"), r"torchvision:os\.system: expected one of alexnet"),
        (lambda d: d["torchvision"].pop("classes"), "classes"),
        (lambda d: d["torchvision"].update(classes="many"), "many"),
        (lambda d: d["torchvision"].update(classes=5), "size mismatch"),
        (lambda d: d["torchvision"].update(name="shufflenet_v2_x1_0"), "Missing key"),
        (lambda d: d.update(hash="0" * 64), "do not have the hash"),
        (lambda d: d.pop("metadata"), "description"),
        (lambda d: d.update(structure=[]), "description"),
        (lambda d: d.update(format=2), "format 2; this morphnet reads format 1"),
    ],
)
def test_a_damaged_torchvision_description_is_refused(mobilenet, tmp_path, change, message):
    path = save_network(mobilenet, tmp_path / "n.safetensors")
    _rewrite(path, change)
    with pytest.raises(ValueError, match=message):
        load_network(path)


# Classes of one's own -------------------------------------------------------------------------------------------------


def test_a_network_of_ones_own_needs_its_base(tmp_path):
    parent = _own()
    child, _ = morph_network(parent, {"conv": PAIR, "shortcut": PAIR_1X1}, example_input=torch.zeros(1, 3, 8, 8))
    path = save_network(child, tmp_path / "n.safetensors")
    base = _own(seed=1).train()
    before = {name: value.clone() for name, value in base.state_dict().items()}
    loaded = load_network(path, base)
    _assert_same(loaded, child, _images(2, 3, 9, 8))
    assert not loaded.training
    assert base.training
    assert isinstance(base.conv, nn.Conv2d)
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())
    with pytest.raises(ValueError, match=r"of a .*_Own, whose code is yours: give load_network\(path, base=\.\.\.\)"):
        load_network(path)


def test_widened_and_enlarged_layers_of_ones_own_come_back(tmp_path):
    parent = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.PReLU(4), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 3)
    ).eval()
    patterns = {"0": Widen(2), "3": Enlarge(5)}
    child, report = morph_network(parent, patterns, example_input=torch.zeros(1, 3, 8, 8))
    assert report.passed
    loaded = load_network(save_network(child, tmp_path / "n.safetensors"), parent)
    assert loaded[2].num_parameters == 8
    assert loaded[3].kernel_size == (5, 5)
    _assert_same(loaded, child, _images(2, 3, 8, 8))


def test_metadata_of_a_network_of_ones_own(tmp_path):
    child, report = morph_network(_own(), {"conv": PAIR})
    child.metadata["mean"] = [0.5]
    loaded = load_network(save_network(child, tmp_path / "n.safetensors"), _own())
    assert loaded.metadata["morphs"] == [report.spec]
    assert loaded.metadata["mean"] == [0.5]


def test_a_network_that_has_metadata_of_another_kind_can_be_saved(tmp_path):
    parent = _own()
    parent.metadata = lambda: None
    child, _ = morph_network(parent, {"conv": PAIR})
    loaded = load_network(save_network(child, tmp_path / "n.safetensors"), parent)
    _assert_same(loaded, child, _images(1, 3, 8, 8))


def test_a_wrong_base_is_refused_by_the_layer_that_does_not_fit(tmp_path):
    parent = _own()
    child, _ = morph_network(parent, {"conv": PAIR}, example_input=torch.zeros(1, 3, 8, 8))
    path = save_network(child, tmp_path / "n.safetensors")
    with pytest.raises(
        ValueError,
        match="does not fit base, a Sequential: norm is a BatchNorm2d in the saved network; there it is missing",
    ):
        load_network(path, nn.Sequential(nn.Conv2d(3, 6, 3)))
    other, _ = morph_network(parent, {"conv": SIDE})
    with pytest.raises(ValueError, match=r"does not fit base: conv is a GraphConv2d; .* unmorphed"):
        load_network(path, other)
    wrong = _own()
    wrong.conv = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="does not fit base: conv is a Linear; a convolution"):
        load_network(path, wrong)
    wrong = _own()
    wrong.extra = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"does not fit base: (.|\n)*extra\.weight"):
        load_network(path, wrong)


def test_the_child_itself_fits_as_base(tmp_path):
    child, _ = morph_network(_own(), {"conv": PAIR})
    path = save_network(child, tmp_path / "n.safetensors")
    _assert_same(load_network(path, child), child, _images(1, 3, 8, 8))


def test_a_class_that_is_named_in_a_file_is_never_imported(tmp_path):
    child, _ = morph_network(_own(), {"conv": PAIR})
    path = save_network(child, tmp_path / "n.safetensors")
    (tmp_path / "wicked.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    _rewrite(path, lambda d: d.update({"class": "wicked.Network"}))
    sys.path.insert(0, str(tmp_path))
    try:
        with pytest.raises(ValueError, match=r"of a wicked\.Network"):
            load_network(path)
    finally:
        sys.path.remove(str(tmp_path))
    assert "wicked" not in sys.modules
    assert not (tmp_path / "ran").exists()


def test_weights_that_were_changed_are_found(tmp_path):
    child, _ = morph_network(_own().bfloat16(), {"conv": PAIR})
    path = save_network(child, tmp_path / "n.safetensors")
    assert next(load_network(path, _own()).parameters()).dtype == torch.bfloat16
    content = path.read_bytes()
    path.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    with pytest.raises(ValueError, match="do not have the hash"):
        load_network(path, _own())


def test_source_keeps_torchvisions_class_where_it_is_asked_to():
    network = load_source("torchvision:mobilenet_v2", classes=4)
    assert type(network).__name__ == "MobileNetV2"
    assert network.classifier[1].out_features == 4
    assert network.metadata["input_size"] == [3, 224, 224]
    kept = load_source("torchvision:resnet18", classes=4, convert=False)
    assert type(kept).__module__ == "torchvision.models.resnet"
    assert kept.metadata["lineage"] == [{"source": "torchvision:resnet18", "weights": "none"}]
