"""What people's shells, files and folders do to the set-up, the Makefile and the sandbox's start."""

import importlib
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import IMAGE, ROOT, Project, clean_environment, new_project

import common
import setup as setup_script
from candidates import files, htru2, simulator
from clients import sandbox as client
from common.errors import TargetError

READY = f".venv/ready-{IMAGE}"


@pytest.fixture(scope="module")
def downloaded(tmp_path_factory) -> Project:
    """A checkout in a folder with a space, without Git, whose pipeline is `fetch` alone."""
    project = new_project(tmp_path_factory.mktemp("home") / "my pulsars")
    shutil.rmtree(project.folder / ".git")
    (project.folder / ".venv").symlink_to(sys.prefix)
    text = (project.folder / "dvc.yaml").read_text()
    (project.folder / "dvc.yaml").write_text(text[: text.index("  prepare:")])
    project.set_params({"data": {"source": "auto"}})
    return project


def make(project: Project, *arguments: str, **more: str) -> subprocess.CompletedProcess:
    return project.run("make", "-s", "-o", READY, *arguments, **more)


def candidates(path: Path, seed: int) -> str:
    """A file with HTRU2's counts, and its path."""
    features, classes = simulator.simulate(htru2.PULSARS, htru2.ROWS - htru2.PULSARS, seed)
    path.write_text(htru2.to_csv(np.column_stack([features, classes])))
    return str(path)


@pytest.mark.slow
def test_the_file_that_is_named_is_the_one_that_is_trained_on(downloaded, tmp_path):
    """Also after `make clean`, when DVC's cache has another; and a wrong one stops everything."""
    one, two = (candidates(tmp_path / f"{seed}.csv", seed) for seed in (1, 2))
    hashes = {
        place: htru2.content_hash(files.labelled(*files.read(place), place)) for place in (one, two)
    }

    def train(place: str) -> str:
        trained = make(downloaded, "train", HTRU2=place)
        assert trained.returncode == 0, trained.stderr
        return downloaded.read("data/source.json")["content_sha256"]

    assert train(one) == hashes[one]
    assert make(downloaded, "clean").returncode == 0
    assert not (downloaded.folder / "data" / "source.json").exists()
    assert train(two) == hashes[two]
    wrong = make(downloaded, "train", HTRU2="typo.csv")
    assert wrong.returncode != 0
    assert wrong.stderr.startswith("error: typo.csv: No such file or directory\n  next: HTRU2=")
    assert len(wrong.stderr.splitlines()) == 3  # and make's own line


def test_a_verb_without_its_file_says_what_to_type(downloaded):
    for given in ({}, {"INPUT": "night.csv"}, {"OUTPUT": "scored.csv"}):
        result = make(downloaded, "score", **given)
        assert result.returncode != 0
        missing = "OUTPUT" if "INPUT" in given else "INPUT"
        assert f"{missing}: is missing. Next: make score INPUT=" in result.stderr


def test_variables_of_make_reach_the_scripts_and_those_of_another_python_do_not(
    downloaded, tmp_path
):
    name = 'my "night\'s" payload.json'
    (downloaded.folder / name).write_text('{"inference_instance": "ml.m5.large"}')
    (tmp_path / "yaml.py").write_text("raise SystemError('not ours')")
    foreign = {
        "PYTHONPATH": str(tmp_path), "PYTHONHOME": str(tmp_path), "PYTHONSAFEPATH": "1",
        "PYTHONWARNINGS": "error", "PYTHONINSPECT": "1", "VIRTUAL_ENV": str(tmp_path),
    }  # fmt: skip
    typed = {"PAYLOAD": f"~/{name}", "HOME": str(downloaded.folder)}
    shown = make(downloaded, "cost", **foreign, **typed)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "ml.m5.large" in shown.stdout


def test_an_environment_that_cannot_run_is_made_anew(downloaded, tmp_path):
    """Its Python was removed, or is another by now, or another user's."""
    (tmp_path / "bin").mkdir()
    (tmp_path / f"ready-{IMAGE}").touch()
    (tmp_path / "bin" / "python").symlink_to(tmp_path / "gone")
    planned = downloaded.run("make", "-n", "setup", f"VENV={tmp_path}")
    assert "scripts/setup.py" in planned.stdout


# -- the set-up -----------------------------------------------------------------------


def test_pip_and_uv_are_told_of_the_network_and_of_nothing_else(monkeypatch):
    kept = ("PIP_INDEX_URL", "PIP_CERT", "PIP_PROXY", "UV_HTTP_TIMEOUT", "UV_CACHE_DIR", "HOME")
    gone = ("PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_DRY_RUN", "UV_SYSTEM_PYTHON", "PYTHONHOME")
    for key in kept + gone:
        monkeypatch.setenv(key, "1")
    told = setup_script.own_environment()
    assert told.keys() >= set(kept) and told.keys().isdisjoint(gone)


def test_what_venv_says_is_shown_whole(monkeypatch, tmp_path, capsys):
    said = tmp_path / "python"
    said.write_text("#!/bin/sh\necho on stdout\necho on stderr >&2\nexit 1\n")
    said.chmod(0o755)
    monkeypatch.setattr(sys, "_base_executable", str(said))
    with pytest.raises(SystemExit):
        setup_script.make(tmp_path / "venv")
    assert "venv failed: on stdout\non stderr\n" in capsys.readouterr().err
    monkeypatch.setattr(sys, "_base_executable", str(tmp_path / "gone"))
    with pytest.raises(SystemExit):
        setup_script.make(tmp_path / "venv")
    assert "gone cannot be run: No such file" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_is_no_environment_gives_way_to_one(kind, monkeypatch, tmp_path):
    place, other = tmp_path / "venv", tmp_path / "other"
    other.mkdir()
    place.touch() if kind == "file" else place.symlink_to(other)
    monkeypatch.setattr(sys, "_base_executable", shutil.which("true"))
    setup_script.make(place)
    assert not os.path.lexists(place) and other.exists()


def test_an_environment_of_another_user_is_named(monkeypatch, tmp_path, capsys):
    def refused(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(shutil, "rmtree", refused)
    with pytest.raises(SystemExit):
        setup_script.make(tmp_path)
    said = capsys.readouterr().err
    assert f"{tmp_path} cannot be made anew: Permission denied\n  next: sudo rm -r" in said


def test_what_cannot_be_imported_is_told_by_the_set_up():
    assert setup_script.compile_first(Path(sys.prefix), ("json", "no_such_module")) == (
        "ModuleNotFoundError: No module named 'no_such_module'"
    )
    assert setup_script.compile_first(Path(sys.prefix), ("json",)) == ""


def test_without_git_the_revision_is_unknown(monkeypatch, tmp_path):
    import upload

    monkeypatch.setenv("PATH", str(tmp_path))
    assert upload.git_revision() == "unknown"


# -- the sandbox's start --------------------------------------------------------------


@pytest.mark.parametrize("port", ["abc", "0", "-1", "70000", "65535", "8790 ", "٨٧٩٠", "8e3"])
def test_what_is_no_port_is_named(port, monkeypatch):
    monkeypatch.setenv("SANDBOX_PORT", port)
    with pytest.raises(TargetError, match=f"SANDBOX_PORT must be .* not {port!r}") as error:
        client._ports({})
    assert error.value.remedy == "SANDBOX_PORT=8790 make sandbox"


def test_a_port_that_is_empty_is_none(monkeypatch):
    monkeypatch.setenv("SANDBOX_PORT", "")
    assert client._asked_port() is None


@pytest.mark.parametrize("url", ["", "nonsense", "http://127.0.0.1", "http://127.0.0.1:99999"])
def test_an_address_that_is_none_is_damage(url, monkeypatch, tmp_path):
    (tmp_path / "status.json").write_text(
        f'{{"state": "stopped", "url": "{url}", "s3_url": "http://127.0.0.1:8791"}}'
    )
    monkeypatch.setattr(client, "FOLDER", tmp_path)
    with pytest.raises(TargetError, match="not as the sandbox wrote it") as error:
        client.status()
    assert error.value.remedy.startswith("mv ")


def test_a_folder_that_is_a_file_is_one_line(downloaded, tmp_path):
    (tmp_path / "file").touch()
    for verb, words in (("up", "it is a file"), ("env", "never started"), ("down", "")):
        result = downloaded.script("sandbox", verb, SANDBOX_DIR=str(tmp_path / "file"))
        assert words in result.stderr and "Traceback" not in result.stderr
        assert (result.returncode, "next: " in result.stderr) == (
            (1, True) if words else (0, False)
        )


def test_an_empty_name_of_the_folder_is_none_and_a_tilde_is_the_home():
    command = [sys.executable, "-c", "from clients import sandbox; print(sandbox.FOLDER)"]
    for named, folder in (("", ROOT / ".sandbox"), ("~/x", Path("/nonexistent/x"))):
        environment = clean_environment(
            SANDBOX_DIR=named, HOME="/nonexistent", PYTHONPATH="scripts"
        )
        shown = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True
        )  # fmt: skip
        assert shown.stdout.strip() == str(folder), shown.stderr


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({}, "127.0.0.1,localhost"),
        ({"no_proxy": "a,b"}, "a,b,127.0.0.1,localhost"),
        ({"NO_PROXY": "a"}, "a,127.0.0.1,localhost"),
        ({"NO_PROXY": "localhost,127.0.0.1"}, "localhost,127.0.0.1"),
        ({"no_proxy": "*"}, "*"),
    ],
)
def test_no_proxy_is_asked_for_this_machine(theirs, ours, monkeypatch):
    for key in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(key, raising=False)
    for key, value in theirs.items():
        monkeypatch.setenv(key, value)
    importlib.reload(common)
    assert (os.environ["no_proxy"], os.environ["NO_PROXY"]) == (ours, ours)


@pytest.mark.slow
def test_a_sandbox_starts_in_any_folder_and_at_the_port_that_is_asked_for(downloaded, tmp_path):
    """A path of 300 characters, a home and a place for temporary files that are not there."""
    folder = tmp_path.joinpath(*["x" * 100] * 3)
    settings = {"SANDBOX_DIR": str(folder), "HOME": "/nonexistent", "TMPDIR": "/nonexistent"}
    try:
        started = downloaded.script("sandbox", "up", **settings)
        assert started.returncode == 0, started.stderr
        listed = downloaded.script("status", **settings)
        assert f"sandbox: {folder}, by SANDBOX_DIR" in listed.stderr
        assert "error: there is no pipeline\n  next: make deploy" in listed.stderr
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        moved = downloaded.script("sandbox", "up", SANDBOX_PORT=str(port), **settings)
        assert "SANDBOX_PORT changed; restarting" in moved.stderr
        assert re.search(rf"running at http://127\.0\.0\.1:{port} ", moved.stderr)
    finally:
        downloaded.script("sandbox", "down", **settings)
