"""Commands run in this process, in an empty folder."""

import pytest

from morphnet.cli import main


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Runs a command in an empty folder; gives exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["morphnet"])

    def call(*arguments):
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        code = main(list(arguments))
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err + captured.out
        return code, captured.out, captured.err

    return call
