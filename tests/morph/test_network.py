"""Function preservation, for every kind of spec, setting and parent."""

import copy
import itertools
import json

import pytest
import torch
import torchvision
from torch.testing import assert_close

from morphnet import MorphError, load_network, morph_network, save_network
from morphnet.morph import Deepen, Widen
from morphnet.nn.activation import ParametricActivation
from morphnet.nn.branch import Branch
from morphnet.store import network_hash


def _float64_difference(parent, child, x):
    with torch.no_grad():
        first, second = copy.deepcopy(parent).double()(x.double()), copy.deepcopy(child).double()(x.double())
    return float((first - second).abs().max() / first.abs().max())


SPECS = ["1c1", "1c1_half", "3c1", "1c3", "3c3", "5c7", "1c1_2branch", "3c3_2branch_half"]


def some(cases, *chosen):
    """All of ``cases``, of which those whose numbers are not ``chosen`` are slow tests."""
    return [pytest.param(*case, marks=[] if i in chosen else pytest.mark.slow) for i, case in enumerate(cases)]


@pytest.mark.parametrize(
    ("spec", "bn"), some(itertools.product(SPECS, ["calibrated", "folded"]), 0, 3, 5, 6, 9, 10, 13, 14)
)
def test_the_child_computes_what_the_parent_computes(make_network, batches, spec, bn):
    parent = make_network(20)
    child, report = morph_network(parent, spec, calibration=batches, bn=bn)
    assert report.passed
    assert report.proof.exactness.relative < 1e-12
    assert report.proof.delivered.relative < 1e-5
    x = torch.randn(4, 3, 17, 23)  # no size it was calibrated on, borders included
    assert _float64_difference(parent, child, x) < 1e-5


@pytest.mark.parametrize("settings", [{"shortcut": "padding"}, {"activation": "prelu"}, {"activation": "gelu"}])
@pytest.mark.parametrize("bn", ["calibrated", "folded"])
def test_any_parent_is_preserved(make_network, batches, settings, bn):
    parent = make_network(**settings)
    child, report = morph_network(parent, "3c1", calibration=batches, bn=bn)
    assert report.proof.exactness.relative < 1e-12
    assert torch.equal(child(batches[0]).argmax(1), parent(batches[0]).argmax(1))


@pytest.mark.parametrize("activation", ["prelu", "relu", "pgelu", "tanh", "psigmoid"])
def test_any_activation_starts_as_the_identity_in_the_new_places(make_network, batches, activation):
    child, report = morph_network(make_network(), "1c1", calibration=batches, activation=activation)
    assert report.proof.exactness.relative < 1e-12
    new = [m.act for m in child.modules() if isinstance(m, Branch)]
    assert len(new) == 3
    assert all((m.a == 1).all() and m.function == activation.removeprefix("p") for m in new)
    old = [m for m in child.modules() if isinstance(m, ParametricActivation) and m not in new]
    assert len(old) == 13
    assert all((m.a == 0).all() and m.function == "relu" for m in old)


@pytest.mark.parametrize("settings", [{"split": 0.2}, {"width": 2.0}, {"width": 1.5}, {"padding": "exact"}])
def test_split_width_and_padding_are_free(make_network, batches, settings):
    _, report = morph_network(make_network(), "3c3_2branch", calibration=batches, **settings)
    assert report.proof.exactness.relative < 1e-12


@pytest.mark.parametrize(
    ("family", "spec", "bn"),
    some(
        [
            ("cifar", "1c1", "calibrated"),
            ("cifar", "1c1_half", "folded"),
            ("cifar", "3c1_2branch", "calibrated"),
            ("imagenet", "1c1", "folded"),
            ("imagenet", "1c1_half", "calibrated"),
            ("imagenet", "3c1_2branch", "folded"),
        ],
        0,
        4,
        5,
    ),
)
def test_a_network_of_bottlenecks_is_preserved(make_bottlenecks, batches, family, spec, bn):
    parent = make_bottlenecks(family).double()
    child, report = morph_network(parent, spec, calibration=batches, bn=bn)
    assert report.proof.exactness.relative < 1e-12
    assert _float64_difference(parent, child, torch.randn(4, 3, 33, 23)) < 1e-10
    touched = {"layer1.1": 16, "layer2.1": 32} | ({} if "half" in spec else {"layer2.2": 32})
    assert {name: shape.mid_channels for name, shape in child.architecture.shortcuts.items()} == touched
    again, report = morph_network(child, "3c3_2branch", calibration=batches, bn=bn)
    assert report.proof.exactness.relative < 1e-12
    assert set(again.architecture.shortcuts) == {"layer1.1", "layer2.1", "layer2.2"}


def test_bottlenecks_get_identity_inserts_and_padding_too(make_bottlenecks, batches):
    parent = make_bottlenecks("cifar", shortcut="padding", activation="pgelu")
    _, report = morph_network(parent, "1c1", calibration=batches, method="net2net")
    assert report.proof.exactness.relative < 1e-12


def test_a_torchvision_resnet_of_bottlenecks_is_converted_and_morphed(batches):
    parent = torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, [2, 1, 1, 1], num_classes=10).eval()
    child, report = morph_network(parent, "1c1", calibration=batches)
    assert report.proof.exactness.relative < 1e-12
    assert child.architecture.block == "bottleneck"
    assert child.architecture.shortcuts["layer1.1"].mid_channels == 256


def test_a_spec_needs_one_of_the_plain_resnets(batches):
    with torch.device("meta"):
        parent = torchvision.models.resnext50_32x4d()
    with pytest.raises(TypeError, match=r"ResNet-18, -34, -50, -101 or -152 \(no ResNeXt"):
        morph_network(parent, "1c1", calibration=batches)


def test_split_is_the_share_of_the_identity_in_the_first_branch(make_network, batches):
    child, _ = morph_network(make_network(), "1c1_2branch", calibration=batches, split=0.2)
    shortcut = dict(child.named_blocks())["layer1.1"].shortcut_part
    x = torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        first, second = (branch(x) for branch in shortcut.eval().branches)
    assert_close(first, 0.2 * x, atol=1e-5, rtol=1e-4)
    assert_close(second, 0.8 * x, atol=1e-5, rtol=1e-4)


def test_a_chain_of_phases_stays_exact(make_network, batches):
    first = make_network(20)
    network = first
    for spec in ("1c1_half", "1c1", "3c1", "3c3", "3c3_2branch"):
        network, report = morph_network(network, spec, calibration=batches)
        assert report.proof.exactness.relative < 1e-12
        if spec in ("3c1", "3c3"):  # zeros round filters that were there: nothing was solved
            assert all(layer.residual == 0 for layer in report.layers)
    assert _float64_difference(first, network, torch.randn(2, 3, 16, 16)) < 1e-5
    assert network.metadata["morphs"] == ["1c1_half", "1c1", "3c1", "3c3", "3c3_2branch"]


@pytest.mark.parametrize(
    ("spec", "operations"),
    some(itertools.product(["1c1", "1c1_half"], [(Widen(1.5),), (Widen(1.5), Widen(2)), (Deepen(3),)]), 1, 2, 3),
)
def test_a_spec_goes_on_from_layers_that_were_morphed(make_network, batches, spec, operations, tmp_path):
    network = make_network()
    for operation in operations:
        network, _ = morph_network(network, {"layer2.1.conv1": operation}, calibration=batches)
    child, report = morph_network(network, spec, calibration=batches)
    assert report.proof.exactness.relative < 1e-10
    again, _ = morph_network(child, {"layer3.1.conv1": Widen(2)}, calibration=batches)
    loaded = load_network(save_network(again, tmp_path / "n.safetensors"))
    assert torch.equal(loaded(batches[0]), again.eval()(batches[0]))


def test_the_parent_is_not_changed_and_shares_nothing(make_network, batches):
    parent = make_network(activation="prelu").train()
    before = {name: value.clone() for name, value in parent.state_dict().items()}
    child, _ = morph_network(parent, "1c1", calibration=batches)
    assert parent.training
    assert child.training
    assert all(torch.equal(value, before[name]) for name, value in parent.state_dict().items())
    storage = {value.data_ptr() for value in parent.state_dict().values()}
    assert not storage & {value.data_ptr() for value in child.state_dict().values()}


def test_the_calibration_images_are_not_changed(make_network, batches):
    before = [batch.clone() for batch in batches]
    morph_network(make_network(), "1c1", calibration=batches)
    assert all(torch.equal(a, b) for a, b in zip(batches, before, strict=True))


def test_every_new_parameter_gets_a_gradient(make_network, batches):
    child, _ = morph_network(make_network(), "3c3_2branch", calibration=batches)
    child.train()
    child(batches[0]).square().sum().backward()
    for name, parameter in child.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        if ".branches." in name:
            assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("bn", ["paper", "paper_first"])
def test_the_papers_own_setting_drifts_and_says_so(make_network, batches, bn):
    _, report = morph_network(make_network(), "1c1", calibration=batches, bn=bn)
    assert report.drift_declared
    assert report.passed
    assert report.proof.exactness.relative > 1e-2
    assert "changes the function" in str(report)


@pytest.fixture(scope="module")
def judged_batches():
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(128, 3, 16, 16, generator=generator) for _ in range(8)]


@pytest.mark.parametrize(("spec", "depth"), some([("1c1", 14), ("3c3_half", 32), ("1c1", 32), ("3c3_half", 14)], 0, 1))
def test_the_training_mode_follows_the_parent_when_calibrated(make_network, judged_batches, spec, depth):
    _, report = morph_network(make_network(depth), spec, calibration=judged_batches)
    assert report.proof.training is not None
    assert report.proof.training.judged
    assert report.proof.training.ratio < 0.15


def test_fresh_batch_normalisation_looks_exact_in_evaluation_and_fails_in_training_mode(
    make_network, judged_batches, monkeypatch
):
    def fresh(child, branches, setting, images):
        with torch.no_grad():
            for norm in (norm for branch in branches for norm in (branch.bn1, branch.bn2)):
                norm.running_var.fill_(1 - norm.eps)

    monkeypatch.setattr("morphnet.morph.network.set_batch_norms", fresh)
    with pytest.raises(MorphError, match="training mode") as caught:
        morph_network(make_network(), "1c1", calibration=judged_batches)
    proof = caught.value.report.proof
    assert proof.exactness.relative < 1e-10
    assert len(proof.failures) == 1


def test_modes_and_frozen_parameters_of_the_parent_are_kept(make_network, batches):
    parent = make_network().train()
    parent.bn1.eval()
    parent.conv1.weight.requires_grad_(False)
    child, _ = morph_network(parent, "1c1", calibration=batches)
    assert not parent.bn1.training
    assert parent.bn2.training if hasattr(parent, "bn2") else parent.layer1.training
    assert not child.conv1.weight.requires_grad
    assert child.linear.weight.requires_grad


def test_a_drifting_setting_excuses_no_nan_and_nothing_that_adds_no_layer(make_network, batches):
    parent = make_network()
    with torch.no_grad():
        parent.linear.weight.fill_(float("nan"))
    with pytest.raises(MorphError):
        morph_network(parent, "1c1", calibration=batches, bn="paper")
    child, _ = morph_network(make_network(), "1c1", calibration=batches)
    _, report = morph_network(child, "3c1", calibration=batches, bn="paper")
    assert not report.drift_declared
    assert report.proof.exactness.relative < 1e-12


def test_a_shortcut_that_was_morphed_keeps_its_settings_and_the_report_says_which(make_network, batches):
    child, _ = morph_network(make_network(), "1c1", calibration=batches, split=0.3)
    _, report = morph_network(child, "3c1", calibration=batches, split=0.7, activation="ptanh")
    assert {(layer.shape.split, layer.shape.activation) for layer in report.layers} == {(0.3, "relu")}


def test_kernels_do_not_grow_under_exact_padding(make_network, batches):
    child, _ = morph_network(make_network(), "1c1", calibration=batches, padding="exact")
    with pytest.raises(ValueError, match="padding=exact"):
        morph_network(child, "3c1", calibration=batches)


def test_folding_where_zero_padding_would_pad_a_centred_blob_is_refused(make_network, batches):
    from morphnet.morph.statistics import check_foldable

    child, _ = morph_network(make_network(), "1c3", calibration=batches)
    branch = next(m for m in child.modules() if isinstance(m, Branch))
    check_foldable(branch)
    with torch.no_grad():
        branch.conv2.weight[0, 0, 0, 0] = 0.1
    with pytest.raises(ValueError, match="bn=folded needs"):
        check_foldable(branch)


def test_a_child_that_fails_its_proof_is_refused_with_its_report(make_network, batches, monkeypatch):
    import morphnet.morph.network as module

    solve = module.set_batch_norms

    def wrong(child, branches, setting, images):
        solve(child, branches, setting, images)
        with torch.no_grad():
            branches[0].bn2.weight.mul_(1.05)

    monkeypatch.setattr(module, "set_batch_norms", wrong)
    parent = make_network()
    with pytest.raises(MorphError, match="float64 logits before the cast") as caught:
        morph_network(parent, "1c1", calibration=batches)
    assert not caught.value.report.passed
    _, report = morph_network(parent, "1c1", calibration=batches, allow_inexact=True)
    assert report.proof.failures


def test_a_network_of_nan_fails_its_proof(make_network, batches):
    parent = make_network()
    with torch.no_grad():
        parent.linear.weight.fill_(float("nan"))
    with pytest.raises(MorphError):
        morph_network(parent, "1c1", calibration=batches)


def test_report_is_plain_json_with_cost_and_layers(make_network, batches):
    labels = [torch.randint(10, (16,)) for _ in batches]
    _, report = morph_network(make_network(20), "3c1", calibration=zip(batches, labels, strict=True))
    values = json.loads(json.dumps(report.to_dict()))
    assert values["macs_after"] > values["macs_before"]
    assert values["parameters_after"] > values["parameters_before"]
    assert {layer["name"] for layer in values["layers"]} == {f"layer{s}.{i}" for s in (1, 2, 3) for i in (1, 2)}
    assert all(layer["condition"] < 1.001 for layer in values["layers"])
    assert values["proof"]["training"]["child_loss"] is not None
    assert values["passed"] is True


def test_without_labels_no_loss_is_reported(make_network, batches):
    _, report = morph_network(make_network(), "1c1", calibration=batches)
    assert report.proof.training is not None
    assert report.proof.training.child_loss is None


def test_the_dtype_of_the_parent_is_kept(make_network, batches):
    child, _ = morph_network(make_network().double(), "1c1", calibration=batches)
    assert next(child.parameters()).dtype == torch.float64


def test_the_generator_decides_the_filters(make_network, batches):
    def filters(seed):
        child, _ = morph_network(
            make_network(), "1c1", calibration=batches, generator=torch.Generator().manual_seed(seed)
        )
        return next(m for m in child.modules() if isinstance(m, Branch)).conv1.weight

    assert torch.equal(filters(1), filters(1))
    assert not torch.equal(filters(1), filters(2))


def test_growing_kernels_needs_no_data(make_network, batches):
    child, _ = morph_network(make_network(), "1c1", calibration=batches)
    _, report = morph_network(child, "3c1")
    assert "random normal inputs" in report.inputs
    _, report = morph_network(child, "3c1", example_input=torch.zeros(1, 3, 12, 12))
    assert report.input_size == (1, 3, 12, 12)


def test_a_torchvision_resnet_is_converted_and_morphed():
    parent = torchvision.models.resnet18()
    images = [torch.randn(2, 3, 64, 64) for _ in range(2)]
    child, report = morph_network(parent, "1c1", calibration=images)
    assert report.proof.exactness.relative < 1e-10
    assert set(parent.state_dict()) < set(child.state_dict())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"spec": "1c1_hlaf"}, ValueError, "unknown suffix"),
        ({"bn": "wrong"}, ValueError, "bn='wrong'; expected one of calibrated, folded, paper, paper_first"),
        ({"method": "als"}, ValueError, "method='als'"),
        ({"calibration": None}, ValueError, "give calibration="),
        ({"calibration": []}, ValueError, "at least two batches"),
        ({"calibration": [torch.randn(2, 3, 8, 8)]}, ValueError, "at least two batches"),
        (
            {"calibration": [torch.randn(4, 1, 8, 8)] * 2},
            ValueError,
            r"shape \(N, 3, H, W\) is needed; got \(4, 1, 8, 8\)",
        ),
        ({"calibration": [torch.zeros(4, 3, 8, 8, dtype=torch.uint8)] * 2}, ValueError, "floating dtype"),
        ({"calibration": [torch.full((4, 3, 8, 8), float("nan"))] * 2}, ValueError, "infinities or NaN"),
        ({"activation": "wurst"}, ValueError, "wurst"),
        ({"parent": torch.nn.Linear(2, 2)}, TypeError, "got Linear"),
        ({"calibration": 5}, TypeError, "an iterable of batches"),
        ({"calibration": [torch.randn(4, 3, 8, 8), torch.randn(4, 3, 9, 9)]}, ValueError, "images of one size"),
        ({"calibration": [(torch.randn(4, 3, 8, 8), torch.full((4,), 10))] * 2}, ValueError, "labels from 0 to 9"),
        ({"calibration": [(torch.randn(4, 3, 8, 8), torch.zeros(3).long())] * 2}, ValueError, "4 labels"),
        ({"calibration": None, "example_input": torch.zeros(3, 8, 8)}, ValueError, "give calibration="),
        ({"activation": 5}, TypeError, "got int"),
        ({"spec": None}, TypeError, "NoneType"),
        ({"width": float("inf")}, ValueError, "width=inf"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_built(make_network, batches, arguments, error, message):
    given = {"parent": make_network(), "spec": "1c1", "calibration": batches, **arguments}
    with pytest.raises(error, match=message):
        morph_network(given.pop("parent"), given.pop("spec"), **given)


@pytest.mark.parametrize("spec", ["1c1", "1c1_half", "3c1"])
def test_a_real_trained_parent_keeps_its_function(trained_parent, spec):
    from morphnet.nn.resnet import cifar_architecture
    from morphnet.store import load_source

    parent = load_source(str(trained_parent), cifar_architecture(20, 10, shortcut="padding"))
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(32, 3, 32, 32, generator=generator) for _ in range(2)]
    _, report = morph_network(parent, spec, calibration=images)
    assert report.proof.exactness.relative < 1e-12
    assert report.proof.own_dtype.flips == 0


def test_a_morph_that_adds_nothing_says_so(make_network, batches):
    child, report = morph_network(make_network(), "1c1", calibration=batches)
    assert "the child is the parent" not in str(report)
    again, report = morph_network(child, "1c1", calibration=batches)
    assert "all that it touches was there already: the child is the parent" in str(report)
    assert network_hash(again) == network_hash(child)
