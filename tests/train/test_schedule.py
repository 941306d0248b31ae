import pytest

from morphnet.config import AfterConfig, OptimConfig, PhaseConfig, ScheduleConfig, TrainConfig
from morphnet.train.schedule import Schedule, schedule_of


def _schedule(lr=0.1, phase=None, **schedule):
    common = ScheduleConfig(**{"steps": 64000, "warmup_steps": 400, **schedule})
    config = TrainConfig(phases=[PhaseConfig(**phase or {})], schedule=common, optim=OptimConfig(lr=lr))
    return schedule_of(config, 0, 390)


def test_the_papers_schedule_drops_at_32k_and_48k():
    schedule = _schedule()
    rates = [schedule.rate(step) for step in (0, 399, 400, 31999, 32000, 47999, 48000, 63999)]
    assert rates == pytest.approx([0.01, 0.01, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_scale_shortens_everything_in_proportion():
    schedule = _schedule(scale=0.1)
    assert (schedule.steps, schedule.warmup_steps) == (6400, 40)
    assert [schedule.rate(s) for s in (3199, 3200, 4799, 4800)] == pytest.approx([0.1, 0.01, 0.01, 0.001])


def test_epochs_become_steps():
    assert _schedule(steps=None, epochs=2.5).steps == 975
    assert _schedule(steps=3, scale=0.01).steps == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 3}, "exactly one length is needed; set the other to null"),
        ({"steps": None}, "exactly one length is needed"),
        ({"scale": 0}, "schedule.scale=0"),
        ({"scale": float("nan")}, "schedule.scale=nan"),
        ({"steps": -5}, "schedule.steps=-5"),
        ({"milestones": [0.75, 0.5]}, "schedule.milestones"),
        ({"phase": {"lr": -1.0}}, "phases.0.lr=-1.0"),
        ({"phase": {"milestones": [2]}}, "phases.0.milestones=.2.: fractions"),
        ({"milestones": [32000]}, "fractions of the phase, between"),
        ({"lr": -1.0}, "optim.lr=-1.0"),
        ({"lr": float("nan")}, "optim.lr=nan"),
        ({"factor": 0.0}, "schedule.factor"),
    ],
)
def test_wrong_schedules_are_refused_with_the_key_named(change, message):
    with pytest.raises(ValueError, match=message):
        _schedule(**change)


def test_a_schedule_is_a_value():
    assert Schedule(10, 0.1) == Schedule(10, 0.1)


def test_a_cosine_falls_from_the_rate_to_nothing_after_a_linear_warm_up():
    schedule = Schedule(110, 0.2, warmup_steps=10, warmup_lr=0.1, decay="cosine", warmup="linear")
    rates = [schedule.rate(step) for step in (0, 5, 10, 60, 110)]
    assert rates == pytest.approx([0.1, 0.15, 0.2, 0.1, 0.0])
    assert _schedule(decay="cosine", warmup="linear").rate(32200) == pytest.approx(0.05)


@pytest.mark.parametrize("key", ["decay", "warmup"])
def test_unknown_shapes_are_refused(key):
    with pytest.raises(ValueError, match=rf"schedule\.{key}='poly'; expected"):
        ScheduleConfig(**{key: "poly"})
    with pytest.raises(ValueError, match=rf"after\.{key}='poly'; expected"):
        AfterConfig(**{key: "poly"})
