"""Records for tests, made of the values that a test is about."""

from dataclasses import replace

from morphnet.report.record import Data, Lineage, Record, Settings

DATA = Data("mine", 60, "test", 100, 0, (0.5,), (0.25,))


def make_record(**changes):
    """A child that was trained for 640 steps; dictionaries change parts of ``data``, ``settings`` and ``lineage``."""
    values = {
        "experiment": "e", "seed": 0, "index": 1, "phase": "1c1", "label": "1c1", "role": "child", "control": None,
        "beside": None, "source": None, "from_scratch": False, "morph": None, "settings": Settings(), "command": (),
        "error": 0.1, "errors": 10, "loss": 0.5, "views": None, "start_error": 0.5, "start_loss": 1.0,
        "train_error": 0.1, "train_loss": 0.5, "steps": 640, "lr": 0.1, "seconds": 2.0, "images_per_second": 50.0,
        "resumed": 0, "gpu_memory_bytes": None, "training_precision": "float32", "evaluation_precision": "float32",
        "compiled": False, "processes": 1, "stretches": (), "history": (), "macs": 200, "parameters": 10,
        "collapsed_macs": None, "collapsed_parameters": None, "architecture": None, "network": None, "data": DATA,
        "optimisation": {}, "schedule": None, "handover": {}, "augmentation": {}, "morph_report": None,
        "lineage": Lineage(None, (), "begin", "end"), "started": "", "finished": "", "versions": {}, "hardware": {},
        "commit": None,
    }  # fmt: skip
    nested = {key: changes[key] for key in ("data", "settings", "lineage") if isinstance(changes.get(key), dict)}
    parts = {key: replace(values[key], **value) for key, value in nested.items()}
    return Record(**{**values, **changes, **parts})
