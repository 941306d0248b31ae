"""What makes two runs the same, over the versions of the program."""

import json

from omegaconf import OmegaConf

from morphnet.cli.compose import digest
from morphnet.cli.identity import LATER, OF_FILES, variant_of
from morphnet.config import DataConfig, TrainConfig
from morphnet.settings import FREE_KEYS, PATHS, flat

INPUTS = {"data": "a hash", "parent": None, "processes": "1"}


def _config(**changes):
    config = OmegaConf.structured(TrainConfig(data=DataConfig(name="digits")))
    for key, value in changes.items():
        OmegaConf.update(config, key.replace("__", "."), value)
    return config


def test_settings_that_came_later_leave_older_variants_as_they_were():
    """The digits of a configuration without these keys, as it was before they existed."""
    known = {"after", "data.policy", "dry_run", "optim.ema", "optim.label_smoothing", "schedule.decay"}
    assert known <= set(LATER)
    settings = flat(OmegaConf.to_container(_config()))
    older = {
        key: value
        for key, value in settings.items()
        if key not in {*FREE_KEYS, *PATHS, *OF_FILES, "seed", *LATER} and not key.startswith("after.")
    }
    assert "schedule.warmup_lr" in older
    assert "schedule.warmup_steps" in older
    assert variant_of(_config(), INPUTS) == digest(json.dumps([older, INPUTS], sort_keys=True, default=str))


def test_settings_that_are_not_at_their_default_make_another_variant():
    variants = {
        variant_of(_config(**change), INPUTS)
        for change in (
            {}, {"after__kept_lr": 0.1}, {"optim__ema": 0.9}, {"schedule__warmup": "linear"},
            {"schedule__warmup_steps": 5}, {"data__policy": "cutout"},
        )
    }  # fmt: skip
    assert len(variants) == 6
    assert variant_of(_config(seed=3, dry_run=True), INPUTS) == variant_of(_config(), INPUTS)
