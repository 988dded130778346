"""A package of a user's own: it is served, or the reason says what to do about it."""

import gzip
import io
import json
import pickle
import re
import tarfile
import zipfile

import numpy as np
import pytest
import sklearn
from conftest import IMAGE, ROOT
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from test_archive import entry, tar_of, unpack_bytes
from test_serving import MODEL_FN, serve  # noqa: F401

from orchestrator.sandbox.hosting import command, process, requirements
from orchestrator.sandbox.hosting.archive import BadArchive
from scoring.packing import pack

ONE = "def model_fn(d):\n    return 1\n"
ECHO = ONE + "def transform_fn(m, body, content_type, accept):\n    return body, 'text/csv'\n"
# What AWS's own example of a scikit-learn model begins with, and how it answers.
AS_IN_AWS_EXAMPLES = """
import json
from sagemaker_containers.beta.framework import (
    content_types, encoders, env, modules, transformer, worker)
from sagemaker_inference import content_types as types, decoder, encoder, errors
def model_fn(model_dir):
    return 1
def input_fn(body, content_type):
    return encoders.decode(body, content_type)
def predict_fn(data, model):
    return data * 2
def output_fn(prediction, accept):
    if accept == content_types.JSON:
        return worker.Response(json.dumps({"answers": prediction.tolist()}), accept, mimetype=accept)
    return worker.Response(encoder.encode(prediction, accept), mimetype=accept)
"""


def fitted() -> LogisticRegression:
    return LogisticRegression(max_iter=1000).fit(*load_iris(return_X_y=True))


# Written by another scikit-learn.
OLD = pickle.dumps(fitted(), protocol=4).replace(sklearn.__version__.encode(), b"0.1.2")


# -- the way --------------------------------------------------------------------------


@pytest.mark.slow
def test_the_document_can_be_pasted(own_sandbox):
    """Word for word, in a checkout whose environment is set up and whose sandbox runs."""
    text = (ROOT / "docs" / "own-model.md").read_text()
    [commands] = re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S)
    [answer] = re.findall(r"^```json\n(.*?)^```", text, re.M | re.S)
    project = own_sandbox.project
    activate = project.folder / ".venv" / "bin" / "activate"
    activate.parent.mkdir(parents=True, exist_ok=True)
    activate.touch()  # the tests' environment is active already
    done = project.run("bash", "-ec", commands, MAKEFLAGS=f"-o .venv/ready-{IMAGE}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith(answer.strip()), done.stdout
    assert "in service" in done.stdout or "Succeeded" in done.stdout


def test_the_reason_is_in_the_status_and_in_the_endpoints_description(sandbox):
    code = "def model_fn(d):\n    print('these are my weights')\n    open('nowhere')\n"
    sandbox.upload(pack({"code/inference.py": code.encode()}), "reason.tar.gz")
    payload = sandbox.payload("reason", model_artifact_location="reason.tar.gz")
    pipeline_id = sandbox.provision(payload)
    assert sandbox.wait(pipeline_id)[0] == "Failed"
    status = sandbox.project.script("status", "--id", pipeline_id)
    described = sandbox.client("sagemaker").describe_endpoint(EndpointName="reason")
    assert status.returncode == 1
    for said in (status.stdout, described["FailureReason"]):
        assert "FileNotFoundError: [Errno 2] No such file or directory: 'nowhere'. " in said
        assert "The archive holds code/inference.py. " in said
        assert "The last line of its log: these are my weights" in said


# -- archives -------------------------------------------------------------------------


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (gzip.decompress(pack({"a": b"1"})), "a tar archive that is not compressed; pack it with tar -czf"),
        (zipped({"a": b"1"}), "a zip archive; pack it with tar -czf"),
        (pickle.dumps(1), "a pickle, not an archive with one"),
        (gzip.compress(pickle.dumps(1)), "not a tar archive that gzip has compressed"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        (b"", "the file is empty"),
        (tar_of((entry("code\\inference.py"), b"1")), "has backslashes: pack it with tar -czf"),
    ],
    ids=["tar", "zip", "joblib", "gzipped joblib", "git lfs", "empty", "backslashes"],
)  # fmt: skip
def test_another_kind_of_file_is_named_with_what_to_do(content, reason, tmp_path):
    with pytest.raises(BadArchive) as error:
        unpack_bytes(content, tmp_path)
    assert reason in str(error.value)


def test_what_a_mac_adds_to_an_archive_is_no_hindrance(serve, tmp_path):  # noqa: F811
    extended = entry("code/inference.py")
    extended.pax_headers = {"LIBARCHIVE.xattr.com.apple.quarantine": "x" * 300, "SCHILY.dev": "1"}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=tarfile.PAX_FORMAT) as tar:
        for info, content in (
            (entry("./._code"), b"\0\5\26\7"), (entry("code/._inference.py"), b"\0\5\26\7"),
            (extended, ECHO.encode()), (entry(".DS_Store"), b"\0\0\0\1Bud1"),
        ):  # fmt: skip
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    unpack_bytes(buffer.getvalue(), tmp_path)
    unpacked = (path for path in (tmp_path / "model").rglob("*") if path.is_file())
    members = {str(path.relative_to(tmp_path / "model")): path.read_bytes() for path in unpacked}
    assert serve(members).failure == ""


# -- what the archive holds -----------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "advice"),
    [
        ({}, "no code/inference.py to import. It is empty."),
        ({"inference.py": ONE}, "It has inference.py: move that to code/inference.py."),
        ({"code/serve.py": ONE}, "It has code/serve.py: call that code/inference.py."),
        ({"iris/code/inference.py": ONE, "iris/model.joblib": "", "._iris": ""},
         "It has iris/code/inference.py: pack what is in iris, and not the folder itself "
         "(tar -C iris -czf model.tar.gz .)."),
        ({"model.joblib": "", "code/._inference.py": ""},
         "It has model.joblib: add code/inference.py, with a model_fn(model_dir)"),
        ({"code/inference.py": MODEL_FN}, "The archive holds code/inference.py."),
        ({"code/inference.py": ONE.replace("1", "open('/opt/ml/model/m')"), "m": ""},
         "The archive holds code/inference.py, m, in the folder that model_fn is given."),
        ({"code/inference.py": "import helpers", "src/helpers.py": ""},
         "It is src/helpers.py in the archive, but the container looks in code/."),
        ({"code/inference.py": "import nowhere_at_all"},
         "nowhere_at_all is not installed and a model has no network to install it"),
        ({"code/inference.py": "import sagemaker_containers as s\ns.beta.framework.env.ServingEnv()"},
         "the sandbox's sagemaker_containers.beta.framework.env has no ServingEnv."),
        ({"code/inference.py": ONE.replace("1", "open(d + '/out', 'w')")},
         "A model reads its own archive, writes where tempfile does, and has no network"),
        ({"code/inference.py": "import sys\nsys.exit('no licence')"}, "SystemExit: no licence."),
        ({"code/inference.py": ONE.replace("return 1", "import sys; sys.exit(0)")}, "model_fn failed: SystemExit: 0."),
        ({"code/inference.py": "\ufeff" + ONE.replace("1", "1 / 0").replace("\n", "\r\n")}, "ZeroDivisionError"),
    ],
)  # fmt: skip
def test_a_package_that_cannot_be_served_says_what_to_add(members, advice, serve):  # noqa: F811
    process = serve({name: content.encode() for name, content in members.items()})
    assert advice in process.failure
    assert "Traceback" not in process.failure


class InANotebook:
    """Of the module that is run."""


InANotebook.__module__ = "__main__"


def other_main(content: object) -> bytes:
    """A pickle of something from a notebook."""
    import __main__

    __main__.InANotebook = InANotebook
    try:
        return pickle.dumps(content)
    finally:
        del __main__.InANotebook


PICKLE_FN = (
    "import pickle\ndef model_fn(d):\n    return pickle.load(open(d + '/model.joblib', 'rb'))\n"
)


@pytest.mark.parametrize("code", [MODEL_FN, PICKLE_FN], ids=["joblib", "pickle"])
@pytest.mark.parametrize(
    ("content", "advice"),
    [
        (OLD, "Fit it again under scikit-learn"),
        (pickle.dumps(np.arange(3)).replace(b"numpy._core", b"numpy._cors"), "numpy 2"),
        (b"csklearn.ensemble.forest\nForest\n.", "A pickle loads under the versions that wrote it; here are"),
        (b"clightgbm.sklearn\nLGBM\n.", "lightgbm is not installed"),
        (other_main(InANotebook()), "InANotebook was defined in a notebook or a script"),
    ],
    ids=["scikit-learn", "numpy", "a module of old", "a package", "a notebook"],
)  # fmt: skip
def test_a_model_written_elsewhere_says_by_what(code, content, advice, serve):  # noqa: F811
    process = serve({"model.joblib": content, "code/inference.py": code.encode()})
    assert advice in process.failure


def test_a_model_that_is_loaded_with_its_module_must_be_of_this_scikit_learn_too(serve):  # noqa: F811
    code = "import pathlib, pickle\nfile = pathlib.Path(__file__).parent / 'm.pkl'\n" + (
        "model = pickle.loads(file.read_bytes())\ndef model_fn(d):\n    return model\n"
    )
    failure = serve({"code/m.pkl": OLD, "code/inference.py": code.encode()}).failure
    assert "cannot be imported: InconsistentVersionWarning" in failure
    assert "Fit it again under scikit-learn" in failure


# -- what it does as it starts --------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "doing"),
    [("import time\nprint('waiting for the moon')\ntime.sleep(1000)", "importing code/inference.py"),
     ("def model_fn(d):\n    print('waiting for the moon')\n    while True: pass", "in model_fn")],
    ids=["import", "model_fn"],
)  # fmt: skip
def test_what_takes_too_long_says_what_it_is_at(code, doing, serve, monkeypatch):  # noqa: F811
    monkeypatch.setattr(process, "START_SECONDS", 1)
    failure = serve({"code/inference.py": code.encode()}).failure
    assert failure == (
        f"After 1 s the process was still {doing}. The last line of its log: waiting for the moon"
    )


def test_a_start_ends_within_a_minute():
    assert command.COMMAND_SECONDS < process.START_SECONDS < 60


@pytest.mark.parametrize(
    ("end", "reason"),
    [("os._exit(3)", "ended with exit code 3 before it was ready."),
     ("os._exit(0)", "ended with exit code 0 before it was ready."),
     ("os.kill(os.getpid(), 11)", "ended with exit code -11 (Segmentation fault) before it was ready."),
     ("raise ValueError('no')", "model_fn failed: ValueError: no."),
     ("sys.exit(4)", "model_fn failed: SystemExit: 4.")],
)  # fmt: skip
def test_the_last_line_of_the_log_is_in_the_reason(end, reason, serve):  # noqa: F811
    """Of what this process printed, be it very much; the traceback is in the log alone."""
    code = (
        "import os, sys\ndef model_fn(d):\n    print('x' * 1000 + '\\n' * 100_000)\n"
        f"    print('the last words', end='', flush=True)\n    {end}\n"
    )
    process = serve({"code/inference.py": code.encode()})
    assert process.failure.endswith(f"{reason} The last line of its log: the last words")
    log = (process.folder / "log").read_text()
    assert len(log) > 100_000
    assert ("in model_fn" in log) == ("model_fn failed" in reason)


def test_a_line_without_end_is_cut(serve):  # noqa: F811
    code = "import os\nprint('x' * 10_000_000, flush=True)\nos._exit(1)"
    assert len(serve({"code/inference.py": code.encode()}).failure) < 500


def test_a_package_that_prints_a_lot_is_served(serve):  # noqa: F811
    code = "print('x' * 80 + '\\n' * 200_000)\n" + ECHO
    process = serve({"code/inference.py": code.encode()})
    assert process.request("POST", "/invocations", {"Content-Type": "text/csv"}, "7")[2] == b"7"


# -- what it needs --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["requirements.txt", "code/requirements.txt"])
def test_requirements_that_are_there_are_met(name, serve):  # noqa: F811
    lines = (
        f"# what it needs\r\nscikit-learn=={sklearn.__version__}  # this one\r\nnumpy>=1.20,<3\r\n"
        + ("pandas ; python_version < '3'\r\n\r\nScikit_Learn\r\n")
    )
    members = {name: lines.encode(), "code/inference.py": ECHO.replace("\n", "\r\n").encode()}
    assert serve(members).failure == ""


@pytest.mark.parametrize("name", ["requirements.txt", "code/requirements.txt"])
def test_requirements_that_are_not_there_are_named_before_anything_is_imported(name, serve):  # noqa: F811
    members = {name: b"numpy<1\nlightgbm\njoblib\n", "code/inference.py": b"1 / 0"}
    failure = serve(members).failure
    assert failure.startswith(
        f"{name} asks for numpy<1 (here {np.__version__}), lightgbm (not there)."
    )
    assert "byom_realtime_custom" in failure


@pytest.mark.parametrize(
    ("content", "unmet"),
    [
        (b"-r other.txt", ["-r other.txt (no name with versions)"]),
        (b"--index-url https://x/simple\nnumpy", ["--index-url https://x/simple (no name with versions)"]),
        (b"./wheels/own-1.0.whl", ["./wheels/own-1.0.whl (no name with versions)"]),
        (b"pandas[excel]", ["pandas[excel] (more than a name with versions)"]),
        (b"numpy @ https://x/numpy.whl", ["numpy @ https://x/numpy.whl (more than a name with versions)"]),
        (b"numpy \\\n  --hash=sha256:0123", []),
        ("numpy\nnowhere".encode("utf-16"), ["nowhere (not there)"]),
        ("\ufeffnumpy".encode(), []),
        (b"\xff\xfe\xff", ["\ufffd (no name with versions)"]),
        (b"", []),
    ],
)  # fmt: skip
def test_any_requirements_file_is_met_or_says_by_which_line_not(content, unmet, tmp_path):
    (tmp_path / "requirements.txt").write_bytes(content)
    assert requirements.unmet(tmp_path / "requirements.txt") == unmet


def test_a_module_that_uses_the_containers_toolkits_is_served(serve):  # noqa: F811
    process = serve({"code/inference.py": AS_IN_AWS_EXAMPLES.encode()})
    assert process.failure == ""
    headers = {"Content-Type": "text/csv", "Accept": "text/csv"}
    answer = process.request("POST", "/invocations", headers, "1,2\n3,4\n")
    assert (answer[0], answer[2]) == (200, b"2.0,4.0\n6.0,8.0\n")
    headers = {"Content-Type": "application/json"}
    answer = process.request("POST", "/invocations", headers, "[[1, 2]]")
    assert (answer[1]["Content-Type"], json.loads(answer[2])) == (
        "application/json", {"answers": [[2, 4]]},
    )  # fmt: skip
    headers = {"Content-Type": "image/png"}
    assert process.request("POST", "/invocations", headers, "1")[0] == 500
