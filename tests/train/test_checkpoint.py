import pickle

import pytest
import torch

from morphnet.train.checkpoint import CheckpointError, CheckpointFiles, PhaseState, remove_checkpoints


def _checkpoint(step):
    state = PhaseState(step, 1.5, 2, 3, [{"step": 0}], seconds=1.0, seconds_evaluated=0.5)
    return state, {"network": {"weight": torch.arange(4.0) + step}, "optimizer": {"lr": 0.1}}


@pytest.fixture
def files(tmp_path):
    return CheckpointFiles(tmp_path / "checkpoint.pt", "run 1, phase 0")


def _step(files):
    found = files.load()
    return None if found is None else found[0].step


def test_what_is_saved_comes_back(files):
    assert files.load() is None
    files.save(*_checkpoint(3))
    state, trained = files.load()
    assert state == _checkpoint(3)[0]
    assert torch.equal(trained["network"]["weight"], torch.arange(4.0) + 3)
    assert trained["optimizer"] == {"lr": 0.1}


def test_the_last_two_are_kept_and_nothing_else(files):
    for step in (1, 2, 3):
        files.save(*_checkpoint(step))
    assert sorted(p.name for p in files.path.parent.iterdir()) == ["checkpoint.previous.pt", "checkpoint.pt"]
    files.path.unlink()  # as if killed between the two renames
    assert _step(files) == 2


@pytest.mark.parametrize("share", [0.0, 0.001, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.999])
def test_a_truncated_file_is_named_and_the_one_before_is_used(files, share, capsys):
    files.save(*_checkpoint(1))
    files.save(*_checkpoint(2))
    content = files.path.read_bytes()
    files.path.write_bytes(content[: int(share * len(content))])
    assert _step(files) == 1
    said = capsys.readouterr().out
    assert str(files.path) in said
    assert "step 1" in said
    assert files.path.with_name("checkpoint.pt.damaged").exists()
    files.save(*_checkpoint(2))  # and it goes on
    assert _step(files) == 2


def test_every_length_and_every_flipped_byte_is_found_out(files):
    files.save(*_checkpoint(1))
    content = files.path.read_bytes()
    places = [*range(200), *range(200, len(content), 37), len(content) - 1]
    for at in places:
        for damaged in (content[:at], content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :]):
            files.path.write_bytes(damaged)
            with pytest.raises(CheckpointError, match=r"checkpoint\.pt"):
                files.load()


def test_a_checkpoint_of_another_run_is_foreign(files):
    files.save(*_checkpoint(1))
    other = CheckpointFiles(files.path, "run 2, phase 0")
    with pytest.raises(CheckpointError, match="belongs to another run"):
        other.load()


def test_a_malicious_pickle_does_not_run(files, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    import hashlib
    import io

    buffer = io.BytesIO()
    torch.save({"identity": files.identity, "state": Evil()}, buffer)
    content = buffer.getvalue()
    ours = b"morphnet checkpoint " + hashlib.sha256(content).hexdigest().encode() + b"\n" + content
    for payload in (ours, pickle.dumps(Evil())):
        files.path.write_bytes(payload)
        with pytest.raises(CheckpointError):
            files.load()
    assert not (tmp_path / "ran").exists()


def test_a_folder_is_cleared_of_all_of_them(files):
    files.save(*_checkpoint(1))
    files.save(*_checkpoint(2))
    keep = files.path.with_name("record.json")
    keep.write_text("{}")
    remove_checkpoints(files.path.parent)
    assert list(files.path.parent.iterdir()) == [keep]
