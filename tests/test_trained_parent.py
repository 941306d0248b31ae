"""The trained parent of shared/data on all of real CIFAR-10: minutes, so run with ``-m slow``."""

import subprocess
import sys

import pytest

from morphnet.cli import main

SOURCE = ["network=cifar_resnet20", "network.shortcut=padding", "data.normalize=imagenet"]


@pytest.fixture(scope="module")
def cifar10(request, tmp_path_factory):
    shared = request.config.rootpath.parent / "shared"
    if not (shared / "data" / "cifar10").is_dir():
        pytest.skip("the CIFAR-10 sheets of shared/data are not here")
    folder = tmp_path_factory.mktemp("cifar")
    unpack = shared / "tools" / "unpack_data.py"
    subprocess.run([sys.executable, str(unpack), str(folder), "--datasets", "cifar10"], check=True)
    return ["data=cifar10", f"data.path={folder / 'cifar10.npz'}"]


@pytest.mark.slow
@pytest.mark.parametrize("bn", ["calibrated", "folded"])
def test_the_children_make_the_827_errors_of_their_parent(cifar10, trained_parent, tmp_path, capsys, monkeypatch, bn):
    monkeypatch.setattr("sys.argv", ["morphnet"])
    assert main(["eval", f"parent={trained_parent}", *SOURCE, *cifar10]) == 0
    assert "827 errors of 10,000" in capsys.readouterr().out
    for spec in ("1c1", "1c1_half", "3c1"):
        output = tmp_path / spec
        arguments = ["morph", f"parent={trained_parent}", f"morph={spec}", f"bn={bn}", f"output={output}"]
        assert main([*arguments, *SOURCE, *cifar10]) == 0
        capsys.readouterr()
        assert main(["eval", f"parent={output}", *cifar10]) == 0
        assert "827 errors of 10,000" in capsys.readouterr().out
