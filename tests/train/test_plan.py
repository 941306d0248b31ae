import pytest
from torch import nn

from morphnet.config import AfterConfig, MorphConfig, PhaseConfig, ScheduleConfig, TrainConfig
from morphnet.morph import Deepen, Widen
from morphnet.nn.resnet import cifar_architecture
from morphnet.train import plan_phases
from morphnet.train.plan import CONTROLS, folders_of
from tests.modules import module

PAIR = module("sa at")


def _plan(phases, controls=(), given=False, parent=None, layers=(), morphing=None, after=None, **schedule):
    config = TrainConfig(
        phases=[PhaseConfig(**phase) for phase in phases],
        controls=list(controls),
        schedule=ScheduleConfig(**{"epochs": 10, **schedule}),
        morphing=MorphConfig(**morphing or {}),
        after=AfterConfig(**after or {}),
        parent="given" if given else None,
    )
    return plan_phases(config, cifar_architecture(20, 10) if parent is None else parent, 6, 1000, layers)


def test_phases_come_from_each_other_and_controls_from_the_parent():
    plans = _plan([{}, {"morph": "1c1"}, {"morph": "3c1", "epochs": 5}], ["relu", "prelu"])
    assert [p.folder for p in plans] == [
        "0_parent", "1_1c1", "2_3c1", "3_relu_trained_on_1", "4_relu_trained_on_2", "5_prelu_trained_on_1",
        "6_prelu_trained_on_2",
    ]  # fmt: skip
    assert [p.source and p.source.index for p in plans] == [None, 0, 1, 0, 3, 0, 5]
    assert [p.depth for p in plans] == [0, 1, 2, 1, 2, 1, 2]
    assert [p.offset for p in plans] == [0, 60, 120, 60, 120, 60, 120]
    assert [p.schedule.steps for p in plans] == [60, 60, 30, 60, 30, 60, 30]
    assert [p.parametric for p in plans] == [False] * 5 + [True, False]


def test_a_given_parent_is_not_trained():
    plans = _plan([{}, {"morph": "1c1"}], given=True)
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
        ([{}, {"morph": "1c1"}], ["gelu"], "unknown 'gelu'; expected relu or prelu or linear or net2net"),
        ([{}, {"morph": "1c1"}], ["relu", "relu"], "named twice"),
        ([{}, {"morph": "1c1", "steps": 0}], [], "phases.1: schedule.steps=0"),
        ([{"steps": 3, "epochs": 3}], [], "phases.0: .*exactly one length"),
    ],
)
def test_wrong_phases_are_refused_before_anything_runs(phases, controls, message):
    with pytest.raises(ValueError, match=message):
        _plan(phases, controls)


def test_a_phase_without_a_morph_is_trained_on():
    plans = _plan([{}, {}, {"morph": "1c1"}, {"name": "rest"}])
    assert [(p.folder, p.label, p.grows) for p in plans] == [
        ("0_parent", "parent", False),
        ("1_trained_on", "trained on", False),
        ("2_1c1", "1c1", True),
        ("3_rest", "trained on", False),
    ]
    assert [p.source and p.source.index for p in plans] == [None, 0, 1, 2]


def test_phases_that_morph_layers():
    layers = [None, {"layer1.*.conv2": PAIR}, {"conv1": Widen(1.5)}]
    phases = [{}, {"module": "a", "target": "layer1.*.conv2"}, {"widen": 1.5, "target": "conv1"}]
    plans = _plan(phases, layers=layers, morphing={"method": "als"})
    assert [p.folder for p in plans] == ["0_parent", "1_a", "2_widen_1.5"]
    assert [p.label for p in plans] == ["parent", "a on layer1.*.conv2", "widen(1.5) on conv1"]
    assert [p.layers for p in plans] == layers
    assert [p.method for p in plans] == ["auto", "als", "als"]
    assert [p.grows for p in plans] == [False, True, True]


def test_specs_and_layers_in_turn():
    phases = [{}, {"morph": "1c1"}, {"module": "a", "target": "*.branches.0.conv1"}, {"morph": "3c1"}]
    plans = _plan(phases, layers=[None, None, {"*.branches.0.conv1": PAIR}, None])
    assert [p.morph for p in plans] == [None, "1c1", None, "3c1"]


def test_the_net2net_control_repeats_specs_and_deepens_with_identities():
    phases = [{}, {"morph": "1c1"}, {"deepen": 3, "target": "conv1"}]
    plans = _plan(phases, ["net2net"], layers=[None, None, {"conv1": Deepen(3)}])
    first, second = plans[3:]
    assert [p.folder for p in (first, second)] == ["9_net2net_1", "10_net2net_2"]
    assert (first.morph, first.layers, first.method, first.source) == ("1c1", None, "net2net", plans[0])
    assert (second.morph, second.layers, second.method) == (None, {"conv1": Deepen(3)}, "net2net")
    assert second.source == first
    assert all(p.role == "control" and p.grows for p in (first, second))
    assert plans[1].method == plans[2].method == "auto"
    (only,) = _plan([{}, {"morph": "1c1"}], ["net2net"])[2:]
    assert (only.folder, only.label) == ("5_net2net", "child by identity insert (Net2Net)")


def test_controls_from_scratch_train_the_last_child_for_its_phase_or_for_all():
    phases = [{"steps": 10, "warmup_steps": 3}, {"morph": "1c1", "steps": 20}, {"morph": "3c1", "steps": 40}]
    plans = _plan(phases, ["random", "scratch", "scratch_total"])
    first, second, scratch, total = plans[3:]
    assert [p.folder for p in (first, second)] == ["11_random_1", "12_random_2"]
    assert (first.morph, first.method, first.source, second.source) == ("1c1", "random", plans[0], first)
    assert first.label == second.label == "child by random insert"
    assert [(p.control, p.beside) for p in (first, second)] == [("random", 1), ("random", 2)]
    assert [(p.control, p.beside) for p in (scratch, total)] == [("scratch", 2), ("scratch_total", 2)]
    assert [(p.control, p.beside) for p in plans[:3]] == [(None, None)] * 3
    assert (scratch.source, scratch.grows, scratch.offset, scratch.schedule.steps) == (plans[2], False, 0, 40)
    assert (total.depth, total.method, total.schedule.steps, total.schedule.warmup_steps) == (0, "scratch", 70, 3)
    indices, folders = folders_of(3, ["random", "scratch", "scratch_total"])
    assert (indices, folders) == ({0, 1, 2}, {plan.folder for plan in plans[3:]})


def test_a_control_has_the_same_folder_whatever_others_there_are():
    phases = [{}, {"morph": "1c1"}, {"morph": "3c1"}]
    every = {plan.name: plan.folder for plan in _plan(phases, list(CONTROLS))}
    assert len(set(every.values())) == len(every) == 3 + 5 * 2 + 2
    for control in CONTROLS:
        assert {plan.folder for plan in _plan(phases, [control])} <= set(every.values())


def test_the_linear_control_grows_as_the_child_does_and_holds_its_slopes():
    plans = _plan([{}, {"morph": "1c1"}, {"morph": "3c1"}], ["linear"])
    assert [(p.morph, p.linear, p.depth) for p in plans[3:]] == [("1c1", True, 1), ("3c1", True, 2)]
    with pytest.raises(ValueError, match="no phase brings one"):
        _plan([{}, {}], ["linear"])


def test_a_given_parent_of_another_class_is_planned_with():
    parent = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 10))
    layers = [None, {"0": PAIR}]
    plans = _plan([{}, {"module": "a", "target": "0"}], ["relu"], True, parent, layers)
    assert [p.role for p in plans] == ["parent", "child", "control"]
    assert plans[2].layers is None


FOREIGN = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())


@pytest.mark.parametrize(
    ("phases", "settings", "message"),
    [
        (
            [{"target": "conv1"}],
            {"layers": [{"conv1": PAIR}]},
            "phases.0.target='conv1': the first phase is the parent",
        ),
        ([{}, {"morph": "1c1"}], {"parent": FOREIGN}, "the parent is a Sequential: name layers by target= instead"),
        ([{}, {}], {"parent": FOREIGN, "controls": ["prelu"]}, r"controls=\[prelu\] needs one of morphnet's ResNets"),
        ([{}, {}], {"controls": ["net2net"]}, "no phase has one"),
        ([{}, {}], {"controls": ["random"]}, r"controls=\[random\] goes with .*; no phase has one"),
        (
            [{}, {"widen": 2, "target": "conv1"}],
            {"controls": ["random"], "layers": [None, {"conv1": PAIR}]},
            "phases.1 has another morph",
        ),
        (
            [{}, {"morph": "1c1"}, {"module": "a"}],
            {"controls": ["net2net"], "layers": [None, None, {"conv1": PAIR}]},
            "phases.2 has another morph",
        ),
        ([{}, {}], {"morphing": {"bn": "all"}}, "morphing.bn='all'; expected one of calibrated, folded, .*, none$"),
        ([{}, {"morph": "1c1"}], {"morphing": {"bn": "none"}}, "morphing.bn='none'; .*paper_first with a spec"),
        (
            [{}, {"module": "a"}],
            {"layers": [None, {"conv1": PAIR}], "morphing": {"bn": "folded"}},
            "morphing.bn='folded'; expected one of none, calibrated, paper with target=",
        ),
    ],
)
def test_wrong_layers_and_controls_are_refused_before_anything_runs(phases, settings, message):
    with pytest.raises(ValueError, match=message):
        _plan(phases, **settings)


def test_phases_after_the_first_may_differ_from_it_in_schedule_and_beginning():
    phases = [{}, {"morph": "1c1"}, {"morph": "3c1", "lr": 0.5}]
    after = {"lr": 0.01, "milestones": [0.2], "decay": "cosine", "warmup_steps": 3, "kept_lr": 0.1}
    plans = _plan(phases, ["relu", "scratch"], after=after)
    assert [p.schedule.lr for p in plans] == [0.1, 0.01, 0.5, 0.01, 0.5, 0.1]
    assert [p.schedule.decay for p in plans] == ["step", *["cosine"] * 4, "step"]
    assert [p.handover.kept_lr for p in plans] == [1.0, *[0.1] * 4, 1.0]
    assert plans[1].schedule.milestones == (0.2,)


def test_a_setting_of_morphs_holds_for_what_it_fits():
    config = MorphConfig(bn="folded", padding="exact", init="sparse")
    spec, layers = config.settings_of(layers=False), config.settings_of(layers=True)
    assert [spec[key] for key in ("bn", "padding", "method", "init")] == ["folded", "exact", "auto", "sparse"]
    assert [layers[key] for key in ("bn", "padding", "method", "init")] == ["none", "exact", "auto", "sparse"]
    assert (MorphConfig().settings_of(False)["bn"], MorphConfig().settings_of(False)["padding"]) == (
        "calibrated",
        "same",
    )
    phases = [{}, {"morph": "1c1"}, {"module": "a", "target": "*.conv1"}]
    assert len(_plan(phases, layers=[None, None, {"*.conv1": PAIR}], morphing={"bn": "none"})) == 3
