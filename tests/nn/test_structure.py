import json

import pytest
import torch
from torch import nn

from morphnet import morph_network
from morphnet.morph import Enlarge, Widen
from morphnet.nn.activation import ParametricActivation
from morphnet.nn.graph_conv import GraphConv2d
from morphnet.nn.structure import describe_structure, restore_structure
from tests.modules import BRIDGE, module


def _network():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding="same", padding_mode="reflect"),
        nn.BatchNorm2d(4, eps=1e-3),
        ParametricActivation("gelu", 4),
        nn.Identity(),
        nn.Sequential(),
        nn.Conv2d(4, 4, (1, 3), bias=False),
        nn.Flatten(),
        nn.Linear(96, 3),
    ).eval()


def _grown():
    patterns = {"0": Widen(1.5), "3": module("sa at", 1), "4": module("sa at st=0.5", 1), "5": module(BRIDGE)}
    child, _ = morph_network(_network(), {p: o for p, o in patterns.items() if p != "0"}, example_input=_zeros())
    child, _ = morph_network(child, {"0": Enlarge(5)}, example_input=_zeros())
    return child


def _zeros():
    return torch.zeros(1, 3, 6, 6)


def test_a_description_is_json_and_restores_every_layer():
    child = _grown()
    structure = json.loads(json.dumps(describe_structure(child, _network()), allow_nan=False))
    assert set(structure["modules"]) == {"3", "4", "5"}
    assert not any(name.split(".")[0] in ("3", "4", "5", "1", "2", "7") for name in structure["layers"])
    assert structure["layers"]["0"]["kernel_size"] == [5, 5]
    restored = _network()
    restore_structure(restored, structure)
    assert repr(restored) == repr(child)
    restored.load_state_dict(child.state_dict())
    x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(restored.eval()(x), child(x))


def test_widened_layers_and_slopes_are_described():
    parent = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), ParametricActivation("relu", 4), nn.PReLU(4), nn.Conv2d(4, 2, 1)
    ).eval()
    child, _ = morph_network(parent, {"0": Widen(2)}, example_input=_zeros())
    structure = describe_structure(child, nn.Sequential(*parent))
    assert {n: s["kind"] for n, s in structure["layers"].items()} == {
        "0": "Conv2d",
        "1": "BatchNorm2d",
        "2": "ParametricActivation",
        "3": "PReLU",
        "4": "Conv2d",
    }
    restore_structure(parent, structure)
    assert repr(parent) == repr(child)
    parent.load_state_dict(child.state_dict())


def test_restoring_twice_and_nothing_changes_nothing():
    child = _grown()
    layers = list(child)
    restore_structure(child, describe_structure(child))
    restore_structure(child, {"modules": {}, "layers": {}})
    restore_structure(child, {})
    assert all(a is b for a, b in zip(child, layers, strict=True))


def test_without_a_base_every_layer_with_settings_is_described():
    structure = describe_structure(_network())
    assert set(structure["layers"]) == {"0", "1", "2", "5", "7"}
    assert structure["layers"]["0"]["padding"] == "same"
    assert structure["layers"]["1"]["eps"] == 1e-3
    assert structure["modules"] == {}
    assert describe_structure(_network(), _network()) == {"modules": {}, "layers": {}}


def test_the_mode_of_a_layer_is_kept():
    structure = describe_structure(_grown())
    network = _network().train()
    network[5].eval()
    restore_structure(network, structure)
    assert isinstance(network[5], GraphConv2d)
    assert not network[5].convs["s-a"].training
    assert network[3].convs["s-a"].training


@pytest.mark.parametrize(
    ("structure", "message"),
    [
        ({"modules": {"9": None}}, "not the description of a grown convolution"),
        ({"modules": {"9": "there"}}, "this Sequential has no 9"),
        ({"modules": {"1": "there"}}, "1 is a BatchNorm2d; a convolution or an identity is needed, unmorphed"),
        ({"layers": {"9": {"kind": "Conv2d"}}}, "this Sequential has no 9"),
        ({"layers": {"1": {"kind": "Conv2d"}}}, "1 is a BatchNorm2d; a Conv2d is needed"),
        ({"layers": {"1": {"kind": "eval"}}}, "1 is a BatchNorm2d; a eval is needed"),
        ({"layers": {"1": 3}}, "1 is a BatchNorm2d; a None is needed"),
    ],
)
def test_what_does_not_fit_is_named(structure, message):
    known = describe_structure(_grown())["modules"]["5"]
    given = {k: {n: known if v == "there" else v for n, v in values.items()} for k, values in structure.items()}
    with pytest.raises(ValueError, match=message):
        restore_structure(_network(), given)
