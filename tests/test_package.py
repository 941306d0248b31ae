"""The package as others get it: built, installed into an empty environment, run without the source tree."""

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def _call(*command, cwd, **environment):
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env={**kept, **environment})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Wheel and sdist, made from the committed files and what is new beside them."""
    folder = tmp_path_factory.mktemp("dist")
    source = tmp_path_factory.mktemp("source")
    listed = _call("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT).split("\0")
    for name in filter(None, listed):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    _call(sys.executable, "-m", "build", "--outdir", str(folder), str(source), cwd=folder)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


@pytest.mark.slow
def test_wheel_and_sdist_hold_every_module_and_every_preset(built):
    wheel, sdist = built
    names = set(zipfile.ZipFile(wheel).namelist())
    with tarfile.open(sdist) as archive:
        packed = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    for path in [*(ROOT / "morphnet").rglob("*.py"), *(ROOT / "morphnet").rglob("*.pyi")]:
        name = path.relative_to(ROOT).as_posix()
        assert name in names
        assert name in packed
    for path in (ROOT / "configs").rglob("*.yaml"):
        name = path.relative_to(ROOT).as_posix()
        assert f"morphnet/{name}" in names
        assert name in packed
    assert "morphnet/py.typed" in names
    assert not any(name.startswith("tests/") for name in names)


@pytest.mark.slow
def test_the_wheel_runs_the_main_job_from_an_empty_environment(built, tmp_path):
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    _call(str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", str(built[0]), cwd=tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    morphnet = str(environment / "bin" / "morphnet")
    where = _call(str(python), "-c", "import morphnet; print(morphnet.__file__)", cwd=elsewhere).strip()
    assert Path(where).is_relative_to(environment)
    output = _call(morphnet, "train", "schedule.epochs=2", cwd=elsewhere)
    assert "PReLU parent trained on" in output
    assert "0 of 148 images change their class" in output
    (run,) = (elsewhere / "outputs" / "digits").iterdir()
    _call(morphnet, "morph", f"parent={run}", "module=bridge", "target=layer2.?.conv2", "output=grown", cwd=elsewhere)
    assert (elsewhere / "grown" / "network.safetensors").is_file()
