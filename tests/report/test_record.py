import subprocess

import pytest

from morphnet.report.record import _commit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_without_git_the_commit_is_the_one_that_is_given(tmp_path, monkeypatch):
    monkeypatch.delenv("MORPHNET_COMMIT", raising=False)
    assert _commit(tmp_path) is None
    monkeypatch.setenv("MORPHNET_COMMIT", COMMIT)
    assert _commit(tmp_path) == {"hash": COMMIT, "dirty": False}


def test_git_goes_before_the_commit_that_is_given(tmp_path, monkeypatch):
    monkeypatch.setenv("MORPHNET_COMMIT", COMMIT)
    (tmp_path / "file").touch()
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    for command in (["init", "-q"], ["add", "file"], [*identity, "commit", "-qm", "file"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    found = _commit(tmp_path)
    assert len(found["hash"]) == 40
    assert found["hash"] != COMMIT
    assert not found["dirty"]


@pytest.mark.parametrize("given", ["main", COMMIT[:8], COMMIT.upper()])
def test_what_is_no_commit_is_refused(tmp_path, monkeypatch, given):
    monkeypatch.setenv("MORPHNET_COMMIT", given)
    with pytest.raises(ValueError, match="40 hexadecimal digits"):
        _commit(tmp_path)
