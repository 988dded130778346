"""Lists by many machines: the same to the byte as by one, whoever is killed on the way."""

import gzip
import io
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_candidate_files import pfd, phcx
from test_rank import run_rank
from test_score import run_score

from candidates.tables import FEATURES
from clients import places
from common.errors import UserError
from scoring import cluster, forms, ranking, tasks
from scoring.parts import Parts

pytest.importorskip("distributed")
ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 60


@pytest.fixture(scope="module")
def rows(project) -> list[str]:
    lines = (project.folder / "data" / "candidates.csv").read_text().splitlines()[1:]
    return [line.rpartition(",")[0] for line in lines]


@pytest.fixture(scope="module")
def table(project, rows) -> Path:
    """A table of several parts, of long lines: few rows, that take little time."""
    place = project.folder / "long.csv"
    note = "n" * 1600
    with place.open("w") as file:
        file.write(",".join(["id", "note", *FEATURES]) + "\n")
        for number in range(40_000):
            file.write(f"J{number},{note},{rows[number % len(rows)]}\n")
    return place


@pytest.fixture(scope="module")
def scored(project, table) -> bytes:
    """What becomes of it on one machine, without a stop."""
    result = run_score(project, table.name)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def night(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("night")
    for number in range(600):
        content = phcx().replace(b"<Dm>-0.25", b"<Dm>%d" % number)
        (folder / f"{number}.phcx.gz").write_bytes(gzip.compress(content))
    (folder / "fold.pfd").write_bytes(pfd())
    (folder / "cut.pfd").write_bytes(pfd()[:-9])
    return folder


@pytest.fixture(scope="module")
def few(night, tmp_path_factory) -> Path:
    """Some of it."""
    folder = tmp_path_factory.mktemp("few")
    for name in ("fold.pfd", "cut.pfd", *(f"{number}.phcx.gz" for number in range(10))):
        shutil.copy(night / name, folder)
    return folder


@contextmanager
def begun(project, *command: str, **more: str):
    """A process and those it starts, killed at the end."""
    process = subprocess.Popen(
        [str(word) for word in command], cwd=project.folder, env=project.environment | more,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        kill(process)
        process.communicate()


def kill(process: subprocess.Popen) -> None:
    """It and all that it has started, at once."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


def wait_for_parts(place: Path, count: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + PATIENCE
    while len(list(Path(f"{place}.parts").glob("*.json"))) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


# -- one machine ----------------------------------------------------------------------


def test_who_was_killed_goes_on_from_what_was_done(project, table, scored, tmp_path):
    place = tmp_path / "scored.csv"
    command = (sys.executable, "scripts/score.py", table.name, "-o", str(place))
    with begun(project, *command) as process:
        wait_for_parts(place, 1, process)
    done = len(list(Path(f"{place}.parts").glob("*.json")))
    assert not place.exists()
    result = run_score(project, table.name, "-o", str(place))
    assert result.returncode == 0, result.stderr
    assert f"score: {done} parts were done before".encode() in result.stderr
    assert place.read_bytes() == scored
    assert os.listdir(tmp_path) == [place.name]


def test_a_ranking_that_was_killed_goes_on_but_not_with_files_that_have_changed(
    project, night, tmp_path
):
    place, folder = tmp_path / "ranked.csv", tmp_path / "night"
    shutil.copytree(night, folder)
    command = (sys.executable, "scripts/rank.py", folder, "-o", str(place), "--workers", "1")
    with begun(project, *command) as process:
        wait_for_parts(place, 2, process)
    (folder / "0.phcx.gz").write_bytes(phcx().replace(b"<Dm>-0.25", b"<Dm>-777"))
    result = run_rank(project, folder, "-o", place)
    assert result.returncode == 3, result.stderr
    assert re.search(rb"rank: [12] parts were done before", result.stderr)
    assert place.read_bytes() == run_rank(project, folder).stdout
    assert b",-777.0," in place.read_bytes()


@pytest.mark.parametrize("other", ["input", pytest.param("options", marks=pytest.mark.slow)])
def test_nothing_is_taken_from_a_run_of_another_kind(project, rows, tmp_path, other):
    table, place = tmp_path / "night.csv", tmp_path / "scored.csv"
    table.write_text("\n".join([*rows[:50], "1,2,3"]) + "\n")
    result = run_score(project, str(table), "-o", str(place))
    assert result.returncode == 1  # and its part is kept: with --drop-bad it would do
    assert sorted(os.listdir(f"{place}.parts")) == ["00000000", "00000000.json"]
    if other == "input":
        table.write_text("\n".join(rows[50:70]) + "\n")
    options = ("--features", "six") if other == "options" else ()
    result = run_score(project, str(table), "-o", str(place), "--drop-bad", *options)
    assert result.returncode == 0, result.stderr
    assert b"were done before" not in result.stderr
    assert place.read_bytes() == run_score(project, str(table), "--drop-bad", *options).stdout


def test_a_part_that_is_not_what_was_written_is_refused(tmp_path):
    parts = Parts(str(tmp_path / "list.csv"), "this run")
    parts.begin()
    parts.write(3, b"three", {"rows": 1})
    assert (parts.done(), parts.content(3)) == ({3}, b"three")
    (tmp_path / "list.csv.parts" / "00000003").write_bytes(b"thre")
    with pytest.raises(UserError, match="has been changed"):
        parts.content(3)
    for junk in ("00000004.json", "00000004", ".00000005.x"):
        (tmp_path / "list.csv.parts" / junk).write_text("[1]")
    assert Parts(parts.output, "another run").begin() == 0
    assert os.listdir(parts.folder) == []
    with pytest.raises(UserError, match="has been changed or removed"):
        parts.told_at_last(3)
    Path(parts.folder, "precious.txt").touch()
    with pytest.raises(UserError, match="holds something else"):
        parts.begin()
    assert os.listdir(parts.folder) == ["precious.txt"]


def test_parquet_has_what_the_csv_has(project, rows, tmp_path):
    import pandas as pd

    lines = [f'"J{number}, ""a""\n",{row}' for number, row in enumerate(rows[:100])]
    table = tmp_path / "night.csv"
    table.write_text("\n".join([",".join(["id", *FEATURES]), *lines]))
    result = run_score(project, str(table), "-o", str(tmp_path / "scored.parquet"))
    assert result.returncode == 0, result.stderr
    assert run_score(project, str(table), "-o", str(tmp_path / "a.csv")).returncode == 0
    ours, theirs = pd.read_parquet(tmp_path / "scored.parquet"), pd.read_csv(tmp_path / "a.csv")
    assert ours.to_dict("list") == theirs.to_dict("list")
    assert ours.id[7] == 'J7, "a"'
    assert list(map(str, ours.dtypes[1:3])) == ["int8", "float64"]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=9))
def test_the_same_rows_are_the_same_parquet_in_whatever_pieces_they_come(sizes):
    lines = [f'"a\n{number}",{number % 2},0.{number},eight\n'.encode() for number in range(60)]
    numbers = {"label": pa.int8(), "probability": pa.float64()}

    def written(pieces: list[bytes]) -> bytes:
        sink = io.BytesIO()
        with mock.patch.object(forms, "GROUP", 16):
            form = forms.Parquet(sink, ["id", "label", "probability", ""], numbers)
            for piece in pieces:
                form.write(piece)
            form.close()
        return sink.getvalue()

    ends = [0, *itertools.accumulate(sizes), 60]
    pieces = [b"".join(lines[a:b]) for a, b in itertools.pairwise(ends)]
    assert sum(sizes) > 60 or written(pieces) == written([b"".join(lines)])


def test_a_ranked_list_in_parquet_can_be_drawn(project, night, tmp_path):
    place = tmp_path / "ranked.parquet"
    result = run_rank(
        project, night / "fold.pfd", night / "cut.pfd", night / "7.phcx.gz", "-o", place
    )
    assert result.returncode == 3, result.stderr
    sheets = project.script("sheets", str(place), "-o", str(tmp_path / "sheets"))
    assert sheets.returncode == 0, sheets.stderr
    assert len(list((tmp_path / "sheets").glob("*.png"))) == 2


# -- S3 -------------------------------------------------------------------------------


def test_files_and_lists_lie_at_s3_as_in_a_folder(project, sandbox, night, tmp_path):
    s3, names = sandbox.client("s3"), ("fold.pfd", "cut.pfd", "1.phcx.gz", "2.phcx.gz")
    for name in names:
        s3.upload_file(str(night / name), sandbox.bucket, f"night 1/{name}")
        shutil.copy(night / name, tmp_path)
    s3.put_object(Bucket=sandbox.bucket, Key="night 1/read.me", Body=b"")
    s3.put_object(Bucket=sandbox.bucket, Key="night 11/1.pfd", Body=b"")
    there = f"s3://{sandbox.bucket}"
    shares = [f"{there}/ranked-{number}.csv" for number in (1, 2)]
    for number, share in enumerate(shares, start=1):
        result = run_rank(project, f"{there}/night 1", "-o", share, "--shard", f"{number}/2")
        assert result.returncode in (0, 3), result.stderr
        assert b"1 files of other names were passed over" in result.stderr
    result = run_rank(project, "--merge", *shares, "-o", f"{there}/ranked.csv")
    assert result.returncode == 0, result.stderr
    ranked = s3.get_object(Bucket=sandbox.bucket, Key="ranked.csv")["Body"].read()
    here = run_rank(project, *(tmp_path / name for name in names)).stdout
    assert ranked.replace(f"{there}/night 1".encode(), str(tmp_path).encode()) == here
    keys = {item["Key"] for item in s3.list_objects_v2(Bucket=sandbox.bucket)["Contents"]}
    assert not any(".parts/" in key for key in keys)
    result = run_rank(project, f"{there}/none", "-o", f"{there}/ranked.csv")
    assert (result.returncode, b"there is no such object" in result.stderr) == (1, True)


def test_an_object_is_read_from_anywhere_and_one_version_of_it(sandbox, monkeypatch):
    for key, value in sandbox.environment.items():
        monkeypatch.setenv(key, value)
    places.use(None)
    content = os.urandom(9 * 1024 * 1024)
    place = f"s3://{sandbox.bucket}/random"
    places.write(place, content)
    with places.opened(place) as source:
        assert source.size == len(content)
        for at in (0, len(content) - 5, 8 * 1024 * 1024 - 3, 17):
            source.stream.seek(at)
            assert source.stream.read(10) == content[at : at + 10]
        source.stream.seek(0)
        places.write(place, content[::-1])
        source.stream.seek(len(content) // 2)
        with pytest.raises(UserError, match="has changed while it was read"):
            source.stream.read()
    places.use(None)


# -- Dask -----------------------------------------------------------------------------


def test_a_cluster_here_makes_the_same_table(project, table, scored, tmp_path):
    place = tmp_path / "scored.csv"
    result = run_score(
        project, table.name, "-o", str(place), "--cluster", "local", "--workers", "2"
    )
    assert result.returncode == 0, result.stderr
    assert place.read_bytes() == scored
    assert os.listdir(tmp_path) == [place.name]


@pytest.mark.slow
def test_what_a_worker_refuses_is_one_line(project, table, tmp_path):
    torn = tmp_path / "torn.csv"
    torn.write_bytes(table.read_bytes().replace(b"J20000,n", b'J20000,"', 1))
    place = tmp_path / "scored.csv"
    result = run_score(project, str(torn), "-o", str(place), "--cluster", "local", "--workers", "1")
    assert result.returncode == 1
    assert b"a cell in quotes goes on where the shard ends" in result.stderr
    assert b"Traceback" not in result.stderr
    assert not place.exists()


def test_a_worker_that_sees_another_input_or_no_output_does_nothing(tmp_path, monkeypatch):
    place, parts = tmp_path / "night.csv", Parts(str(tmp_path / "list.csv"), "this run")
    place.write_text("1,2\n")
    code = cluster.code()
    with pytest.raises(UserError, match=r"does not see .*list\.csv\.parts"):
        tasks.table_part(0, parts, None, b"", code, None)
    with pytest.raises(UserError, match="another version of this checkout"):
        tasks.table_part(0, parts, None, b"", "other", None)
    parts.begin()
    monkeypatch.setattr(tasks, "Hands", lambda *_: SimpleNamespace(made_of=(b"", None)))
    table = tasks.Table(str(place), "another", None, "eight")
    with pytest.raises(UserError, match="has changed, or is another"):
        tasks.table_part(0, parts, table, b"", code, None)
    files = ranking.Files(0, [place.name], {}, "another")
    with pytest.raises(UserError, match="have changed, or are others"):
        tasks.files_part(files, parts, str(tmp_path), b"", code, None)
    assert parts.done() == set()
    monkeypatch.delattr(tasks._of_thread, "hands")
    places.use(None)


def certificate(folder: Path) -> dict[str, str]:
    """What Dask's own configuration says of TLS, for a certificate made now."""
    from distributed import Security

    security, said = Security.temporary(), {}
    for name, content in (("ca", security.tls_ca_file), ("key", security.tls_scheduler_key)):
        (folder / f"{name}.pem").write_text(content)
    (folder / "cert.pem").write_text(security.tls_scheduler_cert)
    said["DASK_DISTRIBUTED__COMM__TLS__CA_FILE"] = str(folder / "ca.pem")
    for role in ("SCHEDULER", "WORKER", "CLIENT"):
        said[f"DASK_DISTRIBUTED__COMM__TLS__{role}__CERT"] = str(folder / "cert.pem")
        said[f"DASK_DISTRIBUTED__COMM__TLS__{role}__KEY"] = str(folder / "key.pem")
    return said


class Machines:
    """A scheduler and two workers, as a user starts them."""

    def __init__(self, project, folder: Path, processes: ExitStack) -> None:
        self.project, self.tls = project, certificate(folder)
        self._processes, self._folder = processes, folder
        venv = project.folder / ".venv"
        if not venv.exists():
            venv.symlink_to(sys.prefix)
        self.start()

    def start(self) -> None:
        file = self._folder / "scheduler.json"
        file.unlink(missing_ok=True)
        self.scheduler = self._begun(
            sys.executable, "-m", "dask", "scheduler", "--protocol", "tls", "--host", "127.0.0.1",
            "--port", "0", "--dashboard-address", "127.0.0.1:0", "--scheduler-file", file,
        )  # fmt: skip
        deadline = time.monotonic() + PATIENCE
        while not file.exists() or not file.read_text().endswith("}"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        self.address = json.loads(file.read_text())["address"]
        self.workers = [
            self._begun(
                "sh", "scripts/cluster/worker.sh", self.address, "--nthreads", "1",
                "--dashboard-address", "127.0.0.1:0", "--local-directory", self._folder,
            )
            for _ in range(2)
        ]  # fmt: skip

    def _begun(self, *command) -> subprocess.Popen:
        log = self._processes.enter_context(open(self._folder / "log", "ab"))
        process = subprocess.Popen(
            list(map(str, command)), cwd=self.project.folder, start_new_session=True,
            env=self.project.environment | self.tls, stdout=log, stderr=log,
        )  # fmt: skip
        self._processes.callback(kill, process)
        return process


@pytest.fixture
def machines(project, tmp_path) -> Machines:
    folder = tmp_path / "machines"
    folder.mkdir()
    with ExitStack() as processes:
        yield Machines(project, folder, processes)


def test_workers_and_then_the_scheduler_are_killed_and_nothing_is_lost_or_done_twice(
    project, table, scored, machines, tmp_path
):
    place = tmp_path / "scored.csv"

    def command() -> tuple[str, ...]:
        words = (table.name, "-o", str(place), "--cluster", machines.address)
        return sys.executable, "scripts/score.py", *words

    with begun(project, *command(), **machines.tls) as process:
        wait_for_parts(place, 1, process)
        kill(machines.workers[0])
        wait_for_parts(place, 2, process)
        kill(machines.scheduler)
        _, said = process.communicate(timeout=PATIENCE)
        assert process.returncode == 1
        assert b"the cluster's scheduler is gone" in said
        assert b"Traceback" not in said
    kill(machines.workers[1])
    done = len(list(Path(f"{place}.parts").glob("*.json")))
    assert done >= 2
    assert not place.exists()
    machines.start()
    with begun(project, *command(), **machines.tls) as process:
        _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    assert f"score: {done} parts were done before".encode() in said
    assert place.read_bytes() == scored


QUEUE = """#!/bin/sh
# Stands for SLURM's sbatch: the job begins at once, here.
echo "$@" >> "$QUEUE/submitted"
cp "$1" "$QUEUE/$$.sh" # Dask removes its own
setsid sh -c 'echo $$ > "$0.pid"; exec bash "$0.sh"' "$QUEUE/$$" > "$QUEUE/$$.log" 2>&1 &
echo "Submitted batch job $$"
"""
CANCEL = """#!/bin/sh
kill -- -$(cat "$QUEUE/$1.pid")
echo "$@" >> "$QUEUE/cancelled"
"""


@pytest.fixture
def queue(project, tmp_path) -> dict[str, str]:
    """The environment of a machine with SLURM's commands, which start jobs here."""
    folder = tmp_path / "queue"
    folder.mkdir()
    for name, text in (("sbatch", QUEUE), ("scancel", CANCEL)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    yield {
        "PATH": f"{folder}:{project.environment['PATH']}", "QUEUE": str(folder), "HOME": str(tmp_path),
        "DASK_JOBQUEUE__SLURM__CORES": "1", "DASK_JOBQUEUE__SLURM__MEMORY": "1GB",
        "DASK_JOBQUEUE__SLURM__INTERFACE": "lo", "DASK_JOBQUEUE__SLURM__WALLTIME": "00:02:00",
    }  # fmt: skip
    for place in folder.glob("*.pid"):
        subprocess.run(["kill", "-9", "--", f"-{place.read_text().strip()}"], capture_output=True)


def test_jobs_of_a_queue_make_the_same_list_and_are_cancelled(project, night, queue, tmp_path):
    place = tmp_path / "ranked.csv"
    result = project.script(
        "rank", str(night), "-o", str(place), "--cluster", "slurm", "--workers", "2", **queue
    )
    assert result.returncode == 3, result.stderr
    assert place.read_bytes() == run_rank(project, night).stdout
    folder = Path(queue["QUEUE"])
    assert len((folder / "submitted").read_text().splitlines()) == 2
    assert (folder / "cancelled").exists()


def test_a_queue_that_does_not_know_what_a_job_needs_says_where_to_name_it(
    project, night, queue, tmp_path
):
    queue.pop("DASK_JOBQUEUE__SLURM__CORES")
    result = project.script(
        "rank", str(night), "-o", str(tmp_path / "a.csv"), "--cluster", "slurm", "--workers", "2",
        **queue,
    )  # fmt: skip
    assert result.returncode == 1
    assert "jobqueue.yaml" in result.stderr
    assert "Traceback" not in result.stderr


# -- templates ------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["rank", pytest.param("score", marks=pytest.mark.slow)])
def test_the_array_of_jobs_makes_the_list(project, few, rows, tmp_path, verb):
    source = few
    if verb == "score":
        source = tmp_path / "night.csv"
        source.write_text("\n".join(rows[:2000]) + "\n")
    if not (project.folder / ".venv").exists():
        (project.folder / ".venv").symlink_to(sys.prefix)
    place = tmp_path / "v1.2, all" / "list.csv"
    place.parent.mkdir()
    for number in ("1", "3", "2", ""):  # the last makes the list
        assert not place.exists()
        job = project.run(
            "bash", "scripts/cluster/array.sbatch", VERB=verb, INPUT=str(source), OUTPUT=str(place),
            SHARES="3", SLURM_ARRAY_TASK_ID=number, SLURM_CPUS_PER_TASK="1",
            SLURM_SUBMIT_DIR=str(project.folder),
        )  # fmt: skip
        assert job.returncode == 0, job.stderr
    run = {"rank": run_rank, "score": run_score}[verb]
    assert place.read_bytes() == run(project, str(source)).stdout


def test_the_commands_of_the_nextflow_template_make_the_list(project, few, tmp_path):
    """Each as Nextflow runs it: in a folder of its own, where what it takes is linked."""
    if not (project.folder / ".venv").exists():
        (project.folder / ".venv").symlink_to(sys.prefix)
    text = (ROOT / "scripts" / "cluster" / "rank.nf").read_text()
    share, merge = re.findall(r'"""\n(.*?)"""', text, re.S)
    said = {
        "params.checkout": project.folder,
        "params.input": few,
        "params.shares": 2,
        "task.cpus": 1,
    }

    def run(script: str, folder: Path, **more: object) -> None:
        folder.mkdir(exist_ok=True)
        for name, value in (said | more).items():
            script = script.replace(f"${{{name}}}", str(value))
        script = script.replace("\\\\\n", "\\\n").replace("\\$", "$")
        assert "{" not in script
        result = subprocess.run(
            ["bash", "-ue", "-c", script], cwd=folder, env=project.environment, capture_output=True
        )
        assert result.returncode == 0, result.stderr

    together = tmp_path / "merge"
    together.mkdir()
    for number in (1, 2):
        run(share, tmp_path / str(number), number=number)
        for path in (tmp_path / str(number)).glob("ranked-*"):
            (together / path.name).symlink_to(path)
    run(merge, together)
    assert (together / "list.csv").read_bytes() == run_rank(project, few).stdout
