import pytest

from morphnet.morph import plan_morph
from morphnet.nn.branch import ShortcutShape
from morphnet.nn.resnet import cifar_architecture, imagenet_architecture
from morphnet.spec import parse_spec


def _plan(architecture, *specs, **settings):
    for spec in specs:
        plan = plan_morph(architecture, parse_spec(spec), **settings)
        architecture = plan.child
    return plan


@pytest.mark.parametrize(("depth", "half", "all_blocks"), [(20, 3, 6), (56, 12, 24), (110, 27, 51)])
def test_half_morphs_the_odd_blocks_and_the_first_of_a_stage_is_left_alone(depth, half, all_blocks):
    architecture = cifar_architecture(depth, 10)
    assert len(_plan(architecture, "1c1_half").blocks) == half
    touched = [block.block for block in _plan(architecture, "1c1").blocks]
    assert len(touched) == all_blocks
    assert not any(name.endswith(".0") for name in touched)


def test_shortcuts_of_bottlenecks_have_the_channels_that_leave_them():
    plan = _plan(imagenet_architecture(50), "1c1_half", "3c1")
    assert [(b.block, b.channels) for b in plan.blocks if b.before is not None] == [
        ("layer1.1", 256), ("layer2.1", 512), ("layer2.3", 512), ("layer3.1", 1024), ("layer3.3", 1024),
        ("layer3.5", 1024), ("layer4.1", 2048),
    ]  # fmt: skip
    assert len(plan.blocks) == 12
    assert all(b.after.mid_channels == b.channels for b in plan.blocks)


def test_every_relu_becomes_parametric_and_the_parent_stays_as_it_was():
    architecture = cifar_architecture(20, 10)
    child = _plan(architecture, "1c1").child
    assert child.activation == "prelu"
    assert architecture == cifar_architecture(20, 10)


def test_a_spec_on_a_morphed_parent_names_the_target_of_the_blocks_it_touches():
    plan = _plan(cifar_architecture(20, 10), "1c1_half", "3c1")
    by_name = {block.block: block for block in plan.blocks}
    assert len(by_name) == 6
    assert by_name["layer1.1"].before == ShortcutShape((1, 1), 16)
    assert by_name["layer1.2"].before is None
    assert {block.after.kernel_sizes for block in plan.blocks} == {(3, 1)}


def test_blocks_that_are_there_already_are_left_alone():
    plan = _plan(cifar_architecture(20, 10), "1c1_half", "1c1")
    assert plan.left_alone == ("layer1.1", "layer2.1", "layer3.1")
    assert [block.block for block in plan.blocks] == ["layer1.2", "layer2.2", "layer3.2"]
    assert _plan(cifar_architecture(20, 10), "1c1", "1c1_half").blocks == ()


def test_blocks_that_are_not_touched_stay():
    plan = _plan(cifar_architecture(20, 10), "1c1", "1c1_2branch_half")
    assert plan.child.shortcuts["layer1.1"].two_branches
    assert not plan.child.shortcuts["layer1.2"].two_branches


@pytest.mark.parametrize(
    ("first", "second"), [("3c1", "1c1"), ("3c1", "1c3"), ("1c1_2branch", "3c1"), ("3c3", "3c1_half")]
)
def test_a_step_backwards_is_refused(first, second):
    with pytest.raises(ValueError, match=r"step backwards for layer1\.1"):
        _plan(cifar_architecture(20, 10), first, second)


def test_a_changed_width_is_refused():
    plan = _plan(cifar_architecture(20, 10), "1c1")
    with pytest.raises(ValueError, match="keep the width"):
        plan_morph(plan.child, parse_spec("3c1"), width=2)


def test_a_network_with_one_block_a_stage_has_nothing_to_morph():
    with pytest.raises(ValueError, match="touches no block"):
        _plan(cifar_architecture(8, 10), "1c1")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": 0.0}, "split=0.0"),
        ({"split": 1.0}, "split=1.0"),
        ({"split": float("nan")}, "split=nan"),
        ({"width": 0.5}, "width=0.5"),
        ({"width": float("nan")}, "width=nan"),
        ({"padding": "valid"}, "padding='valid'"),
        ({"activation": "wurst"}, "wurst"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        _plan(cifar_architecture(20, 10), "1c1", **settings)
