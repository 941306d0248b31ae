import json
import os
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from morphnet import load_network, morph_network, save_network
from morphnet.nn.resnet import ResNet, cifar_architecture
from morphnet.store import network_hash
from tests.modules import module


def test_a_morphed_network_comes_back_whole(make_network, batches, tmp_path):
    child, _ = morph_network(make_network(activation="gelu"), "3c1_2branch_half", calibration=batches, split=0.3)
    child.metadata.update(mean=[0.5] * 3, std=[0.2] * 3)
    save_network(child, tmp_path / "deep" / "child.safetensors")
    loaded = load_network(tmp_path / "deep" / "child.safetensors")
    assert torch.equal(loaded(batches[0]), child(batches[0]))
    assert loaded.architecture == child.architecture
    assert loaded.metadata == child.metadata
    assert not loaded.training
    assert network_hash(loaded) == network_hash(child)


def test_morphed_bottlenecks_come_back_whole(make_bottlenecks, batches, tmp_path):
    child, _ = morph_network(make_bottlenecks(), "1c1", calibration=batches)
    side = module("st sa:1x1 at:1x1", channels={"a": "0.5x"})
    child, _ = morph_network(child, {"layer?.?.conv2": side}, calibration=batches)
    loaded = load_network(save_network(child, tmp_path / "n.safetensors"))
    assert torch.equal(loaded(batches[0]), child(batches[0]))
    assert loaded.architecture == child.architecture
    assert loaded.architecture.depth == 17
    assert network_hash(loaded) == network_hash(child)
    grown, _ = morph_network(loaded, "3c1", calibration=batches)
    assert grown.architecture.shortcuts["layer2.2"].kernel_sizes == (3, 1)


def test_networks_of_basic_blocks_have_the_hash_they_had_before_there_were_others():
    network = ResNet(cifar_architecture(8, 10, widths=(2, 2, 2))).eval()
    with torch.no_grad():
        for value in network.parameters():
            value.fill_(0.5)
    assert network_hash(network) == "e8b69130d91d75395edbb83e68b1508f64ade3a13964bea5d8b9cd90dfff6dad"


def test_a_loaded_network_can_be_morphed_on(make_network, batches, tmp_path):
    child, _ = morph_network(make_network(), "1c1_half", calibration=batches)
    save_network(child, tmp_path / "child.safetensors")
    grown, _ = morph_network(load_network(tmp_path / "child.safetensors"), "1c1", calibration=batches)
    assert grown.metadata["morphs"] == ["1c1_half", "1c1"]


def test_dtype_is_kept(make_network, tmp_path):
    save_network(make_network().double(), tmp_path / "n.safetensors")
    assert next(load_network(tmp_path / "n.safetensors").parameters()).dtype == torch.float64


def test_the_hash_changes_with_a_weight_and_with_the_architecture(make_network):
    network = make_network()
    first = network_hash(network)
    with torch.no_grad():
        network.conv1.weight[0, 0, 0, 0] += 1e-6
    assert network_hash(network) != first


def test_a_flipped_byte_and_a_truncated_file_are_found(make_network, tmp_path):
    path = save_network(make_network(), tmp_path / "n.safetensors")
    content = path.read_bytes()
    path.write_bytes(content[:-100] + bytes([content[-100] ^ 1]) + content[-99:])
    with pytest.raises(ValueError, match="damaged"):
        load_network(path)
    for length in (0, 5, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"not a readable safetensors file|damaged"):
            load_network(path)


def test_a_failed_write_leaves_the_old_file(make_network, tmp_path, monkeypatch):
    path = save_network(make_network(), tmp_path / "n.safetensors")
    before = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_network(make_network(seed=1), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["n.safetensors"]


def test_files_of_another_kind_are_refused_with_what_to_try(make_network, tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        load_network(tmp_path / "none.safetensors")
    save_file(make_network().state_dict(), tmp_path / "bare.safetensors")
    with pytest.raises(ValueError, match="network=cifar_resnet20"):
        load_network(tmp_path / "bare.safetensors")
    with pytest.raises(TypeError, match="got OrderedDict"):
        save_network(make_network().state_dict(), tmp_path / "x.safetensors")


def test_a_description_cannot_name_code(make_network, tmp_path):
    path = save_network(make_network(), tmp_path / "n.safetensors")
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    description = json.loads(header["__metadata__"]["morphnet"])
    description["architecture"]["activation"] = "os.system"
    header["__metadata__"]["morphnet"] = json.dumps(description)
    written = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(written)) + written + content[8 + length :])
    with pytest.raises(ValueError, match=r"os\.system"):
        load_network(path)


def test_safetensors_hold_the_plain_state_dict(make_network, tmp_path):
    network = make_network()
    path = save_network(network, tmp_path / "n.safetensors")
    assert load_file(path).keys() == network.state_dict().keys()


@pytest.mark.parametrize("change", ["layer", "dtype"])
def test_a_network_that_the_file_could_not_hold_is_not_saved(make_network, tmp_path, change):
    network = make_network()
    if change == "layer":
        network.act = torch.nn.Tanh()
    else:
        network.linear.double()
    with pytest.raises(ValueError, match="save_network"):
        save_network(network, tmp_path / "n.safetensors")
    assert not list(tmp_path.iterdir())


def test_settings_of_a_layer_come_back(make_network, batches, tmp_path):
    network = make_network()
    network.bn1.eps = 0.1
    loaded = load_network(save_network(network, tmp_path / "n.safetensors"))
    assert loaded.bn1.eps == 0.1
    assert torch.equal(loaded(batches[0]), network(batches[0]))
