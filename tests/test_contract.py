"""The orchestrator's contract, over HTTP against the running sandbox.

The recorded answers of the original, where they are at hand, are sent as they were
recorded; where ours is meant to differ, DIFFERENCES says how and the test holds us to it.
"""

import json

import pytest
from conftest import IMAGE, SHARED
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.contract import BadRequest, parse_body
from orchestrator.handler import handler
from orchestrator.pipelines import TYPES, stack_of, validate
from scoring.packing import pack

VECTORS = SHARED / "reference" / "orchestrator-vectors.json"
needs_vectors = pytest.mark.skipif(not VECTORS.exists(), reason="no recorded answers at hand")

# A package that is in service quickly: what it answers does not matter here.
MODEL = pack({"code/inference.py": b"def model_fn(model_dir):\n    return None\n"})

# Vector -> status and a part of the detailed message that we answer instead.
CLEAR_400 = {
    "routing/empty_body": "not valid JSON",
    "routing/space_body": "not valid JSON",
    "routing/empty_list_body": "must be a JSON object",
    "routing/number_body": "must be a JSON object",
    "routing/null_json_body": "must be a JSON object",
    "routing/bom_body": "not valid JSON",
    "routing/null_body": "not valid JSON",
    "routing/no_body_key": "not valid JSON",
    "routing/nan_body": "not valid JSON: NaN",
    "routing/null_type": "Pipeline type not supported",
    "routing/number_type": "Pipeline type not supported",
    "routing/type_spaces": "Pipeline type not supported",
    "odd/endpoint_spaces_underscore": "endpoint_name",
    "odd/artifact_leading_slash": "model_artifact_location",
    "odd/model_name_underscore": "model_name",
    "odd/model_name_empty": "model_name",
    "odd/model_name_null": "model_name",
    "odd/model_name_number": "model_name",
    "odd/framework_unknown": "model_framework",
    "odd/framework_case": "model_framework",
    "odd/framework_version_unknown": "model_framework_version",
    "odd/framework_version_short": "model_framework_version",
    "odd/framework_null": "model_framework",
    "odd/data_capture_null": "data_capture_location",
    "odd/data_capture_empty": "data_capture_location",
    "odd/endpoint_number": "endpoint_name",
    "odd/endpoint_null": "endpoint_name",
    "odd/instance_dict": "inference_instance",
    "odd/data_capture_dict": "data_capture_location",
    "odd/instance_bad": "inference_instance",
    "odd/package_name_without_registry": "model_package_name",
    "odd/custom_image_null": "custom_image_uri",
    "odd/batch_trailing_slash": "must not lie in one another",
    "odd/monitor_trailing_slash": "baseline_data",
    "odd/monitor_schedule_rate": "schedule_expression must be cron(",
    "odd/monitor_schedule_null": "schedule_expression must be a string",
    "odd/bias_config_null": "bias_config must be a JSON object",
    "status/missing_key": "pipeline_id",
    "status/wrong_key": "pipeline_id",
    "status/list_body": "must be a JSON object",
    "status/model_card_on_status_path": "pipeline_id",
}
# Refused by name, as the recorded requests have them; without them the answer is the recorded one.
LEFT_OUT = ("features_attribute",)
# Needs options we do not have, or canned answers of AWS services we do not use.
NOT_OURS = ("valid_registry", "missing_registry", "multi", "model_card", "inference/", "s3/", "fault/",
            "image_builder", "odd/registry_on_both", "odd/package_name_null", "status/pipeline_deleted")  # fmt: skip


def vectors() -> list[dict]:
    if not VECTORS.exists():
        return []
    return json.loads(VECTORS.read_text())["vectors"]


def is_realtime(vector: dict) -> bool:
    body = vector["request"]["event"].get("body") or ""
    try:
        parsed = json.loads(body)
    except ValueError:
        return True
    kind = parsed.get("pipeline_type") if isinstance(parsed, dict) else None
    known = isinstance(kind, str) and kind.strip().lower().startswith(("byom_", "model_"))
    return not known or kind.strip().lower() in TYPES


def ours() -> list[dict]:
    kept = []
    for vector in vectors():
        event = vector["request"].get("event", {})
        if vector["id"].startswith(NOT_OURS) or vector.get("env_overrides"):
            continue
        if "httpMethod" in event and "path" in event and is_realtime(vector):
            kept.append(vector)
    return kept


PROVISIONED = ("/provisionpipeline", "/pipelinestatus")


@pytest.fixture(scope="module")
def account(sandbox):
    """The sandbox with what the recorded requests name, and afterwards without their pipelines."""
    sandbox.upload(MODEL)
    sandbox.upload(MODEL, "v2/model.tar.gz")
    sandbox.upload(b"1\n", "pulsar/batch/input.csv")
    sandbox.upload(b"label,x\n1,2\n0,1\n", "pulsar/baseline/train.csv")
    yield sandbox
    _forget(sandbox)


@needs_vectors
@pytest.mark.parametrize("vector", ours(), ids=lambda vector: vector["id"])
def test_the_recorded_requests_get_the_recorded_answers(vector, account):
    sandbox = account
    event = vector["request"]["event"]
    body = _here(event.get("body") or "", sandbox)
    if event["httpMethod"] != "POST" or event["path"] not in PROVISIONED:
        # API Gateway has no such method or path; the handler behind it agrees with the original.
        status, _ = sandbox.post(event["path"], body, method=event["httpMethod"])
        assert status == 403
        answer = handler(event, None)
        assert (answer["statusCode"], answer["body"]) == recorded(vector)
        return
    is_monitor = vector["response"]["statusCode"] == 200 and '_monitor"' in body
    _forget(sandbox, keeping=IN_SERVICE if is_monitor else None)
    if is_monitor:
        _put_into_service(sandbox, json.loads(body)["endpoint_name"])
    if vector.get("scenario") and vector["step"] > 1:
        _repeat_first_step(sandbox, vector)
    body = _with_living_pipeline(sandbox, vector, body)
    if vector["response"]["statusCode"] == 200:
        body = _without_what_is_refused(sandbox, body)
    status, text = sandbox.post(event["path"], body)
    expected_status, expected_text = recorded(vector)
    if vector["id"] in CLEAR_400:
        answer = json.loads(text)
        assert status == 400
        assert answer["message"] == "A BadRequest exception occurred"
        assert CLEAR_400[vector["id"]] in answer["detailedMessage"]
    elif (
        vector["group"] == "pipelinestatus"
        and expected_status == 200
        and "status/setup" != vector["id"]
    ):
        assert status == 200
        assert_same_shape(json.loads(text), _status_shape())
    else:
        assert status == expected_status, text
        assert_same_meaning(text, expected_text)


def _here(body: str, sandbox) -> str:
    """The recorded body with this sandbox's bucket, and the image that it can run."""
    return body.replace("testassetsbucket", sandbox.bucket).replace('"1.2-1"', f'"{IMAGE}"')


def recorded(vector: dict) -> tuple[int, str]:
    return vector["response"]["statusCode"], vector["response"]["body_raw"]


def assert_same_meaning(text: str, expected_text: str) -> None:
    answer, expected = json.loads(text), json.loads(expected_text)
    assert answer.keys() == expected.keys()
    assert answer["message"] == expected["message"]
    if "pipeline_id" in expected:
        assert _name_of(answer["pipeline_id"]) == _name_of(expected["pipeline_id"])
    if "detailedMessage" in expected:
        assert answer["detailedMessage"] == expected["detailedMessage"]


def _name_of(arn: str) -> str:
    prefix, name, unique = arn.split("/")
    assert prefix.startswith("arn:aws:cloudformation:us-east-1:")
    assert len(unique) == 36
    return name


def _status_shape() -> dict:
    return next(v["response"]["body"] for v in vectors() if v["id"] == "status/valid")


def assert_same_shape(answer: dict, expected: dict) -> None:
    """The keys a client of the original reads are there, in the same places."""
    assert {
        "pipelineName",
        "stageStates",
        "created",
        "updated",
        "ResponseMetadata",
    } <= answer.keys()
    stages = [stage["stageName"] for stage in answer["stageStates"]]
    assert stages == [stage["stageName"] for stage in expected["stageStates"]]
    for stage, other in zip(answer["stageStates"], expected["stageStates"], strict=True):
        assert {"stageName", "actionStates", "latestExecution"} <= stage.keys()
        assert stage["latestExecution"]["status"] in ("InProgress", "Succeeded", "Failed")
        actions = [action["actionName"] for action in stage["actionStates"]]
        assert actions == [action["actionName"] for action in other["actionStates"]]


def _without_what_is_refused(sandbox, body: str) -> str:
    """A recorded request as ours takes it, once it is sure that ours does not take it as it is."""
    for key in LEFT_OUT:
        if f'"{key}"' in body:
            status, text = sandbox.post("/provisionpipeline", body)
            assert status == 400
            assert f"{key} is for captured JSON" in json.loads(text)["detailedMessage"]
            body = json.dumps({k: v for k, v in json.loads(body).items() if k != key})
    return body


IN_SERVICE = stack_of("byom_realtime_builtin", "pulsar")


def _put_into_service(sandbox, endpoint: str) -> None:
    """What a monitor is provisioned for: an endpoint that captures where the vectors say."""
    payload = sandbox.payload(
        "pulsar",
        endpoint_name=endpoint,
        data_capture_location=f"{sandbox.bucket}/pulsar/datacapture",
    )
    state, answer = sandbox.wait(sandbox.provision(payload))
    assert state == "Succeeded", answer


def _forget(sandbox, keeping: str | None = None) -> None:
    """A vector starts from an account without pipelines, but for one that can be updated."""
    cloudformation = sandbox.client("cloudformation")
    for stack in cloudformation.describe_stacks()["Stacks"]:
        if stack["StackName"] == keeping and stack["StackStatus"].endswith("E_COMPLETE"):
            continue
        if "-pulsar-" in stack["StackName"]:
            cloudformation.delete_stack(StackName=stack["StackName"])
            sandbox_wait_gone(cloudformation, stack["StackId"])


def sandbox_wait_gone(cloudformation, stack_id: str) -> None:
    import time

    for _ in range(600):
        state = cloudformation.describe_stacks(StackName=stack_id)["Stacks"][0]["StackStatus"]
        if state == "DELETE_COMPLETE":
            return
        time.sleep(0.05)
    raise AssertionError(f"{stack_id} is {state}")


def _repeat_first_step(sandbox, vector: dict) -> None:
    first = next(
        v for v in vectors() if v.get("scenario") == vector["scenario"] and v.get("step") == 1
    )
    body = _here(first["request"]["event"]["body"], sandbox)
    body = _without_what_is_refused(sandbox, body)
    status, text = sandbox.post("/provisionpipeline", body)
    assert status == 200, text
    sandbox.last_pipeline_id = json.loads(text)["pipeline_id"]
    # A stack that is being created takes no update, which a changed model is, and any batch.
    if "changed" in vector["id"] or "byom_batch" in vector["id"]:
        sandbox.client("cloudformation").get_waiter("stack_create_complete").wait(
            StackName=sandbox.last_pipeline_id, WaiterConfig={"Delay": 0.05}
        )


def _with_living_pipeline(sandbox, vector: dict, body: str) -> str:
    """Put the id of the pipeline that the first step made where the recorded one stands."""
    if vector.get("scenario") == "status" and vector["step"] > 1 and "arn:aws" in body:
        return json.dumps(json.loads(body) | {"pipeline_id": sandbox.last_pipeline_id})
    if vector["id"] == "status/deployed_stack":  # we have one stack, and it is the pipeline's
        return json.dumps({"pipeline_id": sandbox.last_pipeline_id})
    return body


REALTIME = {
    "pipeline_type": "byom_realtime_builtin",
    "model_name": "pulsar",
    "model_framework": "sklearn",
    "model_framework_version": "1.9-0",
    "model_artifact_location": "model.tar.gz",
    "data_capture_location": "bucket/pulsar/datacapture",
    "inference_instance": "ml.m5.large",
}


PLACES = ("batch_inference_data", "batch_job_output_location", "baseline_job_output_location",
          "data_capture_location", "monitoring_output_location", "monitor_ground_truth_input")  # fmt: skip
COLUMNS = ("baseline_inference_attribute", "baseline_probability_attribute",
           "baseline_ground_truth_attribute", "monitor_inference_attribute",
           "monitor_probability_attribute")  # fmt: skip
WHOLE = (
    REALTIME
    | {key: f"bucket/{key}" for key in PLACES}
    | dict.fromkeys(COLUMNS, "0")
    | {
        "custom_image_uri": "image:1",
        "endpoint_name": "pulsar",
        "baseline_data": "baseline.csv",
        "schedule_expression": "cron(0 * ? * * *)",
        "monitor_max_runtime_seconds": "1800",
        "baseline_max_runtime_seconds": "1800",
        "instance_type": "ml.m5.large",
        "instance_volume_size": "20",
        "problem_type": "BinaryClassification",
        "probability_threshold_attribute": "0.5",
        "bias_config": {"label_values_or_threshold": [1], "facet_name": "dm_mean"},
        "model_predicted_label_config": {"label": 0},
        "shap_config": {},
        "model_scores": 1,
    }
)


def required_of(kind: str) -> list[str]:
    more = TYPES[kind].by_problem
    return [*TYPES[kind].required, *(more["BinaryClassification"] if more else ())]


@pytest.mark.parametrize("kind", TYPES)
def test_a_whole_body_is_valid(kind):
    assert validate(WHOLE | {"pipeline_type": kind}).pipeline_type == kind


@pytest.mark.parametrize("kind", TYPES)
def test_each_missing_key_is_named_in_the_originals_words(kind):
    whole = WHOLE | {"pipeline_type": kind}
    for key in required_of(kind):
        with pytest.raises(BadRequest) as caught:
            validate({k: v for k, v in whole.items() if k != key})
        expected = f"Bad request. API body does not have the necessary parameter: {key}"
        assert str(caught.value) == expected


@pytest.mark.parametrize("kind", ["model_training_builtin", "byom_x", "x", None, 3])
def test_other_pipeline_types_are_not_supported(kind):
    with pytest.raises(BadRequest, match="Pipeline type not supported"):
        validate(REALTIME | {"pipeline_type": kind})


def test_values_are_cleaned_as_the_original_cleans_them():
    request = validate(
        REALTIME | {"model_name": " Pulsar ", "endpoint_name": " Pulsar ",
                    "data_capture_location": "bucket/prefix//"}
    )  # fmt: skip
    assert request.model_name == "Pulsar"
    assert request.stack_name == stack_of("byom_realtime_builtin", "pulsar")
    assert request.values["endpoint_name"] == "pulsar"
    assert request.values["data_capture_location"] == "bucket/prefix"


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(
    "odd", ["\x00", "\x01", "\x1b[2J", "\ud800", "\uffff", "a\nb", "\u202e", "\x7f"]
)
def test_a_value_that_cannot_be_shown_is_refused_by_name(kind, odd):
    whole = WHOLE | {"pipeline_type": kind}
    for key in {*required_of(kind), *TYPES[kind].optional} - {*TYPES[kind].objects}:
        with pytest.raises(BadRequest, match=f"{key} must be printable") as caught:
            validate(whole | {key: f"{whole.get(key, 'x')}{odd}"})
        assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "location",
    [
        "bucket/../x",
        "bucket/..",
        "bucket/a/./b",
        "bucket//x",
        "../x",
        "/x",
        "bucket/a b",
        "BUCKET/x",
    ],
)
def test_a_location_that_leads_elsewhere_is_refused(location):
    with pytest.raises(BadRequest, match="data_capture_location must be bucket/prefix"):
        validate(REALTIME | {"data_capture_location": location})


KEY = "arn:aws:kms:us-east-1:123456789012:"


@pytest.mark.parametrize("key", ["", f"{KEY}key/1234-abcd", f"{KEY}alias/pulsar",
                                 KEY.replace("aws:", "aws-cn:", 1) + "key/1"])  # fmt: skip
def test_a_kms_key_is_taken_by_its_arn(key):
    assert validate(REALTIME | {"kms_key_arn": key}).values["kms_key_arn"] == key


@pytest.mark.parametrize(
    "key",
    ["1234-abcd", "alias/pulsar", KEY, f"{KEY}key/", f"{KEY}key/a b", f" {KEY}key/1",
     f"{KEY}key/1 ", f"{KEY}grant/1", KEY.replace(":kms:", ":s3:") + "key/1",
     KEY.replace("123456789012", "1234") + "key/1"],
)  # fmt: skip
def test_what_is_no_arn_of_a_kms_key_is_refused_by_name(key):
    with pytest.raises(BadRequest, match="kms_key_arn must be a KMS key's ARN"):
        validate(REALTIME | {"kms_key_arn": key})


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


@pytest.mark.fuzz
@given(
    st.sampled_from(list(TYPES)),
    st.dictionaries(st.sampled_from([*WHOLE, "kms_key_arn", "x"]), JSON_VALUES),
)
def test_any_body_is_valid_or_a_bad_request(kind, changes):
    try:
        request = validate(WHOLE | {"pipeline_type": kind} | changes)
    except BadRequest:
        return
    assert len(request.stack_name) <= 128
    assert all(isinstance(value, str) for value in request.values.values())


@pytest.mark.fuzz
@given(st.text() | JSON_VALUES.map(json.dumps))
def test_any_text_is_an_object_or_a_bad_request(text):
    try:
        assert isinstance(parse_body(text), dict)
    except BadRequest:
        pass


def test_details_can_be_switched_off(monkeypatch):
    event = {"httpMethod": "POST", "path": "/provisionpipeline", "body": "{}"}
    assert "detailedMessage" in json.loads(handler(event, None)["body"])
    monkeypatch.setenv("ALLOW_DETAILED_ERROR_MESSAGE", "No")
    answer = handler(event, None)
    assert answer["statusCode"] == 400
    assert json.loads(answer["body"]) == {"message": "A BadRequest exception occurred"}


def test_a_request_that_fails_leaves_nothing_behind(sandbox):
    payload = sandbox.payload("nothing", model_artifact_location="not-there.tar.gz")
    status, text = sandbox.post("/provisionpipeline", payload)
    assert status == 400
    assert (
        "s3://pulsar-assets/not-there.tar.gz does not exist" in json.loads(text)["detailedMessage"]
    )
    payload = sandbox.payload("nothing", data_capture_location="no-such-bucket/x")
    status, text = sandbox.post("/provisionpipeline", payload)
    assert status == 400
    assert "no bucket called no-such-bucket" in json.loads(text)["detailedMessage"]
    stacks = sandbox.client("cloudformation").describe_stacks()["Stacks"]
    assert not any("-nothing-" in stack["StackName"] for stack in stacks)
    objects = sandbox.client("s3").list_objects_v2(Bucket=sandbox.bucket).get("Contents", [])
    assert not any("-nothing-" in item["Key"] for item in objects)
