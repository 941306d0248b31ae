"""The paper's claims as data: every one of them can be decided, and says what the paper says."""

import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import yaml

from morphnet.cli.completion import words_of
from morphnet.cli.help import help_of
from morphnet.report.claims import Claim, Network, read_claims
from morphnet.report.comparison import TABLES
from morphnet.report.paper import PAPER
from morphnet.train.plan import control_numbers
from tests.cli.test_configs import _compose, _plan

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
CLAIMS = read_claims(CONFIGS)
NETWORKS = {n for claim in CLAIMS for n in (claim.network, claim.against) if isinstance(n, Network)}
CHILD = Network("cifar10_morph20_1c1", "1c1")
PARENT = Network("cifar10_morph20_1c1", "parent")


def _row(network):
    """The row of the paper that a network is, by the name of its preset."""
    for row in PAPER:
        data = next(name for name, table in TABLES.items() if table == row.table)
        name = f"{data}_{row.name}" + (f"_via_{'_'.join(row.via)}" if row.via else "")
        parent = (row.table, row.depth, None)
        if network.experiment == name and network.phase == (row.spec or "parent"):
            return row
        if network.experiment == name and network.phase == "parent":
            return next(other for other in PAPER if (other.table, other.depth, other.spec) == parent)
    return None


def _error(row, views):
    return row.error if views == 1 else row.error_ten_views


@cache
def _names(experiment):
    """The phases of a preset, and those of all controls that claims name, as they are planned."""
    controls = sorted({n.control for n in NETWORKS if n.experiment == experiment and n.control})
    config = replace(_compose(f"experiment={experiment}"), controls=controls)
    plans = _plan(config, {"cifar100": 100, "imagenet": 1000}.get(config.data.name, 10))
    phases = [plan.name for plan in plans if plan.role != "control"]
    return phases, {plan.name for plan in plans}


@pytest.mark.parametrize("network", sorted(NETWORKS, key=str), ids=str)
def test_every_network_of_a_claim_can_be_trained(network):
    phases, names = _names(network.experiment)
    assert network.phase in phases
    if network.control is not None:
        numbers = control_numbers(network.control, len(phases))
        beside = phases[1:] if len(numbers) == len(phases) - 1 else phases[-1:]
        assert dict(zip(beside, numbers, strict=True))[network.phase][1] in names


@pytest.mark.parametrize("claim", [claim for claim in CLAIMS if claim.margin], ids=lambda claim: claim.claim)
def test_a_margin_is_the_papers(claim):
    network, against = _row(claim.network), _row(claim.against)
    gain = 100 * (_error(against, claim.views) - _error(network, claim.views))
    assert claim.margin == pytest.approx(gain, abs=1e-9)
    assert str(claim.margin) in claim.claim or claim.test == "unpaired"


def test_every_child_of_the_tables_is_to_beat_its_parent_and_by_the_papers_margin():
    made = [
        (_row(claim.network), claim.views, claim.margin > 0)
        for claim in CLAIMS
        if claim.source.startswith("Table") and claim.against == Network(claim.network.experiment, "parent")
    ]
    wanted = [
        (row, views, margin)
        for row in PAPER
        if row.spec is not None
        for views in ((1,) if row.error_ten_views is None else (1, 10))
        for margin in (False, True)
    ]
    assert len(made) == len(wanted)
    assert all(one in made for one in wanted)


def test_children_have_claims_against_the_controls_that_could_explain_them():
    found = {(c.network.experiment, c.against.control) for c in CLAIMS if isinstance(c.against, Network)}
    assert {("cifar10_morph20_1c1", control) for control in ("prelu", "linear", "scratch_total")} <= found
    assert all(c.seeds == 8 for c in CLAIMS if isinstance(c.against, Network) and c.against.control == "linear")


def test_one_long_phase_has_as_many_steps_as_the_two_it_is_compared_with():
    (claim,) = [c for c in CLAIMS if isinstance(c.against, Network) and c.against.experiment.endswith("_long")]
    one, two = (_plan(_compose(f"experiment={n.experiment}"), 10) for n in (claim.against, claim.network))
    children = [[plan.schedule for plan in plans if plan.role == "child"] for plans in (one, two)]
    assert [len(phases) for phases in children] == [1, 2]
    assert children[0][0].steps == sum(schedule.steps for schedule in children[1])
    assert children[0][0].milestones == children[1][0].milestones
    assert one[0] == two[0]


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.8, 1.5, "confirmed"), (0.7, 1.5, "undecided"), (0.1, 0.7, "undecided"), (-0.2, 0.6, "refuted")],
)
def test_an_interval_entirely_above_margin_less_tolerance_confirms_and_entirely_below_refutes(low, high, verdict):
    claim = Claim("better", "Table 1", CHILD, PARENT, "paired", 8, margin=1.0, tolerance=0.3)
    assert claim.threshold == pytest.approx(0.7)
    assert claim.verdict(low, high) == verdict


def test_claims_are_no_group_of_any_command():
    assert "claims=" not in help_of("train")
    assert not [word for word in words_of("train") if word.startswith("claims=")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"claim": ""}, "claim=''"),
        ({"test": "pared"}, "test='pared'; expected one of paired"),
        ({"test": "one_sample"}, "one_sample goes with a published error"),
        ({"against": 8.75}, "one_sample goes with a published error"),
        ({"against": 875, "test": "one_sample"}, "published error from 0 to 100"),
        ({"seeds": 1}, "seeds=1"),
        ({"margin": "1.4"}, "margin='1.4'"),
        ({"tolerance": -0.1}, "tolerance=-0.1"),
        ({"views": 5}, "views=5"),
        ({"level": 95}, "level=95"),
        ({"against": vars(CHILD)}, "compared with itself"),
        ({"network": "cifar10_morph20_1c1"}, "network: {experiment"),
        (
            {"network": {**vars(CHILD), "experiment": "cifar10_morph20_1c2"}},
            "experiment=cifar10_morph20_1c2: .*does not exist",
        ),
        ({"network": {**vars(CHILD), "phase": "1c2"}}, "phase=1c2: cifar10_morph20_1c1 has parent, 1c1"),
        ({"against": {**vars(PARENT), "control": "prelu"}}, "parent is the parent, which has no controls"),
        ({"against": {"experiment": "cifar10_resnet110", "phase": "parent"}}, "have other parents"),
        ({"margins": 1}, "unexpected keyword argument 'margins'"),
    ],
)
def test_a_wrong_claim_is_refused_by_file_and_sentence(tmp_path, change, message):
    right = {
        "claim": "better", "source": "Table 1", "network": vars(CHILD), "against": vars(PARENT), "test": "paired",
        "seeds": 8,
    }  # fmt: skip
    shutil.copytree(CONFIGS / "experiment", tmp_path / "experiment")
    (tmp_path / "claims").mkdir()
    file = tmp_path / "claims" / "mine.yaml"
    file.write_text(yaml.safe_dump({"claims": [right]}))
    assert len(read_claims(tmp_path)) == 1
    file.write_text(yaml.safe_dump({"claims": [{**right, **change}]}))
    with pytest.raises(ValueError, match=message) as caught:
        read_claims(tmp_path)
    assert f"{file}, claim 1" in str(caught.value)


def test_a_claim_stands_there_once(tmp_path):
    shutil.copytree(CONFIGS, tmp_path / "configs")
    shutil.copy(CONFIGS / "claims" / "text.yaml", tmp_path / "configs" / "claims" / "twice.yaml")
    with pytest.raises(ValueError, match=r"twice\.yaml, claim 1 .*: the claim is repeated"):
        read_claims(tmp_path / "configs")
