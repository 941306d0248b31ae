"""Every preset composes, satisfies the schema, and plans."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from morphnet.cli.compose import configs_dir, register, run_name
from morphnet.cli.inputs import architecture_of
from morphnet.cli.operations import layer_morphs
from morphnet.config import TrainConfig
from morphnet.flops import count_macs
from morphnet.morph import find_targets, plan_morph
from morphnet.morph.named import identity_channels, plan_layers
from morphnet.morph.plan import Settings
from morphnet.nn.resnet import bare
from morphnet.nn.structure import restore_structure
from morphnet.spec import parse_spec
from morphnet.train import plan_phases

PRESETS = sorted(path.stem for path in Path(configs_dir(), "experiment").glob("*.yaml"))


def _compose(*overrides):
    register()
    with initialize_config_dir(configs_dir(), version_base="1.3"):
        config = compose("train", [*overrides, "name=test"])
    converted = OmegaConf.to_object(config)
    assert isinstance(converted, TrainConfig)
    return converted


def _plan(config, classes, steps_per_epoch=390):
    architecture = architecture_of(config.network, classes, 3)
    layers = [layer_morphs(phase, f"phases.{i}.") for i, phase in enumerate(config.phases)]
    return plan_phases(config, architecture, steps_per_epoch, 1000, layers)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_composes_and_plans(preset):
    config = _compose(f"experiment={preset}", *(["schedule.epochs=1"] if preset == "custom" else []))
    plans = _plan(config, 100 if "cifar100" in preset else 10)
    assert plans[0].role == "parent"
    if preset.startswith("cifar"):
        later = 128000 if preset.endswith("_long") else 64000
        assert [plan.steps for plan in plans] == [64000] + [later] * (len(plans) - 1)
        assert (config.data.pad, config.data.flip) == (4, True)
        warmup = 400 if "110" in preset else 0
        assert [plan.schedule.warmup_steps for plan in plans] == [warmup] + [0] * (len(plans) - 1)
    assert all(plan.grows for plan in plans if plan.role == "child")
    if any(phase.morph for phase in config.phases) and not preset.startswith("after_morph"):
        assert any(plan.role == "control" for plan in plans)


def test_there_are_presets_for_the_tables():
    assert len([p for p in PRESETS if p.startswith("cifar10_") and not p.endswith("_long")]) == 16
    assert len([p for p in PRESETS if p.startswith("cifar100_")]) == 6
    assert {"imagenet_resnet18", "imagenet_morph18_1c1"} <= set(PRESETS)


IMAGENET = [preset for preset in PRESETS if preset.startswith("imagenet_")]
#: Training images of ILSVRC 2012.
IMAGENET_IMAGES = 1_281_167


@pytest.mark.parametrize("preset", IMAGENET)
def test_the_imagenet_recipe_divides_the_rate_after_exactly_30_and_60_of_70_epochs(preset):
    config = _compose(f"experiment={preset}")
    assert config.data.name == "imagenet"
    assert (config.optim.batch_size, config.optim.momentum, config.optim.weight_decay) == (256, 0.9, 1e-4)
    epoch = IMAGENET_IMAGES // config.optim.batch_size
    assert epoch == 5004
    for plan in _plan(config, 1000, epoch):
        assert plan.schedule.steps == 70 * epoch
        steps = [0, 30 * epoch - 1, 30 * epoch, 60 * epoch - 1, 60 * epoch, 70 * epoch - 1]
        rates = [plan.schedule.rate(step) for step in steps]
        assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


@pytest.mark.parametrize(
    ("preset", "macs"),
    [
        ("imagenet_resnet18", 1_814_073_344),
        ("imagenet_morph18_1c1", 1_916_833_792),
        ("imagenet_morph50_side_1c1", 4_294_705_152),
        ("imagenet_morph50_1c1_few", 4_500_226_048),
    ],
)
def test_imagenet_presets_cost_little_more_than_their_parents(preset, macs):
    config = _compose(f"experiment={preset}")
    parent = architecture_of(config.network, 1000, 3)
    size = (1, 3, 224, 224)
    found = count_macs(_child(config, parent, size), size)
    assert found == macs
    assert found <= 1.2 * count_macs(bare(parent), size)


def _child(config, architecture, size):
    """The last child of ``config``, without weights."""
    layers = [layer_morphs(phase) for phase in config.phases]
    for phase in config.phases:
        if phase.morph is not None:
            architecture = plan_morph(architecture, parse_spec(phase.morph)).child
    network, how = bare(architecture), config.morphing.settings_of(layers=True)
    for patterns in filter(None, layers):
        targets = find_targets(network, patterns)
        channels = identity_channels(network, targets, torch.empty(size, device="meta"))
        settings = Settings(how["bn"], how["padding"], how["activation"], how["method"], how["init"])
        shapes = plan_layers(network, targets, channels, settings)
        with torch.device("meta"):
            restore_structure(network, {"modules": {name: shape.to_dict() for name, shape in shapes.items()}})
    return network


def test_phases_are_overridden_by_their_place():
    config = _compose("experiment=cifar10_morph20_1c1", "phases.1.epochs=7", "schedule.scale=0.5")
    assert _plan(config, 10)[1].schedule.steps == 1365


def test_a_run_is_named_by_what_was_asked_for():
    assert run_name("digits", 3, "") == "digits/seed3"
    assert run_name("digits", 3, "optim.lr=0.2") == run_name("digits", 3, "optim.lr=0.2")
    assert run_name("digits", 3, "optim.lr=0.2") != run_name("digits", 3, "optim.lr=0.3")
    assert len(run_name("digits", 3, "x=1")) == len("digits/seed3-12345678")
