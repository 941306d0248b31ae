"""Settings are values: made once, checked where they are made, and never changed."""

from dataclasses import FrozenInstanceError, replace

import pytest

from morphnet.cli.compose import from_plain
from morphnet.config import (
    OF_LAYERS,
    OF_SPECS,
    DataConfig,
    MorphCommandConfig,
    NetworkConfig,
    OptimConfig,
    PhaseConfig,
    TrainConfig,
)
from morphnet.morph import BN_SETTINGS, LAYER_BN_SETTINGS
from morphnet.solvers import INITS


def test_a_setting_cannot_be_changed_and_a_copy_can_have_another():
    config = TrainConfig()
    with pytest.raises(FrozenInstanceError, match="cannot assign to field 'seed'"):
        config.seed = 3
    assert (replace(config, seed=3).seed, config.seed) == (3, 0)


def test_what_is_composed_has_the_types_of_the_schema():
    config = from_plain(
        {"phases": [{"morph": "1c1", "epochs": 3}], "optim": {"lr": 1}, "data": {"name": "x"}}, TrainConfig
    )
    assert config.phases == [PhaseConfig(morph="1c1", epochs=3.0)]
    assert (config.optim, config.data) == (OptimConfig(lr=1.0), DataConfig(name="x"))
    given = {"parent": "p", "output": "o", "bn": "folded", "network": {"depth": 56}}
    assert from_plain(given, MorphCommandConfig).network == NetworkConfig(depth=56)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"phases": [{}, {"lr": -1.0}]}, r"phases\.1\.lr=-1\.0: a positive number"),
        ({"phases": [{"name": "../x"}]}, r"phases\.0\.name='\.\./x': .*it names a folder"),
        ({"after": {"shrink": 2.0}}, r"after\.shrink=2\.0"),
        ({"data": {"views": 10}}, r"data\.views=10 goes with images in files"),
        ({"data": {"crop": 8, "shorter_side": [9]}}, r"data\.shorter_side=\[9\]: \[shortest, longest\]"),
        ({"trainer": {"watch_every": 0}}, r"trainer\.watch_every=0: a number of steps from 1"),
        ({"trainer": {"stop_after": 0.0}}, r"trainer\.stop_after=0\.0: a number of seconds"),
        ({"new_head": True}, "new_head=true goes with parent="),
    ],
)
def test_a_wrong_value_is_refused_where_it_is_made(values, message):
    with pytest.raises(ValueError, match=message):
        from_plain({**values, "data": {"name": "digits", **values.get("data", {})}}, TrainConfig)


def test_the_choices_of_a_morph_are_those_of_the_library():
    assert (OF_SPECS["bn"], OF_LAYERS["bn"]) == (BN_SETTINGS, LAYER_BN_SETTINGS)
    assert set(OF_SPECS["init"]) == set(OF_LAYERS["init"]) == set(INITS)
