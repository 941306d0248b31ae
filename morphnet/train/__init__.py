"""Multi-phase training: schedule, step, phase, experiment."""

from morphnet.train.engine import Engine, choose_engine, keep_freed_memory
from morphnet.train.evaluate import Evaluation, evaluate, evaluate_data
from morphnet.train.experiment import Experiment
from morphnet.train.plan import PhasePlan, plan_phases
from morphnet.train.run import run_experiment

__all__ = [
    "Engine",
    "Evaluation",
    "Experiment",
    "PhasePlan",
    "choose_engine",
    "evaluate",
    "evaluate_data",
    "keep_freed_memory",
    "plan_phases",
    "run_experiment",
]
