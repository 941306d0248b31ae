import argparse
import os
import pickle

import pytest
import torch
from safetensors.torch import save_file

from morphnet import save_network
from morphnet.nn.resnet import ResNet, cifar_architecture, imagenet_architecture
from morphnet.store import load_source


def _architecture(**settings):
    return cifar_architecture(14, 10, widths=(4, 8, 16), **settings)


def test_a_state_dict_with_a_prefix_and_without_counters_fits(make_network, tmp_path, batches):
    network = make_network()
    state = {f"module.{k}": v for k, v in network.state_dict().items() if "num_batches" not in k}
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "a.pth")
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "a.th")
    compiled = {k.replace("module.", "module._orig_mod."): v for k, v in state.items()}
    torch.save({"model": compiled, "args": argparse.Namespace(lr=0.1), "epoch": 89}, tmp_path / "b.pth")
    for name in ("a.safetensors", "a.pth", "a.th", "b.pth"):
        loaded = load_source(str(tmp_path / name), _architecture())
        assert torch.equal(loaded(batches[0]), network(batches[0]))


def test_what_does_not_fit_is_named_with_a_hint(make_network, tmp_path):
    save_file(make_network(shortcut="padding").state_dict(), tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"layer2\.0\.shortcut\.0\.weight is missing(.|\n)*network\.shortcut=padding"):
        load_source(str(tmp_path / "a.safetensors"), _architecture())
    save_file(make_network().state_dict(), tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match=r"linear\.weight has shape \(10, 16\); the network has \(7, 16\)"):
        load_source(str(tmp_path / "b.safetensors"), cifar_architecture(14, 7, widths=(4, 8, 16)))
    with pytest.raises(ValueError, match=r"layer1\.1\.bn1\.bias has no place(.|\n)*and \d+ more"):
        load_source(str(tmp_path / "b.safetensors"), cifar_architecture(8, 10, widths=(4, 8, 16)))


def test_weights_alone_need_an_architecture(make_network, tmp_path):
    save_file(make_network().state_dict(), tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="name its architecture"):
        load_source(str(tmp_path / "a.safetensors"))


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_a_malicious_pickle_is_refused_and_does_not_run(tmp_path):
    for name, write in (("a.pth", torch.save), ("b.pth", lambda x, p: p.write_bytes(pickle.dumps(x)))):
        write({"weight": Malicious(tmp_path / "ran")}, tmp_path / name)
        with pytest.raises(ValueError, match="cannot be read as weights"):
            load_source(str(tmp_path / name), _architecture())
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x04."])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.pth"):
        load_source(str(path), _architecture())


def test_a_file_of_tensors_in_a_list_is_no_state_dict(tmp_path):
    torch.save([torch.ones(2)], tmp_path / "a.pth")
    with pytest.raises(ValueError, match="holds no state dict"):
        load_source(str(tmp_path / "a.pth"), _architecture())


def test_a_folder_gives_its_network(make_network, tmp_path, batches):
    network = make_network()
    save_network(network, tmp_path / "network.safetensors")
    assert torch.equal(load_source(str(tmp_path))(batches[0]), network(batches[0]))
    with pytest.raises(FileNotFoundError, match="no finished phase"):
        load_source(str(tmp_path.parent / tmp_path.name / ".."))


def test_torchvision_is_named_from_a_fixed_list(tmp_path):
    network = load_source("torchvision:resnet18")
    assert network.architecture.depth == 18
    torch.save(dict(network.state_dict()), tmp_path / "w.pth")
    loaded = load_source("torchvision:resnet18", weights=str(tmp_path / "w.pth"))
    assert torch.equal(loaded.fc.weight, network.fc.weight)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    loaded = load_source("torchvision:resnet18", weights=str(tmp_path / "w.safetensors"))
    assert torch.equal(loaded.fc.weight, network.fc.weight)
    with pytest.raises(ValueError, match=r"w\.pth does not fit torchvision's resnet34:\n  layer1(.|\n)*and \d+ more$"):
        load_source("torchvision:resnet34", weights=str(tmp_path / "w.pth"))
    with pytest.raises(FileNotFoundError, match="is a folder; give none, default or a file"):
        load_source("torchvision:resnet18", weights=str(tmp_path))
    save_network(network, tmp_path / "network.safetensors")
    with pytest.raises(ValueError, match=r"is a network that morphnet saved: give parent=.*network\.safetensors"):
        load_source("torchvision:resnet18", weights=str(tmp_path / "network.safetensors"))
    with pytest.raises(ValueError, match=r"torchvision:os\.system: expected one of alexnet, .*resnet18"):
        load_source("torchvision:os.system")
    with pytest.raises(FileNotFoundError, match=r"weights=none\.pth"):
        load_source("torchvision:resnet18", weights="none.pth")


def test_torchvisions_resnet50_becomes_ours_and_its_weights_fit_ours(tmp_path):
    network = load_source("torchvision:resnet50")
    assert network.architecture == imagenet_architecture(50)
    assert type(load_source("torchvision:resnet50", convert=False)).__module__ == "torchvision.models.resnet"
    save_file(network.state_dict(), tmp_path / "resnet50.safetensors")
    loaded = load_source(str(tmp_path / "resnet50.safetensors"), imagenet_architecture(50))
    assert torch.equal(loaded.layer4[2].conv3.weight, network.layer4[2].conv3.weight)


def test_a_path_that_is_not_there_is_named():
    with pytest.raises(FileNotFoundError, match=r"parent=nowhere/x\.safetensors"):
        load_source("nowhere/x.safetensors")


def test_weights_for_other_classes_say_how_they_are_given(tmp_path):
    save_file(ResNet(imagenet_architecture(18, 7)).state_dict(), tmp_path / "seven.pth")  # whatever it is called
    source = str(tmp_path / "seven.pth")
    with pytest.raises(
        ValueError, match=r"it has 7 classes: give parent=.*seven\.pth network=imagenet_resnet18 and data"
    ):
        load_source("torchvision:resnet18", weights=source)
    assert load_source(source, imagenet_architecture(18, 7)).fc.out_features == 7


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("conv1.weight", lambda value: value.fill_(float("nan")), "conv1.weight holds numbers that are not finite"),
        ("linear.bias", lambda value: value.fill_(float("inf")), "linear.bias holds numbers that are not finite"),
        ("bn1.running_var", lambda value: value.fill_(-1), "bn1.running_var holds variances below zero"),
        ("conv1.weight", lambda value: value.to("meta"), "such without numbers"),
        (
            "conv1.weight",
            lambda value: value.to(torch.float64),
            "weights of one of float32, float16, bfloat16, float64",
        ),
    ],
)
def test_numbers_that_no_network_computes_with_are_named(make_network, tmp_path, name, change, message):
    state = make_network().state_dict()
    torch.save({**state, name: change(state[name])}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=message):
        load_source(str(tmp_path / "a.pth"), _architecture())
