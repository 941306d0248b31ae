from pathlib import Path

import pytest
from omegaconf import OmegaConf

from morphnet.report.paper import PAPER, count_rows

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "experiment"


@pytest.fixture(scope="module")
def counted():
    return count_rows()


def test_every_row_of_the_tables_counts_what_the_paper_prints(counted):
    assert len(counted) == 24
    assert [row.row.name for row in counted if not row.agrees] == []


def test_relative_flop_rounds_to_the_printed_but_for_3c1(counted):
    # 1.3854 rounds to 1.39; the paper prints 1.38x.
    off = {row.row.name for row in counted if round(row.relative, 2) != row.row.relative_flop}
    assert off == {"morph20_3c1"}


def test_there_is_a_preset_for_every_row():
    data = {1: "cifar10", 2: "cifar100", 3: "imagenet"}
    for row in PAPER:
        name = f"{data[row.table]}_{row.name}" + (f"_via_{'_'.join(row.via)}" if row.via else "")
        preset = OmegaConf.to_container(OmegaConf.load(CONFIGS / f"{name}.yaml"))
        specs = [phase["morph"] for phase in preset["phases"]]
        assert specs == [None, *row.via, *([row.spec] if row.spec else [])]
        recipe, family = ("paper_imagenet", "imagenet") if row.table == 3 else ("paper", "cifar")
        assert {"override /recipe": recipe} in preset["defaults"]
        assert {"override /data": data[row.table]} in preset["defaults"]
        assert {"override /network": f"{family}_resnet{row.depth}"} in preset["defaults"]
        assert f"{100 * row.error:.2f} %" in (CONFIGS / f"{name}.yaml").read_text()


@pytest.mark.parametrize(("table", "data"), [(1, "cifar10"), (2, "cifar100")])
def test_the_presets_of_a_data_set_are_the_rows_of_its_table(table, data):
    """So that ``experiment=glob(cifar10_*,exclude=*_long)`` is one command for the table."""
    rows = {
        f"{data}_{row.name}" + (f"_via_{'_'.join(row.via)}" if row.via else "") for row in PAPER if row.table == table
    }
    assert {path.stem for path in CONFIGS.glob(f"{data}_*.yaml") if not path.stem.endswith("_long")} == rows
