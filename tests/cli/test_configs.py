"""Every preset composes, satisfies the schema, and plans."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from morphnet.cli.compose import configs_dir, register, run_name
from morphnet.cli.inputs import architecture_of
from morphnet.config import TrainConfig
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
    return plan_phases(
        config.phases, config.controls, config.schedule, config.optim.lr, steps_per_epoch, architecture,
        config.morphing, parent_given=False, train_images=1000,
    )  # fmt: skip


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_composes_and_plans(preset):
    config = _compose(f"experiment={preset}", *(["schedule.epochs=1"] if preset == "custom" else []))
    plans = _plan(config, 100 if "cifar100" in preset else 10)
    assert plans[0].role == "parent"
    if preset.startswith("cifar"):
        assert all(plan.schedule.steps == 64000 for plan in plans)
        assert (config.data.pad, config.data.flip) == (4, True)
        warmup = 400 if "110" in preset else 0
        assert [plan.schedule.warmup_steps for plan in plans] == [warmup] + [0] * (len(plans) - 1)
    if any(phase.morph for phase in config.phases):
        assert any(plan.role == "control" for plan in plans)


def test_there_are_presets_for_the_tables():
    assert len([p for p in PRESETS if p.startswith("cifar10_")]) == 16
    assert len([p for p in PRESETS if p.startswith("cifar100_")]) == 6


def test_phases_are_overridden_by_their_place():
    config = _compose("experiment=cifar10_morph20_1c1", "phases.1.epochs=7", "schedule.scale=0.5")
    assert _plan(config, 10)[1].schedule.steps == 1365


def test_a_run_is_named_by_what_was_asked_for():
    assert run_name("digits", 3, "") == "digits/seed3"
    assert run_name("digits", 3, "optim.lr=0.2") == run_name("digits", 3, "optim.lr=0.2")
    assert run_name("digits", 3, "optim.lr=0.2") != run_name("digits", 3, "optim.lr=0.3")
    assert len(run_name("digits", 3, "x=1")) == len("digits/seed3-12345678")
