"""Where and how the steps of a phase were trained, as its record says it."""

from dataclasses import replace

from morphnet.train.stretches import Arithmetic, begin_stretch, extend_stretch

HERE = Arithmetic("cpu", "a processor", "float32", 1, False, False, "2.14.1")
THERE = replace(HERE, precision="bfloat16", threads=2, compiled=True)
COMMIT = {"hash": "0" * 40, "dirty": False}


def _stretches():
    """One stretch of ten steps in two seconds."""
    stretches = []
    assert begin_stretch(stretches, 0, HERE, COMMIT) == ""
    extend_stretch(stretches, 10, 2.0, 50)
    return stretches


def test_a_phase_that_goes_on_as_it_was_is_one_stretch():
    stretches = _stretches()
    assert begin_stretch(stretches, 10, HERE, COMMIT) == ""
    extend_stretch(stretches, 15, 2.5, 50)
    (only,) = stretches
    assert (only["from"], only["to"], only["seconds"], only["images_per_second"]) == (0, 15, 2.5, 300)
    assert only["commit"] == COMMIT


def test_another_arithmetic_begins_a_stretch_and_is_said():
    stretches = _stretches()
    assert begin_stretch(stretches, 10, THERE, COMMIT) == (
        "other arithmetic from here on: bfloat16 on a processor, 2 threads, compiled, torch 2.14.1; "
        "before: float32 on a processor, 1 thread, torch 2.14.1"
    )
    extend_stretch(stretches, 20, 3.0, 50)
    assert [(s["from"], s["to"], s["precision"], s["images_per_second"]) for s in stretches] == [
        (0, 10, "float32", 250),
        (10, 20, "bfloat16", 500),
    ]


def test_another_commit_begins_a_stretch_without_a_word():
    stretches = _stretches()
    assert begin_stretch(stretches, 10, HERE, {**COMMIT, "dirty": True}) == ""
    assert [s["from"] for s in stretches] == [0, 10]
