"""Where things are in the sandbox's folder, and who the sandbox is on AWS.

    credentials.json   the one pair of keys that opens everything
    status.json        what `scripts/sandbox.py` reads: state, addresses, pid, what it was started from
    state.db           stacks, models, endpoints (state.py)
    store/             the object store's files and keys
    models/<name>/     what a model's archive holds
    capture/<endpoint>/<configuration>/   captured records on their way to the store,
                  and <configuration>.json where they belong
    logs/<endpoint>.<variant>.<process>.log   what an endpoint's process prints
    logs/@<group>.<job>.<process>.log         what a job's does
    metrics/      what the fronts have counted of predictions
    journal.db    both of them, once read (cloudwatch/)
    run/routes/        which process answers for an endpoint
    run/<process>/     a process's own: its sockets, and where a model may write

Paths are made by `Places.inside`, which refuses a name that would lead out of the folder.
"""

import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

REGION = "us-east-1"
ACCOUNT = "000000000000"
STAGE = "/prod"  # of the orchestrator's API
ASSETS_BUCKET = "pulsar-assets"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/sandbox"
LOG_GROUP = "/aws/sagemaker/Endpoints/{}"
JOB_GROUP = "/aws/sagemaker/{}"
SPARE_BYTES = 1 << 20  # must fit on the disk for a start
NEWS_TOPIC = f"arn:aws:sns:{REGION}:{ACCOUNT}:orchestrator-news"
HANDLER = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:orchestrator"


class NotOurs(Exception):
    """What is in the folder is not the sandbox's, or of another version of it; it is left as it is.

    `file` is what has to go, where the rest may stay.
    """

    def __init__(self, what: str, file: Path | None = None) -> None:
        super().__init__(what)
        self.file = file


@dataclass(frozen=True)
class Places:
    """The sandbox's folder, which must be an absolute path."""

    folder: Path

    def make(self) -> None:
        """Make the folders that are not there; nobody but the owner may look into them.

        NotOurs for a folder of an earlier version, which kept objects as files.
        """
        if self.inside("s3").exists():
            raise NotOurs(f"{self.folder} is of an earlier version")
        for name in ("", "run", "run/routes", "models", "capture", "logs", "metrics", "store"):
            path = self.folder / name
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.chmod(self.folder, 0o700)

    def inside(self, *names: str) -> Path:
        """A path below the folder; ValueError for a name that is no plain name."""
        for name in names:
            if not name or name in (".", "..") or "/" in name or "\0" in name:
                raise ValueError(f"{name!r} is no name")
        return self.folder.joinpath(*names)

    def model(self, name: str) -> Path:
        return self.inside("models", name)

    def spool(self, endpoint: str, config: str) -> Path:
        return self.inside("capture", endpoint, config)

    def log(self, endpoint: str, variant: str, process: str) -> Path:
        """`process` is the name of an endpoint's process, `endpoint-…`."""
        return self.inside("logs", f"{endpoint}.{variant}.{process.partition('-')[2]}.log")

    def job_log(self, group: str, job: str, process: str) -> Path:
        """`process` is the name of a job's process, `job-…`; `@` tells it from an endpoint."""
        return self.inside("logs", f"@{group}.{job}.{process.partition('-')[2]}.log")

    def process(self, name: str) -> Path:
        return self.inside("run", name)

    def route(self, endpoint: str) -> Path:
        return self.inside("run", "routes", endpoint)

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics"

    @property
    def status(self) -> Path:
        return self.folder / "status.json"

    @property
    def credentials(self) -> Path:
        return self.folder / "credentials.json"


def no_room(folder: Path) -> str:
    """What is said of a disk without room for a start."""
    return f"The disk of {folder} is full. Next: free some space, then make sandbox"


def load_credentials(places: Places) -> tuple[str, str]:
    """Access key and secret, made at the first start and kept, readable by the owner only.

    NotOurs for a file that holds no such pair: it is never overwritten.
    """
    path = places.credentials
    if not path.exists():
        key = f"SANDBOX{secrets.token_hex(6).upper()}"
        pair = {"access_key": key, "secret": secrets.token_urlsafe(30)}
        write_json(path, pair)
    try:
        found = json.loads(path.read_text())
        pair = found["access_key"], found["secret"]
    except OSError as error:
        raise NotOurs(f"{path} cannot be read: {error.strerror}", path) from None
    except (ValueError, KeyError, TypeError, RecursionError):
        pair = None, None
    if not all(isinstance(word, str) and word for word in pair):
        raise NotOurs(f"{path} holds no pair of keys", path)
    return pair


def write_json(path: Path, value: dict) -> None:
    """Replace a JSON file in one step: a reader, or a crash, never sees half of it."""
    write_secret(path, json.dumps(value, indent=2) + "\n")


def write_secret(path: Path, text: str) -> None:
    """Replace a file in one step, readable by nobody but its owner."""
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    os.replace(temporary, path)
