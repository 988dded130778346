"""The very same handler against moto, which stands for AWS."""

import json

import boto3
import pytest
from moto import mock_aws

from orchestrator import handler as orchestrator

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
        "API_URL": "https://api.example/prod/",
        "CFN_ROLE_ARN": "arn:aws:iam::123456789012:role/cloudformation",
    }.items():
        monkeypatch.setenv(key, value)
    forget_clients = orchestrator.client.cache_clear
    forget_clients()
    with mock_aws():
        s3 = boto3.client("s3")
        s3.create_bucket(Bucket=BUCKET)
        s3.put_object(Bucket=BUCKET, Key="model.tar.gz", Body=b"one")
        yield s3
    forget_clients()


def post(path: str, body: dict) -> tuple[int, dict]:
    answer = orchestrator.handler(
        {"httpMethod": "POST", "path": path, "body": json.dumps(body)}, None
    )
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

    monkeypatch.setattr(orchestrator.client("cloudformation"), "create_stack", refuse)
    status, answer = post("/provisionpipeline", BODY)
    assert status == 403
    assert answer["message"] == "A boto3 ClientError occurred"
    # and the copy of the model that was made for it is gone
    assert len(aws.list_objects_v2(Bucket=BUCKET)["Contents"]) == 1


def s3_event(key: str) -> dict:
    place = {"bucket": {"name": BUCKET}, "object": {"key": key}}
    return {"Records": [{"eventSource": "aws:s3", "s3": place}]}


def test_a_configuration_object_provisions(aws):
    aws.put_object(Bucket=BUCKET, Key="mlops-config.json v2", Body=json.dumps(BODY))
    answers = orchestrator.handler(s3_event("mlops-config.json+v2"), None)["answers"]
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
    answers = orchestrator.handler(s3_event("mlops-config.json"), None)["answers"]
    assert answers[0]["statusCode"] == 400
    message = sqs.receive_message(QueueUrl=queue)["Messages"][0]["Body"]
    assert "Pipeline type not supported" in message
