"""What makes two runs the same."""

from dataclasses import asdict, replace

import pytest
from omegaconf import OmegaConf

from morphnet.cli.compose import to_yaml
from morphnet.cli.identity import check_same_run, claim, variant_of
from morphnet.config import DataConfig, TrainConfig

INPUTS = {"data": "a hash", "parent": None, "processes": "1"}
FREE = {
    "device": "cuda", "data__path": "elsewhere.npz", "trainer__threads": 3, "trainer__compile": "true",
    "trainer__cuda_graph": "false", "data__workers": 2, "trainer__stop_after": 9, "trainer__evaluate_every": 7,
    "trainer__watch_steps": 5,
    "trainer__checkpoint_seconds": 1, "controls": ["relu", "linear"], "output": "elsewhere", "dry_run": True,
}  # fmt: skip


def _config(**changes):
    config = TrainConfig(data=DataConfig(name="digits"), controls=["prelu"])
    for key, value in changes.items():
        group, _, name = key.partition("__")
        change = {group: replace(getattr(config, group), **{name: value}) if name else value}
        config = replace(config, **change)
    return config


def test_settings_that_decide_the_result_make_another_variant():
    variants = {
        variant_of(_config(**change), INPUTS)
        for change in (
            {}, {"after__kept_lr": 0.1}, {"optim__ema": 0.9}, {"schedule__warmup": "linear"}, {"precision": "float16"},
            {"schedule__warmup_steps": 5}, {"data__policy": "cutout"},
        )
    }  # fmt: skip
    assert len(variants) == 7


@pytest.mark.parametrize("key", FREE)
def test_how_a_run_is_computed_makes_no_other_run(tmp_path, key):
    files = {"data__crop": 8} if key == "data__workers" else {}
    other = _config(**files, **{key: FREE[key]})
    assert variant_of(other, INPUTS) == variant_of(_config(**files, seed=3), INPUTS)
    (tmp_path / "config.yaml").write_text(to_yaml(asdict(_config(**files))))
    check_same_run(other, tmp_path)


def test_a_run_with_other_settings_is_refused_by_name(tmp_path):
    (tmp_path / "config.yaml").write_text(to_yaml(asdict(_config())))
    with pytest.raises(FileExistsError, match=r"other settings:\n  optim.lr: 0.1 there, 0.2 now"):
        check_same_run(_config(optim__lr=0.2), tmp_path)


def test_a_run_that_goes_on_elsewhere_keeps_where_its_data_are_and_all_controls(tmp_path):
    for config in (_config(data__path="here.npz"), _config(data__path="there.npz", controls=["linear", "prelu"])):
        claim(tmp_path, config, INPUTS)
    saved = OmegaConf.load(tmp_path / "config.yaml")
    assert (saved.data.path, saved.controls) == ("there.npz", ["prelu", "linear"])
    with pytest.raises(FileExistsError, match="other content of the data"):
        claim(tmp_path, _config(), {**INPUTS, "data": "another hash"})
    with pytest.raises(FileExistsError, match="begun by 1 processes, and there are 2 now"):
        claim(tmp_path, _config(), {**INPUTS, "processes": "2"})
