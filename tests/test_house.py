"""The house keeps its order: who may import whom, and what the orchestrator's core does not know."""

import ast
import graphlib
import json
import re
import sys
from pathlib import Path

import boto3
import pytest
from test_handler_on_moto import BUCKET, aws, post  # noqa: F401

from common.files import CODE
from orchestrator import contract, pipelines
from orchestrator.pipelines.family import PipelineType

ROOT = Path(__file__).resolve().parents[1]
# Whom a room may know, besides itself. `commands` are the scripts at the top.
KNOWS = {
    "common": set(),
    "candidates": {"common", "candidates.folds", "candidates.tables"},
    # Both travel in a package, alone.
    "candidates.folds": {"candidates.tables"},  # the names of the models that are for its kinds
    "candidates.tables": set(),
    "learning": {"common", "candidates.tables"},
    "scoring": {
        "common", "candidates", "candidates.folds", "candidates.tables", "clients",
        "orchestrator.sandbox.hosting",
    },
    "clients": {"common", "orchestrator", "orchestrator.pipelines"},
    "orchestrator": {"orchestrator.monitors", "orchestrator.pipelines"},
    "orchestrator.monitors": set(),  # it is shipped, alone
    "orchestrator.pipelines": {"orchestrator", "orchestrator.monitors"},
    "orchestrator.sandbox": {
        "orchestrator", "orchestrator.sandbox.aws", "orchestrator.sandbox.cloudformation",
        "orchestrator.sandbox.cloudwatch", "orchestrator.sandbox.hosting",
        "orchestrator.sandbox.jobs", "orchestrator.sandbox.sagemaker",
        "orchestrator.sandbox.scheduler", "orchestrator.sandbox.sns",
    },
    "orchestrator.sandbox.aws": {"orchestrator", "orchestrator.sandbox"},
    "orchestrator.sandbox.cloudformation": {
        "orchestrator", "orchestrator.sandbox", "orchestrator.sandbox.aws",
    },
    "orchestrator.sandbox.cloudwatch": {"orchestrator.sandbox", "orchestrator.sandbox.aws"},
    "orchestrator.sandbox.hosting": {"orchestrator", "orchestrator.sandbox"},
    "orchestrator.sandbox.jobs": {
        "orchestrator", "orchestrator.sandbox", "orchestrator.sandbox.hosting",
    },
    "orchestrator.sandbox.sagemaker": {
        "orchestrator", "orchestrator.sandbox", "orchestrator.sandbox.aws",
        "orchestrator.sandbox.hosting", "orchestrator.sandbox.jobs",
    },
    "orchestrator.sandbox.scheduler": {
        "orchestrator", "orchestrator.sandbox", "orchestrator.sandbox.aws",
    },
    "orchestrator.sandbox.sns": {"orchestrator.sandbox", "orchestrator.sandbox.aws"},
    "orchestrator.sandbox.store": {
        "orchestrator", "orchestrator.sandbox", "orchestrator.sandbox.hosting",
    },
}  # fmt: skip


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    while parts[0] in ("scripts", "dev"):
        parts = parts[1:]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {
    module_of(path): path
    for folder in ("scripts", "orchestrator")
    for path in (ROOT / folder).rglob("*.py")
    if path.parent != ROOT / "scripts"
} | {f"commands.{path.stem}": path for path in (ROOT / "scripts").glob("*.py")}


def imports(path: Path) -> set[str]:
    """The modules of ours that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names} & FILES.keys()
            found |= names or {node.module}
    return found & FILES.keys()


IMPORTS = {module: imports(path) for module, path in FILES.items()}


def room_of(module: str) -> str:
    is_package = FILES[module].name == "__init__.py"
    return module if is_package else module.rpartition(".")[0]


def test_no_module_imports_itself_by_way_of_others():
    list(graphlib.TopologicalSorter(IMPORTS).static_order())


@pytest.mark.parametrize("room", KNOWS)
def test_a_room_knows_only_those_below_it(room):
    known = {
        (module, other)
        for module, others in IMPORTS.items()
        for other in others
        if room_of(module) == room and room_of(other) not in KNOWS[room] | {room}
    }
    assert known == set()


def test_nothing_in_the_sandbox_knows_the_server_but_its_main():
    knows = {
        module
        for module, others in IMPORTS.items()
        if "orchestrator.sandbox.server" in others and module.startswith("orchestrator.")
    }
    assert knows == {"orchestrator.sandbox.__main__"}


SHIPPED = [module for module in FILES if module.startswith("orchestrator.monitors")]


@pytest.mark.parametrize("module", SHIPPED)
def test_what_is_shipped_runs_on_an_old_python_with_what_its_image_has(module):
    tree = ast.parse(FILES[module].read_text(), feature_version=(3, 8))
    imported = {
        alias.name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    } | {
        node.module.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and not node.level
    }
    its_image = {"numpy", "pandas", "sklearn", "boto3", "botocore", "smclarify"}
    assert imported <= sys.stdlib_module_names | its_image
    words = FILES[module].read_text()
    newer = r"\.remove(?:pre|suf)fix\(|strict=|dataclass\(.*slots|import .*\bUTC\b|-> (?:list|dict|tuple|set)\["
    assert re.findall(newer, words) == []


PACKAGED = [module_of(path) for path in CODE.values()]


@pytest.mark.parametrize("module", PACKAGED)
def test_what_travels_in_a_package_runs_on_an_old_python_with_what_its_image_has(module):
    words = FILES[module].read_text()
    tree = ast.parse(words, feature_version=(3, 8))
    imported = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names] if isinstance(node, ast.Import)
            else [node.module] if isinstance(node, ast.ImportFrom) else []
        )
    }  # fmt: skip
    its_image = {"numpy", "candidates"}
    if module == "scoring.inference":
        its_image |= {"scipy", "joblib", "threadpoolctl", "werkzeug", "pyarrow"}
    assert imported <= sys.stdlib_module_names | its_image
    newer = r"\.remove(?:pre|suf)fix\(|\bzip\(.*strict=|dataclass\(.*slots|import .*\bUTC\b"
    assert re.findall(newer, words) == []
    if re.search(r"^ *def .*(?:->|: \w)", words, re.MULTILINE):  # annotations are of a later Python
        assert "from __future__ import annotations" in words


@pytest.mark.parametrize("module", sorted(FILES))
def test_every_file_says_what_it_is_for(module):
    tree = ast.parse(FILES[module].read_text())
    assert ast.get_docstring(tree) or not tree.body


@pytest.mark.parametrize(
    "module",
    [
        "handler",
        "contract",
        "provision",
        "status",
        "artifacts",
        "cloudformation",
        "jobs",
        "news",
        "logs",
    ],
)
def test_the_core_names_no_pipeline_type(module):
    words = (ROOT / "orchestrator" / f"{module}.py").read_text()
    names = [*pipelines.SUFFIXES, *pipelines.SUFFIXES.values(), "endpoint_name", "realtime"]
    assert [name for name in names if name in words] == []


def test_a_new_family_is_one_file_and_a_line_of_the_registry(aws, monkeypatch):  # noqa: F811
    """A type that keeps an artifact of its own in a queue's tag: provisioned, updated, asked about."""

    def plan(request, site, artifacts):
        tags = [{"Key": "night", "Value": artifacts["night_location"]}]
        return {
            "Resources": {"Queue": {"Type": "AWS::SQS::Queue", "Properties": {"Tags": tags}}},
            "Outputs": {"QueueName": {"Value": {"Fn::GetAtt": ["Queue", "QueueName"]}}},
        }

    kind = PipelineType(
        stack_suffix="nights", plan=plan, artifacts=("night_location",),
        required={"model_name": contract.model_name, "night_location": contract.anything},
    )  # fmt: skip
    monkeypatch.setitem(pipelines.TYPES, "nights", kind)
    monkeypatch.setitem(pipelines.SUFFIXES, "nights", kind.stack_suffix)
    aws.put_object(Bucket=BUCKET, Key="night.csv", Body=b"1")
    body = {"pipeline_type": "nights", "model_name": "pulsar", "night_location": "night.csv"}
    assert post("/provisionpipeline", {key: body[key] for key in list(body)[:2]})[0] == 400
    status, answer = post("/provisionpipeline", body)
    assert (status, answer["message"]) == (200, "success: stack creation started"), answer
    stack = boto3.client("cloudformation").describe_stacks()["Stacks"][0]
    assert stack["StackName"] == "mlops-pipeline-pulsar-nights-codepipeline"
    copied = [o["Key"] for o in aws.list_objects_v2(Bucket=BUCKET)["Contents"]]
    assert any(key.startswith("mlops_provisioned_pipelines/") for key in copied)
    status, answer = post("/pipelinestatus", {"pipeline_id": answer["pipeline_id"]})
    assert status == 200
    assert answer["stageStates"][-1]["latestExecution"]["status"] == "Succeeded", json.dumps(answer)
    aws.put_object(Bucket=BUCKET, Key="night.csv", Body=b"2")
    updating = contract.UPDATING.format("mlops-pipeline-pulsar-nights-codepipeline")
    assert post("/provisionpipeline", body)[1]["message"] == updating


def test_every_test_that_the_security_page_names_is_there():
    named = re.findall(r"`(test_\w+(?:\.py)?)`", (ROOT / "docs" / "security.md").read_text())
    assert len(named) > 20
    sources = {path.name: path.read_text() for path in (ROOT / "tests").glob("test_*.py")}
    for name in named:
        there = name in sources or any(f"def {name}(" in source for source in sources.values())
        assert there, name
