"""The very same handler against moto, which stands for AWS."""

import json
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
import pytest
from botocore.exceptions import ClientError
from conftest import ROOT
from moto import mock_aws
from moto.cloudformation import parsing

from clients.payloads import load_payload
from orchestrator import environment
from orchestrator.handler import handler

BUCKET = "assets"
BODY = {
    "pipeline_type": "byom_realtime_builtin",
    "model_name": "pulsar",
    "model_framework": "sklearn",
    "model_framework_version": "1.9-0",
    "model_artifact_location": "model.tar.gz",
    "data_capture_location": f"{BUCKET}/pulsar/datacapture",
    "inference_instance": "ml.m5.large",
    "endpoint_name": "pulsar",
}
STACK = "mlops-pipeline-pulsar-byompipelinerealtimebuiltin-codepipeline"
SHIPPED = [
    load_payload(ROOT / "payloads" / f"pulsar-{name}.json", BUCKET)
    for name in ("batch", "data-quality", "model-quality", "bias", "explainability")
]
# A body of each type whose work are jobs.
WITH_JOBS = {body["pipeline_type"]: body for body in SHIPPED} | {
    "byom_batch_custom": {
        k: v for k, v in SHIPPED[0].items() if not k.startswith("model_framework")
    }
    | {"pipeline_type": "byom_batch_custom", "custom_image_uri": "1.dkr.ecr/x:1"}
}
MONITORS = {kind: body for kind, body in WITH_JOBS.items() if kind.endswith("_monitor")}


@pytest.fixture
def aws(monkeypatch):
    """An AWS account with an assets bucket and a model in it."""
    for key, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "ASSETS_BUCKET": BUCKET,
        "SAGEMAKER_ROLE_ARN": "arn:aws:iam::123456789012:role/sagemaker",
        "MONITOR_ROLE_ARN": "arn:aws:iam::123456789012:role/monitor",
        "SCHEDULER_ROLE_ARN": "arn:aws:iam::123456789012:role/scheduler",
        "HANDLER_ARN": "arn:aws:lambda:us-east-1:123456789012:function:handler",
        "API_URL": "https://api.example/prod/",
        "CFN_ROLE_ARN": "arn:aws:iam::123456789012:role/cloudformation",
        "ACCOUNT_ID": "123456789012",
        "ORCHESTRATOR": "ours",
        "LOG_RETENTION_DAYS": "30",
    }.items():
        monkeypatch.setenv(key, value)
    forget_clients = environment.client.cache_clear
    forget_clients()
    with mock_aws():
        s3 = boto3.client("s3")
        s3.create_bucket(Bucket=BUCKET)
        s3.put_object(Bucket=BUCKET, Key="model.tar.gz", Body=b"one")
        yield s3
    forget_clients()


def post(path: str, body: dict) -> tuple[int, dict]:
    answer = handler({"httpMethod": "POST", "path": path, "body": json.dumps(body)}, None)
    return answer["statusCode"], json.loads(answer["body"])


def deployed_model_url() -> str:
    outputs = boto3.client("cloudformation").describe_stacks(StackName=STACK)["Stacks"][0][
        "Outputs"
    ]
    name = next(o["OutputValue"] for o in outputs if o["OutputKey"] == "SageMakerModelName")
    return boto3.client("sagemaker").describe_model(ModelName=name)["PrimaryContainer"][
        "ModelDataUrl"
    ]


def test_provisioning_creates_the_planned_resources(aws):
    status, answer = post("/provisionpipeline", BODY)
    assert status == 200
    assert answer["message"] == "success: stack creation started"
    sagemaker = boto3.client("sagemaker")
    assert len(sagemaker.list_models()["Models"]) == 1
    assert len(sagemaker.list_endpoints()["Endpoints"]) == 1
    config_name = sagemaker.list_endpoint_configs()["EndpointConfigs"][0]["EndpointConfigName"]
    config = sagemaker.describe_endpoint_config(EndpointConfigName=config_name)
    assert config["DataCaptureConfig"]["DestinationS3Uri"] == f"s3://{BUCKET}/pulsar/datacapture"
    assert deployed_model_url().startswith(f"s3://{BUCKET}/mlops_provisioned_pipelines/{STACK}/")
    status, answer = post("/pipelinestatus", {"pipeline_id": answer["pipeline_id"]})
    assert status == 200
    assert [s["latestExecution"]["status"] for s in answer["stageStates"]] == ["Succeeded"] * 2


def test_a_changed_object_under_the_same_key_is_a_new_version(aws):
    first_id = post("/provisionpipeline", BODY)[1]["pipeline_id"]
    first = deployed_model_url()
    _, again = post("/provisionpipeline", BODY)
    assert again["pipeline_id"] == first_id
    assert deployed_model_url() == first
    aws.put_object(Bucket=BUCKET, Key="model.tar.gz", Body=b"two")
    status, answer = post("/provisionpipeline", BODY)
    assert status == 200
    assert answer["message"] == (
        f"Pipeline {STACK} is already provisioned. Updating template parameters."
    )
    assert answer["pipeline_id"] == first_id
    second = deployed_model_url()
    assert second != first
    key = second.removeprefix(f"s3://{BUCKET}/")
    assert aws.get_object(Bucket=BUCKET, Key=key)["Body"].read() == b"two"


def copies(s3) -> set[str]:
    listed = s3.list_objects_v2(Bucket=BUCKET, Prefix="mlops_provisioned_pipelines/")
    return {item["Key"] for item in listed.get("Contents", [])}


@pytest.mark.parametrize("refused", ["create_stack", "update_stack"])
def test_a_request_that_fails_takes_no_copy_away(aws, monkeypatch, refused):
    """It may be the copy that runs, or another request's: two equal ones share it."""

    def refuse(**_):
        raise ClientError({"Error": {"Code": "Throttling", "Message": "not now"},
                           "ResponseMetadata": {"HTTPStatusCode": 400}}, refused)  # fmt: skip

    if refused == "update_stack":
        assert post("/provisionpipeline", BODY)[0] == 200
        aws.put_object(Bucket=BUCKET, Key="model.tar.gz", Body=b"two")
    before = copies(aws)
    monkeypatch.setattr(environment.client("cloudformation"), refused, refuse)
    assert post("/provisionpipeline", BODY)[0] == 400
    assert copies(aws) > before
    monkeypatch.undo()
    there = copies(aws)
    assert post("/provisionpipeline", BODY | {"inference_instance": "nothing"})[0] == 400
    assert copies(aws) == there


def test_capture_without_the_key_that_was_asked_is_a_failure(aws, monkeypatch):
    sagemaker = environment.client("sagemaker")
    describe = sagemaker.describe_endpoint_config

    def without_key(**request) -> dict:
        config = describe(**request)
        del config["DataCaptureConfig"]["KmsKeyId"]
        return config

    key = "arn:aws:kms:us-east-1:123456789012:key/1"
    pipeline_id = post("/provisionpipeline", BODY | {"kms_key_arn": key})[1]["pipeline_id"]
    asked = {"pipeline_id": pipeline_id}
    state = post("/pipelinestatus", asked)[1]["stageStates"][1]["latestExecution"]["status"]
    assert state == "Succeeded"
    monkeypatch.setattr(sagemaker, "describe_endpoint_config", without_key)
    action = post("/pipelinestatus", asked)[1]["stageStates"][1]["actionStates"][0]
    message = action["latestExecution"]["errorDetails"]["message"]
    assert message == f"DataCaptureConfig.KmsKeyId is None, not {key!r}."


def test_a_missing_model_leaves_no_stack(aws):
    status, answer = post("/provisionpipeline", BODY | {"model_artifact_location": "no.tar.gz"})
    assert status == 400
    assert "does not exist" in answer["detailedMessage"]
    assert boto3.client("cloudformation").describe_stacks()["Stacks"] == []
    objects = aws.list_objects_v2(Bucket=BUCKET)["Contents"]
    assert [item["Key"] for item in objects] == ["model.tar.gz"]


def test_an_unknown_pipeline_is_the_originals_error(aws):
    status, answer = post("/pipelinestatus", {"pipeline_id": "none"})
    assert status == 400
    assert answer == {
        "message": "A boto3 ClientError occurred",
        "detailedMessage": "An error occurred (ValidationError) when calling the "
        "ListStackResources operation: Stack with id none does not exist",
    }


def test_an_error_of_aws_keeps_its_status(aws, monkeypatch):
    from botocore.exceptions import ClientError

    def refuse(**_):
        error = {"Error": {"Code": "AccessDenied", "Message": "not you"}}
        raise ClientError(error | {"ResponseMetadata": {"HTTPStatusCode": 403}}, "CreateStack")

    monkeypatch.setattr(environment.client("cloudformation"), "create_stack", refuse)
    status, answer = post("/provisionpipeline", BODY)
    assert status == 403
    assert answer["message"] == "A boto3 ClientError occurred"


def s3_event(key: str) -> dict:
    place = {"bucket": {"name": BUCKET}, "object": {"key": key}}
    return {"Records": [{"eventSource": "aws:s3", "s3": place}]}


def test_a_configuration_object_provisions(aws):
    aws.put_object(Bucket=BUCKET, Key="mlops-config.json v2", Body=json.dumps(BODY))
    answers = handler(s3_event("mlops-config.json+v2"), None)["answers"]
    assert [answer["statusCode"] for answer in answers] == [200]
    assert boto3.client("cloudformation").describe_stacks(StackName=STACK)["Stacks"]


def test_a_configuration_that_fails_is_told_to_the_topic(aws, monkeypatch):
    sns, sqs = boto3.client("sns"), boto3.client("sqs")
    topic = sns.create_topic(Name="notes")["TopicArn"]
    queue = sqs.create_queue(QueueName="mail")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"][
        "QueueArn"
    ]
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
    monkeypatch.setenv("NOTIFICATIONS_TOPIC", topic)
    aws.put_object(Bucket=BUCKET, Key="mlops-config.json", Body=b'{"pipeline_type": "nope"}')
    answers = handler(s3_event("mlops-config.json"), None)["answers"]
    assert answers[0]["statusCode"] == 400
    message = sqs.receive_message(QueueUrl=queue)["Messages"][0]["Body"]
    assert "Pipeline type not supported" in message


def test_every_request_to_s3_says_whose_bucket_it_must_be(aws):
    asked = []

    def note(model, params, **_) -> None:
        owners = {k: v for k, v in params["headers"].items() if "expected-bucket-owner" in k}
        asked.append((model.name, owners))

    environment.client("s3").meta.events.register("before-call.s3", note)
    assert post("/provisionpipeline", BODY)[0] == 200
    aws.put_object(Bucket=BUCKET, Key="mlops-config.json", Body=json.dumps(BODY))
    handler(s3_event("mlops-config.json"), None)
    assert {name for name, _ in asked} == {"HeadBucket", "HeadObject", "CopyObject", "GetObject"}
    for name, owners in asked:
        expected = {"x-amz-expected-bucket-owner": "123456789012"}
        if name == "CopyObject":
            expected["x-amz-source-expected-bucket-owner"] = "123456789012"
        assert owners == expected, name


def test_a_bucket_that_is_not_ours_is_a_bad_request(aws, monkeypatch):
    def refuse(**_):
        raise ClientError({"Error": {"Code": "403", "Message": "Forbidden"}}, "HeadBucket")

    monkeypatch.setattr(environment.client("s3"), "head_bucket", refuse)
    status, answer = post("/provisionpipeline", BODY)
    assert status == 400
    assert "data_capture_location: the orchestrator may not use" in answer["detailedMessage"]


# -- several orchestrators in an account ----------------------------------------------


def test_a_pipeline_carries_its_orchestrators_name(aws):
    post("/provisionpipeline", BODY)
    aws.put_object(Bucket=BUCKET, Key="model.tar.gz", Body=b"two")
    assert "already provisioned" in post("/provisionpipeline", BODY)[1]["message"]
    stack = boto3.client("cloudformation").describe_stacks(StackName=STACK)["Stacks"][0]
    assert {"Key": "orchestrator", "Value": "ours"} in stack["Tags"]


@pytest.mark.parametrize("tags", [[{"Key": "orchestrator", "Value": "another"}], []])
def test_a_pipeline_of_another_orchestrator_is_left_alone(aws, tags):
    """Two orchestrators of an account would give a model of the same name the same stack."""
    cloudformation = boto3.client("cloudformation")
    template = json.dumps({"Resources": {"Queue": {"Type": "AWS::SQS::Queue"}}})
    made = cloudformation.create_stack(StackName=STACK, TemplateBody=template, Tags=tags)
    inference = {"payload": "1", "content_type": "text/csv"}
    for path, body in [
        ("/provisionpipeline", BODY),
        ("/pipelinestatus", {"pipeline_id": STACK}),
        (f"/pipelines/{STACK}/inference", inference),
    ]:
        status, answer = post(path, body)
        assert status == 400
        maker = "the orchestrator another" if tags else "somebody else"
        assert f"{STACK} was made by {maker}" in answer["detailedMessage"]
    assert cloudformation.get_template(StackName=STACK)["TemplateBody"] == json.loads(template)
    assert tell_of(made["StackId"], "CREATE_COMPLETE") == {"told": None}


def tell_of(stack_id: str, status: str) -> dict:
    """What EventBridge calls the handler with when a stack has come to rest."""
    detail = {"stack-id": stack_id, "status-details": {"status": status}}
    return handler({"source": "aws.cloudformation", "detail": detail}, None)


@pytest.mark.parametrize("state", ["CREATE_COMPLETE", "CREATE_FAILED", "UPDATE_COMPLETE"])
@pytest.mark.parametrize("is_there", [True, False])
def test_the_log_of_an_endpoint_is_given_an_end(aws, state, is_there):
    """Whether SageMaker has made the log group already or not, and of a failed one too."""
    logs = boto3.client("logs")
    pipeline_id = post("/provisionpipeline", BODY)[1]["pipeline_id"]
    endpoint = boto3.client("sagemaker").list_endpoints()["Endpoints"][0]["EndpointName"]
    group = f"/aws/sagemaker/Endpoints/{endpoint}"
    if is_there:
        logs.create_log_group(logGroupName=group)
    assert tell_of(pipeline_id, state)["told"].startswith(f"Pipeline {STACK}")
    groups = logs.describe_log_groups()["logGroups"]
    assert [(g["logGroupName"], g["retentionInDays"]) for g in groups] == [(group, 30)]


def test_a_deleted_pipeline_gets_no_new_log(aws):
    pipeline_id = post("/provisionpipeline", BODY)[1]["pipeline_id"]
    boto3.client("cloudformation").delete_stack(StackName=STACK)
    assert "was deleted" in tell_of(pipeline_id, "DELETE_COMPLETE")["told"]
    assert boto3.client("logs").describe_log_groups()["logGroups"] == []


# -- jobs, as custom resources of a stack ---------------------------------------------


@pytest.fixture
def told(aws):
    """Where CloudFormation listens, and what it was told there."""
    answers: list[dict] = []

    class Listener(BaseHTTPRequestHandler):
        def do_PUT(self):
            assert not self.headers["Content-Type"]
            answers.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Listener)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/answer", answers
    server.shutdown()
    server.server_close()


@pytest.fixture
def custom_event(told):
    """Makes events as CloudFormation sends them; `custom_event.answers` is what it was told."""
    # As CloudFormation hands them over: every number and boolean as text.
    request = {
        "ModelName": "model",
        "MaxConcurrentTransforms": "1",
        "TransformInput": {
            "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://a/in"}}
        },
        "TransformOutput": {"S3OutputPath": "s3://a/out"},
        "TransformResources": {"InstanceType": "ml.m5.large", "InstanceCount": "1"},
    }

    def event(kind: str, **changes) -> dict:
        return {
            "RequestType": kind,
            "ResponseURL": told[0],
            "StackId": f"arn:aws:cloudformation:us-east-1:123456789012:stack/{STACK}/1234",
            "RequestId": "5d478078-13e9-baf0-464a-7ef285ecc786",
            "LogicalResourceId": "Job",
            "ResourceType": "Custom::TransformJob",
            "ResourceProperties": {"ServiceToken": "handler", "Name": "night", "Request": request},
        } | changes

    event.answers = told[1]
    return event


def jobs_there() -> list[dict]:
    return boto3.client("sagemaker").list_transform_jobs()["TransformJobSummaries"]


def test_a_custom_resource_starts_a_job_and_returns_its_name_at_once(custom_event):
    result = handler(custom_event("Create"), None)
    assert custom_event.answers == [result]
    assert result["Status"] == "SUCCESS"
    assert [job["TransformJobName"] for job in jobs_there()] == [result["PhysicalResourceId"]]
    assert len(result["PhysicalResourceId"]) <= 63
    made = boto3.client("sagemaker").describe_transform_job(
        TransformJobName=result["PhysicalResourceId"]
    )
    assert made["MaxConcurrentTransforms"] == 1
    assert made["TransformResources"]["InstanceCount"] == 1


def test_the_same_request_twice_is_one_job_and_a_changed_one_another(custom_event):
    first = handler(custom_event("Create"), None)
    again = handler(custom_event("Create"), None)
    assert again == first
    assert len(jobs_there()) == 1
    changed = custom_event(
        "Update", RequestId="another", PhysicalResourceId=first["PhysicalResourceId"]
    )
    other = handler(changed, None)
    assert other["Status"] == "SUCCESS"
    assert other["PhysicalResourceId"] != first["PhysicalResourceId"]
    assert len(jobs_there()) == 2


def test_deleting_stops_the_job_and_what_has_ended_is_no_error(custom_event, monkeypatch):
    """moto has no StopTransformJob: what would be asked of it is noted, and refused as AWS does."""
    name = handler(custom_event("Create"), None)["PhysicalResourceId"]
    stopped = []

    def stop(TransformJobName: str) -> None:
        stopped.append(TransformJobName)
        if len(stopped) > 1:
            error = {"Code": "ValidationException", "Message": "The job is in status Completed."}
            raise ClientError({"Error": error}, "StopTransformJob")

    monkeypatch.setattr(environment.client("sagemaker"), "stop_transform_job", stop)
    for _ in range(2):
        result = handler(custom_event("Delete", PhysicalResourceId=name), None)
        assert result["Status"] == "SUCCESS"
    assert stopped == [name, name]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ResourceType": "Custom::Nothing"}, "no custom resource Custom::Nothing"),
        ({"ResourceProperties": {}}, "Custom::TransformJob must have a Name"),
        ({"ResourceProperties": {"Name": "night"}}, "Custom::TransformJob must have a Request"),
        (
            {"ResourceProperties": {"Name": "night", "Request": {"ModelName": "x"}}},
            "TransformInput",
        ),
    ],
)
def test_what_cannot_be_started_is_told_to_cloudformation(custom_event, changes, words):
    result = handler(custom_event("Create", **changes), None)
    assert custom_event.answers == [result]
    assert result["Status"] == "FAILED"
    assert words in result["Reason"]
    assert result["PhysicalResourceId"]
    assert jobs_there() == []


# -- the types whose work are jobs ----------------------------------------------------


def as_text(value: object) -> object:
    """Properties as CloudFormation hands them to a custom resource: every number as text."""
    if isinstance(value, dict):
        return {key: as_text(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_text(item) for item in value]
    return json.dumps(value) if isinstance(value, bool | int | float) else value


class StandIn:
    """What moto's CloudFormation lacks: a resource with a name, made and deleted by functions."""

    @classmethod
    def create_from_cloudformation_json(cls, name, known, account, region, **more):
        made = cls()
        made.more, made.properties = more, known["Properties"]
        made.physical_resource_id = made.create()
        return made

    @classmethod
    def update_from_cloudformation_json(cls, original_resource, cloudformation_json, **_):
        made = cls()
        made.more, made.properties = original_resource.more, cloudformation_json["Properties"]
        made.physical_resource_id = made.update(original_resource)
        return made

    @staticmethod
    def cloudformation_name_type() -> str:
        return ""

    def is_created(self) -> bool:
        return True


@pytest.fixture
def stacks(aws, told, monkeypatch):
    """What the types with jobs are provisioned from, and moto's stacks with custom resources, for which it would want Docker, and with schedules, which
    it passes over; StopTransformJob, which it does not have, is noted in what this returns."""
    aws.put_object(Bucket=BUCKET, Key="pulsar/batch/in/night.csv", Body=b"1\n")
    for body in MONITORS.values():
        aws.put_object(Bucket=BUCKET, Key=body["baseline_data"], Body=b"a,b\n1,2\n")
    stopped: list[str] = []

    class Custom(StandIn):
        @staticmethod
        def cloudformation_type() -> str:
            return "Custom::Job"

        def _ask(self, kind: str, properties: dict, **more) -> str:
            event = {
                "RequestType": kind,
                "ResponseURL": told[0],
                "RequestId": str(uuid.uuid4()),
                "StackId": self.more["StackId"],
                "LogicalResourceId": self.more["LogicalId"],
                "ResourceType": self.more["ResourceType"],
                "ResourceProperties": as_text(properties),
            }
            handler(event | more, None)
            assert told[1][-1]["Status"] == "SUCCESS", told[1][-1]
            return told[1][-1]["PhysicalResourceId"]

        def create(self) -> str:
            return self._ask("Create", self.properties)

        def update(self, former: "Custom") -> str:
            if former.properties == self.properties:
                return former.physical_resource_id
            before = {"PhysicalResourceId": former.physical_resource_id}
            return self._ask("Update", self.properties, **before)

        def delete(self, account: str, region: str) -> None:
            self._ask("Delete", self.properties, PhysicalResourceId=self.physical_resource_id)

    class Schedule(StandIn):
        @staticmethod
        def cloudformation_type() -> str:
            return "AWS::Scheduler::Schedule"

        def create(self) -> str:
            boto3.client("scheduler").create_schedule(**self.properties)
            return self.properties["Name"]

        def update(self, former: "Schedule") -> str:
            boto3.client("scheduler").update_schedule(**self.properties)
            return self.properties["Name"]

        def delete(self, account: str, region: str) -> None:
            boto3.client("scheduler").delete_schedule(Name=self.physical_resource_id)

    def stop(TransformJobName: str) -> None:
        stopped.append(TransformJobName)

    monkeypatch.setattr(parsing, "CustomModel", Custom)
    monkeypatch.setitem(parsing.get_model_map(), "AWS::Scheduler::Schedule", Schedule)
    monkeypatch.setattr(environment.client("sagemaker"), "stop_transform_job", stop)
    return stopped


def outputs_of(pipeline_id: str) -> dict[str, str]:
    stack = boto3.client("cloudformation").describe_stacks(StackName=pipeline_id)["Stacks"][0]
    return {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}


@pytest.mark.parametrize("kind", [k for k in WITH_JOBS if k not in MONITORS])
def test_a_batch_is_a_transform_job_each_time_it_is_asked_for(aws, stacks, kind):
    status, first = post("/provisionpipeline", WITH_JOBS[kind])
    assert status == 200, first
    outputs = outputs_of(first["pipeline_id"])
    job = boto3.client("sagemaker").describe_transform_job(
        TransformJobName=outputs["BatchTransformJobName"]
    )
    assert job["ModelName"] == outputs["SageMakerModelName"]
    source = job["TransformInput"]["DataSource"]["S3DataSource"]
    assert source["S3Uri"] == f"s3://{BUCKET}/pulsar/batch/in"
    assert job["TransformResources"]["InstanceCount"] == 1
    stages = post("/pipelinestatus", {"pipeline_id": first["pipeline_id"]})[1]["stageStates"]
    assert outputs["BatchTransformJobName"] in json.dumps(stages)
    assert post("/provisionpipeline", WITH_JOBS[kind])[0] == 200
    assert len(jobs_there()) == 2
    second = outputs_of(first["pipeline_id"])["BatchTransformJobName"]
    assert second != outputs["BatchTransformJobName"]
    boto3.client("cloudformation").delete_stack(StackName=first["pipeline_id"])
    assert stacks == [second]


def test_a_job_that_is_named_while_its_pipeline_is_asked_about_is_not_passed_over(
    aws, stacks, monkeypatch
):
    """The stack is done between the status's first look at its resources and its look at it."""
    pipeline = post("/provisionpipeline", WITH_JOBS["byom_batch_builtin"])[1]
    cloudformation, seen = environment.client("cloudformation"), []
    describe, listing = cloudformation.describe_stacks, cloudformation.list_stack_resources

    def described(**asked: str) -> dict:
        seen.append(asked)
        return describe(**asked)

    def listed(**asked: str) -> dict:
        return listing(**asked) if seen else {"StackResourceSummaries": []}

    monkeypatch.setattr(cloudformation, "describe_stacks", described)
    monkeypatch.setattr(cloudformation, "list_stack_resources", listed)
    stages = post("/pipelinestatus", pipeline)[1]["stageStates"]
    assert [stage["stageName"] for stage in stages][-1] == "RunJob"


def test_the_name_of_a_batch_job_holds_what_the_role_is_for_whatever_the_model_is_called(
    aws, stacks
):
    body = WITH_JOBS["byom_batch_builtin"] | {"model_name": "p" * 40}
    name = outputs_of(post("/provisionpipeline", body)[1]["pipeline_id"])["BatchTransformJobName"]
    assert "-batch-transform-" in name
    assert len(name) <= 63


def put_into_service(**changes: str) -> None:
    """The endpoint `pulsar`; moto's CloudFormation gives every endpoint a name of its own."""
    assert post("/provisionpipeline", BODY | changes)[0] == 200
    sagemaker = boto3.client("sagemaker")
    config = sagemaker.list_endpoint_configs()["EndpointConfigs"][0]["EndpointConfigName"]
    sagemaker.create_endpoint(EndpointName="pulsar", EndpointConfigName=config)


def due(text: str) -> dict:
    """The request of a check, as EventBridge Scheduler fills it in when it is due."""
    execution = "d32c5cde-3a3b-4b8c-9a4e-0123456789ab"
    text = text.replace("<aws.scheduler.execution-id>", execution)
    return json.loads(text.replace("<aws.scheduler.scheduled-time>", "2026-11-27T08:00:00Z"))


@pytest.mark.parametrize("kind", MONITORS)
def test_a_monitor_is_a_baseline_job_and_a_schedule_that_starts_checks(aws, stacks, kind):
    sagemaker, scheduler = boto3.client("sagemaker"), boto3.client("scheduler")
    put_into_service()
    status, answer = post("/provisionpipeline", MONITORS[kind])
    assert status == 200, answer
    outputs = outputs_of(answer["pipeline_id"])
    baseline = sagemaker.describe_processing_job(ProcessingJobName=outputs["BaselineName"])
    [result] = baseline["ProcessingOutputConfig"]["Outputs"]
    assert f"{result['S3Output']['S3Uri']}/" == outputs["BaselineJobOutput"]
    assert baseline["RoleArn"].endswith("role/monitor")
    for source in baseline["ProcessingInputs"]:
        bucket, _, key = source["S3Input"]["S3Uri"].removeprefix("s3://").partition("/")
        assert aws.head_object(Bucket=bucket, Key=key)["ContentLength"]
    schedule = scheduler.get_schedule(Name=outputs["MonitoringScheduleJobName"])
    assert schedule["ScheduleExpression"] == MONITORS[kind]["schedule_expression"]
    assert schedule["Target"]["RoleArn"].endswith("role/scheduler")
    check = due(schedule["Target"]["Input"])
    sagemaker.create_processing_job(**check)  # botocore looks at every member
    places = {i["InputName"]: i["S3Input"]["S3Uri"] for i in check["ProcessingInputs"]}
    assert f"{places['baseline']}/" == outputs["BaselineJobOutput"]
    assert post("/provisionpipeline", MONITORS[kind])[0] == 200
    assert len(sagemaker.list_processing_jobs()["ProcessingJobSummaries"]) == 2
    boto3.client("cloudformation").delete_stack(StackName=answer["pipeline_id"])
    assert scheduler.list_schedules()["Schedules"] == []


@pytest.mark.parametrize(
    ("endpoint", "words"),
    [
        (None, "endpoint_name: there is no endpoint called pulsar"),
        (
            {"data_capture_location": f"{BUCKET}/elsewhere"},
            "data_capture_location: pulsar captures",
        ),
    ],
)
def test_a_monitor_of_what_is_not_captured_is_a_bad_request(aws, stacks, endpoint, words):
    if endpoint:
        put_into_service(**endpoint)
    status, answer = post("/provisionpipeline", MONITORS["byom_data_quality_monitor"])
    assert status == 400
    assert words in answer["detailedMessage"]
    assert boto3.client("scheduler").list_schedules()["Schedules"] == []
