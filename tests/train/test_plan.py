import pytest

from morphnet.config import MorphConfig, PhaseConfig, ScheduleConfig
from morphnet.nn.resnet import cifar_architecture
from morphnet.train import plan_phases


def _plan(phases, controls=(), parent_given=False, **schedule):
    return plan_phases(
        [PhaseConfig(**phase) for phase in phases],
        list(controls),
        ScheduleConfig(**{"epochs": 10, **schedule}),
        0.1,
        6,
        cifar_architecture(20, 10),
        MorphConfig(),
        parent_given,
        1000,
    )


def test_phases_come_from_each_other_and_controls_from_the_parent():
    plans = _plan([{}, {"morph": "1c1"}, {"morph": "3c1", "epochs": 5}], ["relu", "prelu"])
    assert [p.folder for p in plans] == [
        "0_parent", "1_1c1", "2_3c1", "3_relu_trained_on_1", "4_relu_trained_on_2", "5_prelu_trained_on_1",
        "6_prelu_trained_on_2",
    ]  # fmt: skip
    assert [p.source for p in plans] == [None, 0, 1, 0, 3, 0, 5]
    assert [p.offset for p in plans] == [0, 60, 120, 60, 120, 60, 120]
    assert [p.schedule.steps for p in plans] == [60, 60, 30, 60, 30, 60, 30]
    assert [p.parametric for p in plans] == [False] * 5 + [True, False]


def test_a_given_parent_is_not_trained():
    plans = _plan([{}, {"morph": "1c1"}], parent_given=True)
    assert plans[0].schedule is None
    assert plans[1].offset == 0


def test_a_phase_may_have_its_own_schedule():
    parent, child = _plan([{"warmup_steps": 5}, {"morph": "1c1", "steps": 100, "lr": 0.01}], scale=0.5)
    assert (parent.schedule.steps, parent.schedule.warmup_steps) == (30, 2)
    assert (child.schedule.steps, child.schedule.lr, child.schedule.warmup_steps) == (50, 0.01, 0)


@pytest.mark.parametrize(
    ("phases", "controls", "message"),
    [
        ([], [], "phases is empty"),
        ([{"morph": "1c1"}], [], "first phase is the parent"),
        ([{}, {"morph": "1c1_hlaf"}], [], "phases.1.morph=1c1_hlaf: .*unknown suffix"),
        ([{}, {"morph": "3c1"}, {"morph": "1c1"}], [], "phases.2.morph=1c1: .*step backwards"),
        ([{}, {"morph": "1c1"}], ["gelu"], "unknown 'gelu'; expected relu or prelu or net2net"),
        ([{}, {"morph": "1c1"}], ["relu", "relu"], "named twice"),
        ([{}, {"morph": "1c1", "steps": 0}], [], "phases.1: schedule.steps=0"),
        ([{"steps": 3, "epochs": 3}], [], "phases.0: .*exactly one length"),
    ],
)
def test_wrong_phases_are_refused_before_anything_runs(phases, controls, message):
    with pytest.raises(ValueError, match=message):
        _plan(phases, controls)
