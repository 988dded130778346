"""The orchestrator on AWS: its template, its permissions, its Lambda package.

Nothing here reaches AWS: cfn-lint knows the schemas, moto stands for the services.
"""

import fnmatch
import hashlib
import json
import re
import subprocess
import sys
import zipfile
from types import SimpleNamespace

import boto3
import pytest
from botocore.validate import ParamValidator
from cfnlint.api import lint_by_config, lint_file
from cfnlint.config import ManualArgs
from cfnlint.decode import cfn_yaml
from conftest import ROOT, clean_environment
from test_handler_on_moto import (  # noqa: F401
    BODY,
    BUCKET,
    MONITORS,
    STACK,
    WITH_JOBS,
    aws,
    custom_event,
    post,
    put_into_service,
    s3_event,
    stacks,
    told,
)

from clients import lambda_zip
from orchestrator import cloudformation, environment, jobs
from orchestrator.environment import Site
from orchestrator.handler import handler
from orchestrator.monitors import archive
from orchestrator.pipelines import TYPES, monitors, validate

REGION = ManualArgs(regions=["us-east-1"])
TEMPLATE = ROOT / "orchestrator" / "template.yaml"
ENVIRONMENT = (ROOT / "orchestrator" / "environment.py").read_text()
SITE = Site(
    "us-east-1", BUCKET, "arn:aws:iam::123456789012:role/sagemaker",
    "arn:aws:iam::123456789012:role/monitor", "arn:aws:iam::123456789012:role/scheduler",
    "arn:aws:lambda:us-east-1:123456789012:function:handler", "https://api/prod/",
)  # fmt: skip


def plan(body: dict, version: str = "1") -> tuple[str, dict]:
    """Name and template of the stack that a body asks for."""
    request = validate(body)
    kind = TYPES[request.pipeline_type]
    files = [*kind.artifacts, *kind.shipped]
    copies = dict.fromkeys(files, f"s3://{BUCKET}/x/{version}/model.tar.gz")
    return request.stack_name, kind.plan(request, SITE, copies)


@pytest.fixture(scope="module")
def template() -> dict:
    return cfn_yaml.load(str(TEMPLATE))


def test_cfn_lint_finds_nothing_in_the_template():
    assert [str(match) for match in lint_file(TEMPLATE, config=REGION)] == []


PLANS = {
    "builtin": BODY,
    "xgboost": BODY | {"model_framework": "xgboost", "model_framework_version": "1.7-1"},
    "nameless": {k: v for k, v in BODY.items() if k != "endpoint_name"},
    "kms": BODY | {"kms_key_arn": "arn:aws:kms:us-east-1:123456789012:key/abc"},
    "custom": BODY | {"pipeline_type": "byom_realtime_custom", "custom_image_uri": "1.dkr.ecr/x:1"},
}


def test_a_key_encrypts_the_endpoint_and_what_it_captures():
    config = plan(PLANS["kms"])[1]["Resources"]["EndpointConfig"]["Properties"]
    key = PLANS["kms"]["kms_key_arn"]
    assert config["KmsKeyId"] == config["DataCaptureConfig"]["KmsKeyId"] == key
    assert "KmsKeyId" not in json.dumps(plan(BODY)[1])


ALL_PLANS = PLANS | WITH_JOBS
KEY = "arn:aws:kms:us-east-1:123456789012:key/abc"


def test_cfn_lint_finds_nothing_in_any_plan(tmp_path):
    paths = [tmp_path / f"{name}.json" for name in ALL_PLANS]
    for path in paths:
        path.write_text(json.dumps(plan(ALL_PLANS[path.stem])[1], indent=1))
    config = REGION | {"templates": [str(path) for path in paths]}
    assert [str(match) for match in lint_by_config(config)] == []


@pytest.mark.parametrize("kind", WITH_JOBS)
def test_a_job_in_a_plan_is_a_request_that_sagemaker_takes(kind):
    """By botocore's model of it, which knows what must be there and of what type."""
    sagemaker = boto3.client("sagemaker", region_name="us-east-1")
    [job] = [
        r
        for r in plan(WITH_JOBS[kind])[1]["Resources"].values()
        if r["Type"].startswith("Custom::")
    ]
    what = job["Type"].removeprefix("Custom::")
    shape = sagemaker.meta.service_model.operation_model(f"Create{what}").input_shape
    request = job["Properties"]["Request"] | {f"{what}Name": job["Properties"]["Name"]}
    if what == "TransformJob":
        request |= {"ModelName": "the model's, once CloudFormation has made it"}
    assert ParamValidator().validate(request, shape).generate_report() == ""
    if what == "ProcessingJob":
        words = request["AppSpecification"]["ContainerEntrypoint"]
        assert all(len(word) <= 256 and "\n" not in word for word in words)
        assert all(len(value) <= 256 for value in request["Environment"].values())


def test_what_a_bias_job_installs_is_what_the_lock_files_have():
    for lock in ("requirements.txt", "requirements-1.2-1.txt"):
        text = (ROOT / lock).read_text()
        for package in monitors.SMCLARIFY:
            pin, _, digest = package.partition(" ")
            [locked] = re.findall(rf"^{re.escape(pin)} .*(?:\n    .*)+", text, re.MULTILINE)
            assert digest in locked


def run_bias(tmp_path, python: str) -> tuple[int, list[str]]:
    """The entrypoint of a bias job with a script in place of its code, and another in place of
    Python: exit code, and what was called."""
    (tmp_path / "python3").write_text(f"#!/bin/sh\n{python}\n")
    (tmp_path / "python3").chmod(0o755)
    _, *words = monitors.BIAS.command
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "CALLED": str(tmp_path / "called")}
    result = subprocess.run(["bash", *words], env=environment, timeout=10)
    return result.returncode, (tmp_path / "called").read_text().splitlines()


def test_a_bias_job_installs_nothing_that_is_there(tmp_path):
    assert run_bias(tmp_path, 'echo "$1" >> "$CALLED"') == (0, ["-c", monitors.CODE_FILE])


@pytest.mark.parametrize("outcome", [0, 1])
def test_a_bias_job_installs_by_digest_or_does_not_run(tmp_path, outcome):
    python = f"""
    case "$1" in
        -c) exit 1;;
        -m) cat >> "$CALLED"; exit {outcome};;
        *) echo "$1" >> "$CALLED"
    esac"""
    called = [*monitors.SMCLARIFY, *([] if outcome else [monitors.CODE_FILE])]
    assert run_bias(tmp_path, python) == (outcome, called)


@pytest.mark.parametrize("kind", WITH_JOBS)
def test_a_key_encrypts_what_a_job_writes_and_its_volume(kind):
    request = plan(WITH_JOBS[kind] | {"kms_key_arn": KEY})[1]
    assert json.dumps(request).count(KEY) == (2 if kind not in MONITORS else 4)
    assert "KmsKeyId" not in json.dumps(plan(WITH_JOBS[kind])[1])


@pytest.mark.parametrize("name", PLANS)
def test_moto_creates_updates_and_deletes_a_plan(name, aws):  # noqa: F811
    cloudformation, sagemaker = boto3.client("cloudformation"), boto3.client("sagemaker")
    stack = plan(PLANS[name])[0]

    def body(version: str) -> str:
        return json.dumps(plan(PLANS[name], version)[1])

    def served() -> str:
        models = [m["ModelName"] for m in sagemaker.list_models()["Models"]]
        urls = [
            sagemaker.describe_model(ModelName=m)["PrimaryContainer"]["ModelDataUrl"]
            for m in models
        ]
        return max(urls)

    cloudformation.create_stack(StackName=stack, TemplateBody=body("1"))
    assert served().endswith("/1/model.tar.gz")
    cloudformation.update_stack(StackName=stack, TemplateBody=body("2"))
    assert served().endswith("/2/model.tar.gz")
    assert len(sagemaker.list_endpoints()["Endpoints"]) == 1
    cloudformation.delete_stack(StackName=stack)
    assert sagemaker.list_endpoints()["Endpoints"] == []
    assert sagemaker.list_models()["Models"] == []


def test_every_method_asks_for_iam_authorisation(template):
    methods = [r for r in template["Resources"].values() if r["Type"] == "AWS::ApiGateway::Method"]
    assert len(methods) == 3
    assert {method["Properties"]["AuthorizationType"] for method in methods} == {"AWS_IAM"}
    assert {method["Properties"]["HttpMethod"] for method in methods} == {"POST"}


def test_new_routes_make_a_new_deployment(template):
    """A deployment under an old name would keep the old routes, however it is deployed."""
    resources = template["Resources"]
    routes = {
        name: resource
        for name, resource in resources.items()
        if resource["Type"].removeprefix("AWS::ApiGateway::") in ("RestApi", "Resource", "Method")
    }
    digest = hashlib.sha256(json.dumps(routes, sort_keys=True).encode()).hexdigest()[:8]
    [name] = [n for n, r in resources.items() if r["Type"] == "AWS::ApiGateway::Deployment"]
    assert name == f"ApiDeployment{digest}", "the routes have changed: rename the deployment"
    methods = {n for n, r in routes.items() if r["Type"] == "AWS::ApiGateway::Method"}
    assert set(resources[name]["DependsOn"]) == methods
    assert resources["ApiStage"]["Properties"]["DeploymentId"] == {"Ref": name}


def test_old_versions_expire_and_current_ones_never(template):
    """A current version may be what an endpoint serves."""
    properties = template["Resources"]["AssetsBucket"]["Properties"]
    rules = properties["LifecycleConfiguration"]["Rules"]
    assert all(rule["Status"] == "Enabled" and "Prefix" not in rule for rule in rules)
    said = {key: value for rule in rules for key, value in rule.items()}
    assert said.keys() == {
        "Id", "Status", "AbortIncompleteMultipartUpload", "NoncurrentVersionExpiration",
        "ExpiredObjectDeleteMarker",
    }  # fmt: skip
    assert said["NoncurrentVersionExpiration"] == {"NoncurrentDays": 30}


def test_the_bucket_is_versioned_encrypted_private_and_tls_only(template):
    properties = template["Resources"]["AssetsBucket"]["Properties"]
    assert properties["VersioningConfiguration"] == {"Status": "Enabled"}
    assert "BucketEncryption" in properties
    assert set(properties["PublicAccessBlockConfiguration"].values()) == {True}
    deny = template["Resources"]["AssetsBucketPolicy"]["Properties"]["PolicyDocument"]["Statement"][
        0
    ]
    assert (deny["Effect"], deny["Action"]) == ("Deny", "s3:*")
    assert deny["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


def test_the_outputs_carry_the_names_that_clients_of_the_original_look_for(template):
    outputs = template["Outputs"]
    assert any(key.startswith("PipelineOrchestrationLambdaRestApiEndpoint") for key in outputs)
    assert {"AssetsBucket", "MLOpsNotificationsTopicArn"} <= set(outputs)


# -- permissions ----------------------------------------------------------------------

# What an API call asks for, where that is not `service:Operation`.
ACTIONS = {
    "s3:ListObjectsV2": {"s3:ListBucket"},
    "s3:HeadObject": {"s3:GetObject"},
    "s3:HeadBucket": {"s3:ListBucket"},
    "s3:CopyObject": {"s3:GetObject", "s3:PutObject"},
    "s3:CreateMultipartUpload": {"s3:PutObject"},
    "s3:UploadPart": {"s3:PutObject"},
    "s3:CompleteMultipartUpload": {"s3:PutObject"},
    "sagemaker-runtime:InvokeEndpoint": {"sagemaker:InvokeEndpoint"},
}
# Granted for what AWS does on the handler's behalf, and so in no call of ours.
INDIRECT = {
    "logs:CreateLogStream": "Lambda writes the log",
    "logs:PutLogEvents": "Lambda writes the log",
    "iam:PassRole": "CreateStack, UpdateStack and CreateProcessingJob hand a role over",
    "cloudformation:TagResource": "CreateStack names whose a stack is",
    "kms:Decrypt": "publishing to an encrypted topic",
    "kms:GenerateDataKey*": "publishing to an encrypted topic",
}


def statements(template: dict, role: str) -> list[dict]:
    """Of a role, or of a managed policy."""
    properties = template["Resources"][role]["Properties"]
    policies = properties.get("Policies", [properties])
    return [s for policy in policies for s in policy["PolicyDocument"]["Statement"]]


def granted(template: dict, role: str) -> set[str]:
    actions = set()
    for statement in statements(template, role):
        if statement["Effect"] == "Allow":
            action = statement["Action"]
            actions |= {action} if isinstance(action, str) else set(action)
    return actions


# Of each kind of job: a request.
JOBS = {
    job["Type"].removeprefix("Custom::"): job["Properties"]["Request"] | {"ModelName": "model"}
    if job["Type"] == "Custom::TransformJob" else job["Properties"]["Request"]
    for body in WITH_JOBS.values()
    for job in plan(body)[1]["Resources"].values()
    if job["Type"].startswith("Custom::")
}  # fmt: skip


@pytest.fixture
def calls(aws, monkeypatch, custom_event, stacks):  # noqa: F811
    """Every AWS call that the handler makes while it does all it can do."""
    made: set[str] = set()

    def watched(service: str, **options):
        client = boto3.client(service, **options)
        client.meta.events.register(
            "before-call", lambda model, **_: made.add(f"{service}:{model.name}")
        )
        return client

    monkeypatch.setattr(environment, "boto3", SimpleNamespace(client=watched))
    environment.client.cache_clear()
    topic = boto3.client("sns").create_topic(Name="notes")["TopicArn"]
    monkeypatch.setenv("NOTIFICATIONS_TOPIC", topic)
    pipeline_id = post("/provisionpipeline", BODY)[1]["pipeline_id"]
    post("/pipelinestatus", {"pipeline_id": pipeline_id})
    aws.put_object(Bucket=BUCKET, Key="model.tar.gz", Body=b"two")
    post("/provisionpipeline", BODY)
    handler(
        {
            "httpMethod": "POST",
            "path": f"/pipelines/{STACK}/inference",
            "body": '{"payload": "1", "content_type": "text/csv"}',
        },
        None,
    )
    aws.put_object(Bucket=BUCKET, Key="mlops-config.json", Body=b"{}")
    handler(s3_event("mlops-config.json"), None)
    detail = {"stack-id": pipeline_id, "status-details": {"status": "UPDATE_ROLLBACK_COMPLETE"}}
    handler({"source": "aws.cloudformation", "detail": detail}, None)
    put_into_service()
    for body in WITH_JOBS.values():
        assert post("/provisionpipeline", body)[0] == 200
    # A job in a stack: started, asked about, stopped.
    for kind, request in JOBS.items():
        properties = {"Name": "night", "Request": request}
        event = {"ResourceType": f"Custom::{kind}", "ResourceProperties": properties}
        name = handler(custom_event("Create", **event), None)["PhysicalResourceId"]
        jobs.states([{"ResourceType": event["ResourceType"], "PhysicalResourceId": name}])
        handler(custom_event("Delete", PhysicalResourceId=name, **event), None)
    jobs._stop_started("night", {})  # those that a schedule has started
    # A stack that failed at birth is deleted and made again.
    stack = boto3.client("cloudformation").describe_stacks(StackName=STACK)["Stacks"][0]
    failed = stack | {"StackStatus": "CREATE_FAILED"}
    monkeypatch.setattr(cloudformation, "find", lambda _: failed)
    post("/provisionpipeline", BODY)
    return made


def test_the_handlers_role_allows_what_it_calls_and_nothing_else(template, calls):
    allowed = granted(template, "HandlerRole")
    assert {f"sagemaker:Create{kind}" for kind in jobs.KINDS} <= calls
    needed = set().union(*(ACTIONS.get(call, {call}) for call in calls))
    refused = {a for a in needed if not any(fnmatch.fnmatch(a, pattern) for pattern in allowed)}
    assert refused == set()
    unused = {a for a in allowed if a not in needed} - INDIRECT.keys()
    assert unused == set()


# What CloudFormation calls for each type that a plan can hold (the types' own handlers).
NEEDED_BY_TYPE = {
    "AWS::SageMaker::Model": {"CreateModel", "DescribeModel", "DeleteModel", "AddTags"},
    "AWS::SageMaker::EndpointConfig": {
        "CreateEndpointConfig", "DescribeEndpointConfig", "DeleteEndpointConfig", "AddTags",
    },
    "AWS::SageMaker::Endpoint": {
        "CreateEndpoint", "DescribeEndpoint", "UpdateEndpoint", "DeleteEndpoint", "AddTags",
    },
    "AWS::Scheduler::Schedule": {
        "CreateSchedule", "GetSchedule", "UpdateSchedule", "DeleteSchedule",
    },
}  # fmt: skip


def test_cloudformations_role_allows_what_plans_need_and_nothing_else(template):
    types = set()
    for body in ALL_PLANS.values():
        resources = plan(body)[1]["Resources"]
        types |= {resource["Type"] for resource in resources.values()}
    needed = {
        f"{kind.split('::')[1].lower()}:{action}"
        for kind in types
        if not kind.startswith("Custom::")
        for action in NEEDED_BY_TYPE[kind]
    }
    # Custom resources are the handler's work.
    assert granted(template, "CloudFormationRole") == needed | {
        "iam:PassRole",
        "lambda:InvokeFunction",
    }


def may(template: dict, role: str, action: str, key: str) -> bool:
    """Whether a role may do something with a key of the assets bucket."""
    effects = set()
    for statement in statements(template, role):
        resource = statement["Resource"]
        named = resource.get("Fn::Sub", "") if isinstance(resource, dict) else ""
        bucket, _, pattern = named.partition("/")
        if "-assets-" not in bucket and "AssetsBucket" not in bucket:
            continue
        if action in statement["Action"] and fnmatch.fnmatchcase(key, pattern):
            effects.add(statement["Effect"])
    return effects == {"Allow"}


def test_a_models_code_can_neither_provision_nor_change_a_model(template):
    bucket = template["Resources"]["AssetsBucket"]["Properties"]
    [configuration] = bucket["NotificationConfiguration"]["LambdaConfigurations"]
    [rule] = configuration["Filter"]["S3Key"]["Rules"]
    assert rule["Name"] == "prefix"
    for key in (rule["Value"], rule["Value"] + ".2", "mlops_provisioned_pipelines/a/1/m.tar.gz"):
        assert not may(template, "SageMakerRole", "s3:PutObject", key)
        assert not may(template, "MonitorRole", "s3:PutObject", key)
    assert may(template, "SageMakerRole", "s3:PutObject", "pulsar/datacapture/a.jsonl")
    assert may(template, "SageMakerRole", "s3:GetObject", "mlops_provisioned_pipelines/a/1/m")
    assert may(template, "MonitorRole", "s3:PutObject", "pulsar/monitoring/results/a.json")


# What the analyzers call (orchestrator/monitors); SageMaker itself fetches, sends and logs.
CALLED_BY_MONITORS = {
    "s3:GetObject", "s3:ListBucket",
    "sagemaker:DescribeEndpoint", "sagemaker:DescribeEndpointConfig", "sagemaker:DescribeModel",
}  # fmt: skip
DONE_FOR_MONITORS = {
    "s3:PutObject", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer",
    "ecr:BatchCheckLayerAvailability", "ecr:GetAuthorizationToken",
    "logs:CreateLogGroup", "logs:CreateLogStream", "logs:PutLogEvents",
}  # fmt: skip


def test_a_monitors_role_allows_what_it_calls_and_nothing_else(template):
    assert granted(template, "MonitorRole") == CALLED_BY_MONITORS | DONE_FOR_MONITORS
    methods = set(
        re.findall(
            r"\b(?:s3|sagemaker)\.(\w+)\(|get_paginator\(\"(\w+)\"",
            "".join(path.read_text() for path in (ROOT / "orchestrator/monitors").glob("*.py")),
        )
    )
    assert {one or other for one, other in methods} == {
        "head_object", "get_object", "list_objects_v2", "download_fileobj", "get_paginator",
        "describe_endpoint", "describe_endpoint_config", "describe_model",
    }  # fmt: skip


def test_a_schedule_may_start_monitors_and_hand_over_no_other_role(template):
    assert granted(template, "SchedulerRole") == {"sagemaker:CreateProcessingJob", "iam:PassRole"}
    for role in ("SchedulerRole", "ClientPolicy"):
        [hand] = [s for s in statements(template, role) if s["Action"] == "iam:PassRole"]
        assert hand["Resource"] == {"Fn::GetAtt": ["MonitorRole", "Arn"]}


def test_what_a_schedule_starts_is_what_its_role_allows():
    for body in MONITORS.values():
        target = plan(body)[1]["Resources"]["Schedule"]["Properties"]["Target"]
        _, _, operation = target["Arn"].rpartition(":")
        assert (operation, target["RoleArn"]) == ("createProcessingJob", SITE.scheduler_role_arn)
        assert json.loads(target["Input"]["Fn::Sub"])["RoleArn"] == SITE.monitor_role_arn


@pytest.mark.parametrize("role", ["CloudFormationRole", "ClientPolicy"])
@pytest.mark.parametrize("endpoint", ["pulsar", "p" * 63])
@pytest.mark.parametrize("kind", MONITORS)
def test_a_schedule_has_a_name_that_the_roles_are_for(template, role, kind, endpoint):
    body = MONITORS[kind] | {"endpoint_name": endpoint}
    name = plan(body)[1]["Resources"]["Schedule"]["Properties"]["Name"]
    [grant] = [s for s in statements(template, role) if "scheduler:GetSchedule" in s["Action"]]
    patterns = [r["Fn::Sub"].rpartition(":schedule/default/")[2] for r in grant["Resource"]]
    assert len(name) <= 64
    assert any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def test_the_handler_is_told_its_roles(template):
    variables = template["Resources"]["Handler"]["Properties"]["Environment"]["Variables"]
    for role in ("SageMakerRole", "MonitorRole", "SchedulerRole"):
        assert {"Fn::GetAtt": [role, "Arn"]} in variables.values()
    assert set(re.findall(r'os\.environ\["(\w+)"\]', ENVIRONMENT)) <= {*variables, "AWS_REGION"}


def test_a_client_uploads_and_sweeps_but_overwrites_no_deployed_model(template):
    copy = "mlops_provisioned_pipelines/a/1/model.tar.gz"
    assert may(template, "ClientPolicy", "s3:PutObject", "model.tar.gz")
    assert may(template, "ClientPolicy", "s3:DeleteObject", copy)
    assert not may(template, "ClientPolicy", "s3:PutObject", copy)
    assert not may(template, "ClientPolicy", "s3:DeleteObject", "model.tar.gz")


@pytest.mark.parametrize("role", ["HandlerRole", "ClientPolicy"])
def test_stacks_are_made_and_changed_under_the_orchestrators_own_name_only(template, role):
    keys = {
        "cloudformation:CreateStack": "aws:RequestTag/orchestrator",
        "cloudformation:UpdateStack": "aws:ResourceTag/orchestrator",
        "cloudformation:DeleteStack": "aws:ResourceTag/orchestrator",
    }
    for statement in statements(template, role):
        actions = statement["Action"]
        for action in keys.keys() & ({actions} if isinstance(actions, str) else set(actions)):
            own = {keys[action]: {"Ref": "AWS::StackName"}}
            assert statement["Condition"] == {"StringEquals": own}, action
    variables = template["Resources"]["Handler"]["Properties"]["Environment"]["Variables"]
    assert variables["ORCHESTRATOR"] == {"Ref": "AWS::StackName"}


def test_a_model_reaches_nobody(template):
    for kind, body in ALL_PLANS.items():
        if kind in MONITORS:
            continue
        properties = plan(body)[1]["Resources"]["Model"]["Properties"]
        assert properties["EnableNetworkIsolation"] is True


# What clients may do for `make monitor` alone, which the walk through moto does not take.
OF_MAKE_MONITOR = {
    "scheduler:GetSchedule", "sagemaker:CreateProcessingJob", "sagemaker:DescribeProcessingJob",
    "iam:PassRole",
}  # fmt: skip


def test_clients_may_do_what_make_monitor_calls(template):
    text = (ROOT / "scripts" / "monitor.py").read_text()
    called = re.findall(r"client\(\"(\w+)\"\)\s*\.(\w+)\(", text)
    names = {f"{service}:{name.title().replace('_', '')}" for service, name in called}
    assert names - {"s3:UploadFile", "s3:GetObject"} == OF_MAKE_MONITOR - {"iam:PassRole"}
    assert granted(template, "ClientPolicy") >= OF_MAKE_MONITOR | {"s3:PutObject", "s3:GetObject"}


# AWS takes no resource here.
NAMELESS = {
    "ecr:GetAuthorizationToken",
    "cloudwatch:PutMetricData",
    "cloudformation:DescribeStacks",
    "sagemaker:ListProcessingJobs",
}


ROLES = [
    "HandlerRole", "CloudFormationRole", "SageMakerRole", "MonitorRole", "SchedulerRole",
    "ClientPolicy",
]  # fmt: skip


@pytest.mark.parametrize("role", ROLES)
def test_every_grant_names_what_it_is_for_and_to_what(template, role):
    for statement in statements(template, role):
        assert statement["Sid"], statement
        actions = statement["Action"]
        actions = {actions} if isinstance(actions, str) else set(actions)
        assert not any(action.endswith(":*") for action in actions)
        if statement["Resource"] == "*":
            assert actions <= NAMELESS, statement["Sid"]
        if "iam:PassRole" in actions:
            assert "iam:PassedToService" in statement["Condition"]["StringEquals"]


# -- the Lambda package ---------------------------------------------------------------


def test_the_package_is_the_same_bytes_and_runs_with_boto3_alone(tmp_path):
    content = lambda_zip.pack()
    assert content == lambda_zip.pack()
    (tmp_path / "handler.zip").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "handler.zip") as packed:
        packed.extractall(tmp_path / "task")
    # Only what Lambda's Python has: boto3 and what it needs.
    allowed = ["boto3", "botocore", "s3transfer", "jmespath", "dateutil", "urllib3", "six"]
    code = f"""
import hashlib, sys
sys.path.insert(0, {str(tmp_path / "task")!r})
class OnlyBoto:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in sys.stdlib_module_names or top in {allowed + ["orchestrator"]!r}:
            return None
        if top.startswith("_sysconfigdata"):  # the standard library's, too
            return None
        raise ModuleNotFoundError(name)
sys.meta_path.insert(0, OnlyBoto())
from orchestrator.handler import handler
import orchestrator.handler
assert orchestrator.handler.__file__.startswith({str(tmp_path)!r})
print(handler({{"httpMethod": "POST", "path": "/provisionpipeline", "body": "{{}}"}}, None))
from orchestrator.monitors import archive
print(hashlib.sha256(archive()).hexdigest())
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path,
        env=clean_environment(),
    )  # fmt: skip
    assert "'statusCode': 400" in result.stdout, result.stderr
    # What Lambda ships to a monitor's job is what the tests of the analyzers have run.
    assert hashlib.sha256(archive()).hexdigest() in result.stdout


def test_moto_makes_and_deletes_the_orchestrator_itself(aws, template):  # noqa: F811
    """moto knows most of the types; cfn-lint's schemas cover the rest."""
    cloudformation = boto3.client("cloudformation")
    aws.put_object(Bucket=BUCKET, Key="orchestrator.zip", Body=lambda_zip.pack())
    packaged = json.loads(json.dumps(template))
    packaged["Resources"]["Handler"]["Properties"]["Code"] = {
        "S3Bucket": BUCKET, "S3Key": "orchestrator.zip",
    }  # fmt: skip
    # moto cannot resolve the cycle that AWS has no difficulty with: bucket, permission, function.
    packaged["Resources"]["AssetsBucket"]["Properties"].pop("NotificationConfiguration")
    cloudformation.create_stack(
        StackName="pulsar", TemplateBody=json.dumps(packaged), Capabilities=["CAPABILITY_IAM"]
    )
    stack = cloudformation.describe_stacks(StackName="pulsar")["Stacks"][0]
    assert stack["StackStatus"] == "CREATE_COMPLETE"
    outputs = {o["OutputKey"]: o["OutputValue"] for o in stack["Outputs"]}
    assert outputs["AssetsBucket"] == "pulsar-assets-123456789012-us-east-1"
    assert outputs["PipelineOrchestrationLambdaRestApiEndpoint"].endswith(".amazonaws.com/prod/")
    function = boto3.client("lambda").get_function(FunctionName="pulsar-handler")
    variables = function["Configuration"]["Environment"]["Variables"]
    assert variables["ASSETS_BUCKET"] == outputs["AssetsBucket"]
    assert variables["API_URL"] == outputs["PipelineOrchestrationLambdaRestApiEndpoint"]
    cloudformation.delete_stack(StackName="pulsar")
    assert boto3.client("lambda").list_functions()["Functions"] == []
