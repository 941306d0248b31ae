import csv

from morphnet.train.steplog import StepLog


def _rows(path):
    with open(path) as file:
        return [(int(r["step"]), float(r["lr"]), float(r["loss"]), int(r["errors"])) for r in csv.DictReader(file)]


def test_numbers_are_read_as_they_were_written(tmp_path):
    log = StepLog(tmp_path / "steps.csv")
    log.add(1, 0.1, 2.302585124969482, 7)
    log.add(2, 0.1 / 3, 1e-300, 0)
    log.flush()
    assert _rows(tmp_path / "steps.csv") == [(1, 0.1, 2.302585124969482, 7), (2, 0.1 / 3, 1e-300, 0)]


def test_what_was_written_after_the_checkpoint_is_written_again(tmp_path):
    log = StepLog(tmp_path / "steps.csv")
    for step, errors in enumerate((3, 2, 1), 1):
        log.add(step, 0.1, float(errors), errors)
    log.flush()
    with open(tmp_path / "steps.csv", "a") as file:
        file.write("4,0.1,0.")  # torn
    log = StepLog(tmp_path / "steps.csv", done=2)
    log.add(3, 0.1, 1.5, 1)
    log.flush()
    assert _rows(tmp_path / "steps.csv") == [(1, 0.1, 3.0, 3), (2, 0.1, 2.0, 2), (3, 0.1, 1.5, 1)]


def test_a_new_phase_begins_a_new_file(tmp_path):
    (tmp_path / "steps.csv").write_text("of another attempt")
    StepLog(tmp_path / "steps.csv")
    assert _rows(tmp_path / "steps.csv") == []
