"""Where and how the steps of a phase were trained, as its record says it."""

from dataclasses import replace

from morphnet.train.stretches import Arithmetic, Stretches

HERE = Arithmetic("cpu", "a processor", "float32", 1, False, False, "2.14.1")
THERE = replace(HERE, precision="bfloat16", threads=2, compiled=True)
COMMIT = {"hash": "0" * 40, "dirty": False}


def test_a_phase_that_goes_on_as_it_was_is_one_stretch():
    stretches = Stretches()
    assert stretches.begin(0, HERE, COMMIT) is None
    stretches.trained(10, 2.0, 50)
    continued = Stretches(stretches.done)
    assert continued.begin(10, HERE, COMMIT) is None
    continued.trained(15, 0.5, 50)
    (only,) = continued.done
    assert (only["from"], only["to"], only["seconds"], only["images_per_second"]) == (0, 15, 2.5, 300)
    assert only["commit"] == COMMIT


def test_another_arithmetic_begins_a_stretch_and_is_said():
    stretches = Stretches()
    stretches.begin(0, HERE, COMMIT)
    stretches.trained(10, 2.0, 50)
    said = stretches.begin(10, THERE, COMMIT)
    assert said == (
        "other arithmetic from here on: bfloat16 on a processor, 2 threads, compiled, torch 2.14.1; "
        "before: float32 on a processor, 1 thread, torch 2.14.1"
    )
    stretches.trained(20, 1.0, 50)
    assert [(s["from"], s["to"], s["precision"], s["images_per_second"]) for s in stretches.done] == [
        (0, 10, "float32", 250),
        (10, 20, "bfloat16", 500),
    ]


def test_another_commit_begins_a_stretch_without_a_word():
    stretches = Stretches()
    stretches.begin(0, HERE, COMMIT)
    stretches.trained(10, 2.0, 50)
    assert stretches.begin(10, HERE, {**COMMIT, "dirty": True}) is None
    assert [s["from"] for s in stretches.done] == [0, 10]
