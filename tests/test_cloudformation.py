"""CloudFormation's templates, parameters, change sets and lists.

The language is tried in the process; its API through boto3 and the AWS CLI, against a running sandbox.
"""

import json
import subprocess
import sys

import pytest
from botocore.exceptions import ClientError
from conftest import ROOT, clean_environment
from test_stacks import House, stack_of, thing

from orchestrator.sandbox.cloudformation import functions, orders, parameters
from orchestrator.sandbox.cloudformation import template as templates
from orchestrator.sandbox.cloudformation.change_sets import NO_CHANGES, ChangeSets
from orchestrator.sandbox.cloudformation.stacks import new_id
from orchestrator.sandbox.errors import AwsError

THING = "Test::Thing"
STACK_ID = new_id("night")


def expanded(text: str, **given: str) -> dict:
    """A template as it is carried out, by the values that are given for its parameters."""
    template = templates.parse(text)
    templates.check(template, {THING: ("Name",)}.get)
    asked = [{"ParameterKey": k, "ParameterValue": v} for k, v in given.items()]
    texts = parameters.given(template.get("Parameters", {}), asked, None)
    return templates.expand(template, texts, STACK_ID)


def value_of(yaml: str, **given: str):
    """What a value in a resource's properties comes to; `Other` is a resource as well."""
    text = f"""
Parameters:
  Night: {{Type: String, Default: dark}}
  Size: {{Type: Number, Default: 2}}
  Items: {{Type: CommaDelimitedList, Default: 'a, b,c'}}
Mappings:
  Sizes: {{us-east-1: {{small: 1, list: [x, y]}}}}
Conditions:
  IsDark: !Equals [!Ref Night, dark]
  IsBig: !And [!Not [!Equals [!Ref Size, 2]], !Or [!Condition IsDark, !Equals [a, a]]]
  IsHere: !Equals [!FindInMap [Sizes, !Ref AWS::Region, small], '1']
Resources:
  Other: {{Type: {THING}}}
  One:
    Type: {THING}
    Properties:
      Value: {yaml}
"""
    template = expanded(text, **given)
    properties = template["Resources"]["One"]["Properties"]

    def made(logical_id: str, attribute: str | None) -> str:
        return f"<{logical_id}{f'.{attribute}' if attribute else ''}>"

    return functions.resolved(properties, made).get("Value", "nothing")


VALUES = [
    ("!Ref Night", "dark"),
    ("!Ref Size", "2"),
    ("!Ref Items", ["a", "b", "c"]),
    ("!Ref AWS::Region", "us-east-1"),
    ("!Ref AWS::StackName", "night"),
    ("!Ref AWS::StackId", STACK_ID),
    ("!Sub '${AWS::Partition}-${AWS::URLSuffix}'", "aws-amazonaws.com"),
    ("!Ref AWS::NotificationARNs", []),
    ("!Ref Other", "<Other>"),
    ("!GetAtt Other.Name", "<Other.Name>"),
    ("!GetAtt [Other, Name]", "<Other.Name>"),
    ("{'Fn::GetAtt': [Other, Name]}", "<Other.Name>"),
    ("!Sub 'a ${Night} b'", "a dark b"),
    ("!Sub '${Other}/${Other.Name}/${!Night}/$5'", "<Other>/<Other.Name>/${Night}/$5"),
    ("!Sub ['${x}${Night}', {x: !GetAtt Other.Name, Night: day}]", "<Other.Name>day"),
    ("!Join ['-', [a, !Ref Size, 1, true]]", "a-2-1-true"),
    ("!Join ['-', !Ref Items]", "a-b-c"),
    ("!Join [',', !Split ['.', !Ref Other]]", "<Other>"),
    ("!Select [1, !Split ['.', !Sub 'a.${Other}']]", "<Other>"),
    ("!Select ['2', !Ref Items]", "c"),
    ("!Split [',', 'a,b,']", ["a", "b", ""]),
    ("!Base64 night", "bmlnaHQ="),
    ("{'Fn::Base64': !Sub '${Night}'}", "ZGFyaw=="),
    ("!FindInMap [Sizes, us-east-1, small]", 1),
    ("!FindInMap [Sizes, !Ref AWS::Region, list]", ["x", "y"]),
    ("!If [IsDark, yes it is, !Ref Other]", "yes it is"),
    ("!If [IsBig, big, !If [IsHere, here, there]]", "here"),
    ("!If [IsBig, big, !Ref AWS::NoValue]", "nothing"),
    ("[a, !If [IsBig, big, !Ref AWS::NoValue], b]", ["a", "b"]),
    ("{a: 1, b: true, c: 1.5, d: 2010-09-09, e: 'no', Condition: x}",
     {"a": 1, "b": True, "c": 1.5, "d": "2010-09-09", "e": "no", "Condition": "x"}),
]  # fmt: skip


@pytest.mark.parametrize(("yaml", "value"), VALUES, ids=[yaml for yaml, _ in VALUES])
def test_a_value_comes_to_what_cloudformation_makes_of_it(yaml, value):
    assert value_of(yaml) == value


def test_conditions_follow_the_parameters():
    assert value_of("!If [IsBig, big, small]", Size="3") == "big"
    assert value_of("!If [IsDark, dark, light]", Night="day") == "light"


WRONG_VALUES = [
    ("!Ref Nothing", "Unresolved resource dependencies [Nothing] in the Resources block"),
    ("!If [IsDark, a, !Ref Nothing]", "Unresolved resource dependencies [Nothing]"),
    ("!Sub '${Nothing}'", "Unresolved resource dependencies [Nothing]"),
    ("!Sub '${Ni ght}'", "variable names in Fn::Sub syntax"),
    ("!GetAtt Night.Name", "Unresolved resource dependencies [Night]"),
    ("!GetAtt Other.Size", "resource Other does not support attribute type Size in Fn::GetAtt"),
    ("!GetAtt Other", "every Fn::GetAtt object requires two non-empty parameters"),
    ("!If [Nothing, a, b]", "Unresolved condition dependency Nothing"),
    ("!If [IsDark, a]", "Fn::If requires a list argument with three parameters"),
    ("!FindInMap [Sizes, eu-west-1, small]", "Unable to get mapping for Sizes::eu-west-1::small"),
    ("!Select [3, !Ref Items]", "Fn::Select cannot select nonexistent value at index 3"),
    ("!Select [-1, !Ref Items]", "nonexistent value at index -1"),
    ("!Join [',', a]", "every Fn::Join object requires two parameters"),
    ("!Join [',', [[a]]]", "every Fn::Join object requires two parameters"),
    ("!Join [',', !Ref Night]", "every Fn::Join object requires two parameters"),
    ("!Split ['', a]", "every Fn::Split object requires two parameters"),
    # A map of one member is no call, unless that is a function's name.
    ("!Base64 {a: b}", "every Fn::Base64 object must have a String-typed value"),
    ("!Split [',', {a: b}]", "every Fn::Split object requires two parameters"),
    ("!Select [0, {a: b}]", "Fn::Select requires a list argument with two elements"),
    ("!Join ['', {a: b}]", "every Fn::Join object requires two parameters"),
    ("!FindInMap [Sizes, {a: b}, small]", "every Fn::FindInMap object requires three parameters"),
    ("!Base64 {'Fn::Split': [',', 'a,b']}", "every Fn::Base64 object must have a String-typed"),
    ("{'Fn::Join': ['', [a]], b: 1}", "Fn::Join must be the only member of its object"),
    ("!ImportValue x", "does not honour the tag !ImportValue"),
    ("{'Fn::GetAZs': ''}", "does not honour Fn::GetAZs"),
    ("{'Fn::Transform': {Name: x}}", "does not honour Fn::Transform"),
    ("!Equals [a, b]", "Fn::Equals stands in the Conditions block"),
    ("", "'null' values are not allowed in templates"),
    ("'{{resolve:ssm:x:1}}'", "does not honour dynamic references"),
    (".inf", "is no value of a template"),
    ("!!set {a}", "is no value of a template"),
    ("!!binary aGk=", "is no value of a template"),
]


@pytest.mark.parametrize(("yaml", "words"), WRONG_VALUES, ids=[y for y, _ in WRONG_VALUES])
def test_a_value_that_is_wrong_or_not_honoured_is_refused_by_name(yaml, words):
    with pytest.raises(AwsError) as refused:
        value_of(yaml)
    assert words in refused.value.message


ONE = f"Resources: {{One: {{Type: '{THING}'}}}}\n"
WRONG_TEMPLATES = [
    ("", "unsupported structure"),
    ("- a", "unsupported structure"),
    ("t.yaml", "unsupported structure"),
    ("a: [", "YAML not well-formed. (line 1, column 5)"),
    ('{\n "a": 1,\n}', "JSON not well-formed. (line 3, column 1)"),
    ("a: &x 1\nb: *x", "YAML aliases are not allowed"),
    ("a: 1\na: 2", "the key a is there twice"),
    ('{"a": 1, "a": 2}', "the key a is there twice"),
    ("[" * 2000, "nested too deeply"),
    (ONE + "Foo: 1", "Invalid template property or properties [Foo]"),
    (ONE + "Transform: AWS::Serverless-2016-10-31", "does not honour the section Transform"),
    (ONE + "Rules: {}", "does not honour the section Rules"),
    (ONE + "AWSTemplateFormatVersion: 2011-01-01", "AWSTemplateFormatVersion is 2010-09-09"),
    (ONE + "Description: [a]", "Every Description member must be a string"),
    ("Description: a", "At least one Resources member must be defined."),
    ("Resources: {}", "At least one Resources member must be defined."),
    ("Resources: {a-b: {Type: 'Test::Thing'}}", "Resource name a-b is non alphanumeric"),
    ("Resources: {A: {Type: 'Test::Thin'}}", "Unrecognized resource types: [Test::Thin]"),
    ("Resources: {A: {}}", "must contain a Type member"),
    ("Resources: {A: {Type: 'Test::Thing', Propertys: {}}}",
     "Invalid template resource property 'Propertys'"),
    ("Resources: {A: {Type: 'Test::Thing', DeletionPolicy: Retain}}", 'DeletionPolicy "Retain"'),
    ("Resources: {A: {Type: 'Test::Thing', UpdatePolicy: {}}}", "does not honour UpdatePolicy"),
    ("Resources: {A: {Type: 'Test::Thing', DependsOn: B}}", "dependencies [B]"),
    ("Resources: {A: {Type: 'Test::Thing', DependsOn: A}}",
     "Circular dependency between resources: [A]"),
    ("Resources: {A: {Type: 'Test::Thing', Condition: B}}", "Unresolved condition dependency B"),
    (ONE + "Outputs: {A: {}}", "must contain a Value object"),
    (ONE + "Outputs: {A: {Value: a, Export: {Name: b}}}", "does not honour Export"),
    (ONE + "Outputs: {A: {Value: [a]}}", "must evaluate to a String"),
    (ONE + "Outputs: {A: {Value: !Ref B}}", "[B] in the Outputs block of the template"),
    (ONE + "Conditions: {A: !Equals [!Ref One, a]}", "Cannot reference resources in the Conditions"),
    (ONE + "Conditions: {A: !Condition B}", "Unresolved condition dependency B"),
    (ONE + "Conditions: {A: !Not [!Condition B], B: !Not [!Condition A]}", "circular dependency"),
    (ONE + "Conditions: {A: true}", "a condition is one of"),
    (ONE + "Parameters: {A: {}}", "Every Parameters object must contain a Type member"),
    (ONE + "Parameters: {A-B: {Type: String}}", "Parameter name A-B is non alphanumeric"),
    (ONE + "Parameters: {A: {Type: Text}}", "Unrecognized parameter type: Text"),
    (ONE + "Parameters: {A: {Type: 'AWS::SSM::Parameter::Value<String>'}}", "does not honour the"),
    (ONE + "Parameters: {A: {Type: String, Min: 1}}", "Invalid template parameter property 'Min'"),
    (ONE + "Parameters: {A: {Type: String, Default: [a]}}", "Every Default member must be a string"),
    (ONE + "Parameters: {A: {Type: String, AllowedPattern: '('}}", "cannot be read"),
    (ONE + "Parameters: {A: {Type: String, Default: a, MinValue: 1}}", "of the type Number"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "words"), WRONG_TEMPLATES, ids=[words for _, words in WRONG_TEMPLATES]
)
def test_a_template_that_is_wrong_or_not_honoured_is_refused_by_name(text, words):
    with pytest.raises(AwsError) as refused:
        expanded(text)
    assert words in refused.value.message


def test_what_a_condition_leaves_out_is_not_there():
    text = f"""
Parameters: {{Kind: {{Type: String}}}}
Conditions: {{Two: !Equals [!Ref Kind, two]}}
Resources:
  One: {{Type: '{THING}', DependsOn: [Two]}}
  Two: {{Type: '{THING}', Condition: Two}}
Outputs:
  Two: {{Condition: Two, Value: !Ref Two}}
"""
    assert expanded(text, Kind="two")["Resources"].keys() == {"One", "Two"}
    left = expanded(text, Kind="one")
    assert left["Outputs"] == {}
    assert left["Resources"] == {"One": {"Type": THING, "DependsOn": []}}
    with pytest.raises(AwsError, match=r"\[Two\] in the Outputs block"):
        expanded(text.replace("Condition: Two, Value", "Value"), Kind="one")


GIVEN = [
    ("{Type: String}", None, "Parameters: [P] must have values"),
    ("{Type: String, AllowedValues: [a, 1]}", "b", "Parameter 'P' must be one of [a, 1]"),
    ("{Type: CommaDelimitedList, AllowedValues: [a, b]}", "a, c", "must be one of [a, b]"),
    ("{Type: String, AllowedPattern: '[a-z]+'}", "a1", "Parameter 'P' must match pattern [a-z]+"),
    ("{Type: String, AllowedPattern: '[a-z]+', ConstraintDescription: must be low}", "A",
     "Parameter P failed to satisfy constraint: must be low"),
    ("{Type: String, MinLength: 2}", "a", "Parameter 'P' must contain at least 2 characters"),
    ("{Type: String, MaxLength: '2'}", "abc", "must contain at most 2 characters"),
    ("{Type: Number, MinValue: 2}", "1.5", "must be a number not less than 2"),
    ("{Type: Number, MaxValue: 2}", "3", "must be a number not greater than 2"),
    ("{Type: Number}", "1_0", "Parameter 'P' must be a number"),
    ("{Type: Number, Default: many}", None, "Parameter 'P' must be a number"),
    ("{Type: List<Number>}", "1,x", "Parameter 'P' must be a number"),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "value", "words"), GIVEN, ids=[words for *_, words in GIVEN])
def test_a_value_that_its_parameter_does_not_allow_is_refused(spec, value, words):
    with pytest.raises(AwsError) as refused:
        expanded(f"{ONE}Parameters: {{P: {spec}}}", **({} if value is None else {"P": value}))
    assert words in refused.value.message


def test_parameters_are_given_left_as_they_were_or_refused():
    declared = {"A": {"Type": "String", "Default": 1}, "B": {"Type": "String"}}

    def given(*asked, previous=None):
        return parameters.given(declared, list(asked), previous)

    def b(**more):
        return {"ParameterKey": "B"} | more

    assert given(b(ParameterValue="")) == {"A": "1", "B": ""}
    assert given(b(UsePreviousValue=True), previous={"B": "b", "A": "a"}) == {"A": "1", "B": "b"}
    for asked, words in [
        ([b(), b(UsePreviousValue=True)], "more than once"),
        ([{"ParameterKey": "C", "ParameterValue": ""}], r"\[C\] do not exist in the template"),
        ([b(UsePreviousValue=True)], "usePreviousValue as true for a parameter key not in the"),
        ([b(UsePreviousValue=True, ParameterValue="")], "usePreviousValue as true and a value"),
        ([b()], "Either a value must be specified or usePreviousValue"),
    ]:
        with pytest.raises(AwsError, match=words):
            given(*asked)


def test_a_hidden_parameter_is_not_shown():
    declared = {"A": {"Type": "String", "NoEcho": True}, "B": {"Type": "String"}}
    shown = parameters.shown(declared, {"A": "secret", "B": "b"})
    assert [item["ParameterValue"] for item in shown] == ["****", "b"]


def test_pages_neither_hide_nor_double_what_comes_and_goes_between_them():
    rows = [{"created": f"{n:04}", "id": "x"} for n in range(250)]
    found, token = orders.page(rows, orders.by_age, {}, newest_first=True)
    rows = [*rows[:100], *rows[200:], {"created": "9999", "id": "x"}]  # some go, one comes
    while token:
        more, token = orders.page(rows, orders.by_age, {"NextToken": token}, newest_first=True)
        found += more
    assert [row["created"] for row in found] == [
        f"{n:04}" for n in [*range(249, 149, -1), *range(99, -1, -1)]
    ]
    for token in ("x", "bnVsbA==", "WzFd"):
        with pytest.raises(AwsError, match="none of ours"):
            orders.page(rows, orders.by_age, {"NextToken": token})


# -- change sets, in the process ------------------------------------------------------


@pytest.fixture
def house(tmp_path):
    house = House(tmp_path)
    yield house
    house.close()


def change_set(house, template: dict, name: str = "new", **more) -> str:
    """Ask for a change set of the stack `stack`; its id."""
    request = {"StackName": "stack", "ChangeSetName": name, "TemplateBody": json.dumps(template)}
    return ChangeSets(house.stacks, house.state).create_change_set(request | more)["Id"]


def changes_of(house, change_set_id: str) -> dict[str, tuple]:
    """Action and replacement of each resource that a change set speaks of."""
    described = ChangeSets(house.stacks, house.state).describe_change_set(
        {"ChangeSetName": change_set_id}
    )
    changes = [change["ResourceChange"] for change in described["Changes"]]
    return {c["LogicalResourceId"]: (c["Action"], c.get("Replacement")) for c in changes}


def test_a_change_set_tells_what_becomes_of_each_resource(house):
    before = stack_of(
        Gone=thing("gone"),
        Same=thing("same"),
        New=thing("new", size=1),
        Changed=thing("changed", "Test::Changeable", size=1),
        Named=thing("named", "Test::Changeable"),
        Follows=thing("follows", "Test::Changeable", of={"Ref": "New"}),
        Made=thing("made", of={"Ref": "New"}),
    )
    assert house.ends(house.create(before)) == "CREATE_COMPLETE"
    after = json.loads(json.dumps(before))
    del after["Resources"]["Gone"]
    after["Resources"]["New"]["Properties"]["size"] = 2
    after["Resources"]["Changed"]["Properties"]["size"] = 2
    after["Resources"]["Named"]["Properties"]["Name"] = "another"
    after["Resources"]["Added"] = thing("added")
    assert changes_of(house, change_set(house, after)) == {
        "Gone": ("Remove", None),
        "New": ("Modify", "True"),
        "Changed": ("Modify", "False"),
        "Named": ("Modify", "True"),
        "Follows": ("Modify", "False"),
        "Made": ("Modify", "Conditional"),
        "Added": ("Add", None),
    }


def test_a_change_set_is_carried_out_once_and_only_while_its_stack_is_as_it_was(house):
    sets = ChangeSets(house.stacks, house.state)

    def status(change_set_id: str) -> str:
        return sets.describe_change_set({"ChangeSetName": change_set_id})["ExecutionStatus"]

    def execute(change_set_id: str) -> None:
        sets.execute_change_set({"ChangeSetName": change_set_id})

    first = change_set(house, stack_of(One=thing("one")), ChangeSetType="CREATE")
    execute(first)
    [stack] = house.state.rows("stacks")
    stack_id = stack["id"]
    assert house.ends(stack_id) == "CREATE_COMPLETE"
    assert status(first) == "EXECUTE_COMPLETE"
    empty = change_set(house, stack_of(One=thing("one")), "empty")
    good = change_set(house, stack_of(One=thing("one"), Two=thing("two")), "good")
    other = change_set(house, stack_of(One=thing("one"), Three=thing("three")), "other")
    with pytest.raises(AwsError, match=r"current status of \[FAILED\]"):
        execute(empty)
    house.update(stack_id, stack_of(One=thing("one"), Four=thing("four")))
    assert house.ends(stack_id) == "UPDATE_COMPLETE"
    assert [status(good), status(other), status(empty)] == ["OBSOLETE", "OBSOLETE", "UNAVAILABLE"]
    with pytest.raises(AwsError, match=r"current status of \[OBSOLETE\]"):
        execute(good)
    again = change_set(house, stack_of(One=thing("one"), Two=thing("two")), "again")
    execute(again)
    assert house.ends(stack_id) == "UPDATE_COMPLETE"
    assert house.names() == {"one", "two"}
    assert status(again) == "EXECUTE_COMPLETE"
    listed = sets.list_change_sets({"StackName": "stack"})["Summaries"]
    assert [item["ChangeSetName"] for item in listed] == ["again"]
    with pytest.raises(AwsError, match="EXECUTE_COMPLETE"):
        execute(again)
    sets.delete_change_set({"ChangeSetName": again})
    with pytest.raises(AwsError, match="does not exist"):
        status(again)


def test_a_change_set_survives_a_kill_and_so_does_what_it_has_begun(house):
    class Stopped(BaseException):
        pass

    def trouble(verb, name):
        raise Stopped  # as a kill: nothing further is written down

    made = change_set(house, stack_of(One=thing("one")), ChangeSetType="CREATE")
    house.close()
    house.open()
    [stack] = house.state.rows("stacks")
    assert stack["status"] == "REVIEW_IN_PROGRESS"
    house.things.trouble = trouble
    sets = ChangeSets(house.stacks, house.state)
    sets._settle = lambda stack_id: None
    sets.execute_change_set({"ChangeSetName": made})
    house.close()
    house.things.trouble = lambda verb, name: None
    house.open()
    assert house.ends(stack["id"]) == "CREATE_COMPLETE"
    assert house.names() == {"one"}
    described = ChangeSets(house.stacks, house.state).describe_change_set({"ChangeSetName": made})
    assert described["ExecutionStatus"] == "EXECUTE_COMPLETE"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"ChangeSetType": "CREATE"}, "already exists and cannot be created again"),
        ({"ChangeSetType": "IMPORT"}, "does not honour the ChangeSetType IMPORT"),
        ({"StackName": "nowhere"}, r"Stack \[nowhere\] does not exist"),
        ({"ChangeSetType": "CREATE", "StackName": "a_b"}, "regular expression pattern"),
        ({"OnStackFailure": "DELETE"}, "OnStackFailure of a new stack only"),
        ({"ChangeSetName": "there"}, "ChangeSet there already exists"),
        ({"UsePreviousTemplate": True}, "one of TemplateBody, TemplateURL and UsePreviousTemplate"),
        ({"TemplateBody": " " * 51_201}, "less than or equal to 51200"),
    ],
)
def test_a_change_set_that_cannot_be_is_refused_and_leaves_nothing(house, more, words):
    stack_id = house.create(stack_of(One=thing("one")))
    assert house.ends(stack_id) == "CREATE_COMPLETE"
    change_set(house, stack_of(Two=thing("two")), "there")
    with pytest.raises(AwsError, match=words):
        change_set(house, stack_of(Two=thing("two")), **more)
    assert len(house.state.rows("stacks")) == len(house.state.rows("change_sets")) == 1


# -- against a running sandbox --------------------------------------------------------

TEMPLATE = """
AWSTemplateFormatVersion: 2010-09-09
Description: A model and its configuration
Parameters:
  Count: {Type: Number, Default: 1, MinValue: 1, MaxValue: 1}
  Key: {Type: String, Default: model.tar.gz, AllowedPattern: '[a-z.]+'}
  Word: {Type: String, NoEcho: true, Default: secret}
  Captures: {Type: String, Default: 'no', AllowedValues: ['yes', 'no']}
Mappings:
  Images: {us-east-1: {Account: '683313688378'}}
Conditions:
  Captures: !Equals [!Ref Captures, 'yes']
Resources:
  Model:
    Type: AWS::SageMaker::Model
    Metadata: {Night: 1}
    Properties:
      ExecutionRoleArn: !Sub 'arn:${AWS::Partition}:iam::${AWS::AccountId}:role/sagemaker'
      PrimaryContainer:
        Image: !Join
          - ''
          - - !FindInMap [Images, !Ref 'AWS::Region', Account]
            - !Sub '.dkr.ecr.${AWS::Region}.${AWS::URLSuffix}/sagemaker-scikit-learn:1.2-1-cpu-py3'
        ModelDataUrl: !Sub 's3://BUCKET/${Key}'
        Environment: {SIZE: 4, WORD: !Ref Word}
  Config:
    Type: AWS::SageMaker::EndpointConfig
    Properties:
      ProductionVariants:
        - VariantName: AllTraffic
          ModelName: !GetAtt Model.ModelName
          InitialInstanceCount: !Ref Count
          InstanceType: ml.m5.large
      DataCaptureConfig: !If
        - Captures
        - EnableCapture: 'true'
          InitialSamplingPercentage: '100'
          DestinationS3Uri: s3://BUCKET/captured
          CaptureOptions: [{CaptureMode: Input}]
        - !Ref AWS::NoValue
Outputs:
  Model: {Value: !GetAtt Model.ModelName, Description: what it is called}
"""


@pytest.fixture
def template(sandbox, archive) -> str:
    sandbox.upload(archive)
    return TEMPLATE.replace("BUCKET", sandbox.bucket)


@pytest.fixture
def client(sandbox):
    client = sandbox.client("cloudformation")
    yield client
    for stack in client.describe_stacks()["Stacks"]:
        if stack["StackName"].startswith("night"):
            client.delete_stack(StackName=stack["StackId"])
            fast(client, "stack_delete_complete").wait(StackName=stack["StackId"])


def fast(client, name: str):
    """One of boto3's waiters, that does not wait for long."""
    waiter = client.get_waiter(name)
    waiter.config.delay, waiter.config.max_attempts = 0.1, 100
    return waiter


def test_aws_cloudformation_deploy(sandbox, template, client, tmp_path):
    """It makes a stack, says when there is nothing to do, and brings it up to date."""
    (tmp_path / "t.yaml").write_text(template)

    def deploy(*more: str):
        command = ("aws", "cloudformation", "deploy", "--template-file", str(tmp_path / "t.yaml"))
        names = ("--stack-name", "night-cli", "--parameter-overrides", *more)
        return sandbox.project.run(*command, *names, **sandbox.environment)

    first = deploy("Key=model.tar.gz", "--tags", "of=night")
    assert first.returncode == 0, first.stderr
    assert "Successfully created/updated stack - night-cli" in first.stdout
    same = deploy("Key=model.tar.gz", "--tags", "of=night")
    assert same.returncode != 0
    assert "No changes to deploy" in same.stderr
    changed = deploy("Captures=yes", "--tags", "of=day")
    assert changed.returncode == 0, changed.stderr
    [stack] = client.describe_stacks(StackName="night-cli")["Stacks"]
    assert stack["StackStatus"] == "UPDATE_COMPLETE"
    assert stack["Tags"] == [{"Key": "of", "Value": "day"}]
    assert {p["ParameterKey"]: p["ParameterValue"] for p in stack["Parameters"]} == {
        "Count": "1", "Key": "model.tar.gz", "Word": "****", "Captures": "yes"
    }  # fmt: skip
    resources = client.describe_stack_resources(StackName="night-cli")["StackResources"]
    made = {r["LogicalResourceId"]: r["PhysicalResourceId"] for r in resources}
    sagemaker = sandbox.client("sagemaker")
    arn = sagemaker.describe_model(ModelName=made["Model"])[
        "ModelArn"
    ]  # it stays, but for its tags
    assert sagemaker.list_tags(ResourceArn=arn)["Tags"] == stack["Tags"]
    described = sagemaker.describe_endpoint_config(EndpointConfigName=made["Config"])
    assert described["DataCaptureConfig"]["EnableCapture"] is True
    assert described["ProductionVariants"][0]["InitialInstanceCount"] == 1


def test_the_way_of_a_change_set_with_waiters(client, template):
    names = {"StackName": "night-set", "ChangeSetName": "first"}
    asked = {"ParameterKey": "Captures", "ParameterValue": "yes"}
    created = client.create_change_set(
        **names, TemplateBody=template, ChangeSetType="CREATE", Parameters=[asked]
    )
    fast(client, "change_set_create_complete").wait(**names)
    fast(client, "stack_exists").wait(StackName="night-set")
    [stack] = client.describe_stacks(StackName=created["StackId"])["Stacks"]
    assert stack["StackStatus"] == "REVIEW_IN_PROGRESS"
    described = client.describe_change_set(**names)
    assert [c["ResourceChange"]["Action"] for c in described["Changes"]] == ["Add", "Add"]
    body = client.get_template(**names, TemplateStage="Original")["TemplateBody"]
    assert body == template.strip() or body == template
    client.execute_change_set(ChangeSetName=created["Id"])
    fast(client, "stack_create_complete").wait(StackName="night-set")
    [stack] = client.describe_stacks(StackName="night-set")["Stacks"]
    assert stack["ChangeSetId"] == created["Id"]
    assert stack["Outputs"][0]["Description"] == "what it is called"
    summary = client.get_template_summary(StackName="night-set")
    previous = [
        {"ParameterKey": parameter["ParameterKey"], "UsePreviousValue": True}
        for parameter in summary["Parameters"]
    ]
    again = {"StackName": "night-set", "UsePreviousTemplate": True, "ChangeSetType": "UPDATE"}
    client.create_change_set(**again, ChangeSetName="same", Parameters=previous)
    same = client.describe_change_set(StackName="night-set", ChangeSetName="same")
    assert (same["Status"], same["StatusReason"]) == ("FAILED", NO_CHANGES)
    client.create_change_set(**again, ChangeSetName="other", Parameters=previous[:-1])
    [change] = client.describe_change_set(StackName="night-set", ChangeSetName="other")["Changes"]
    detail = change["ResourceChange"]["Details"][0]
    assert detail["Target"]["Name"] == "DataCaptureConfig"
    client.execute_change_set(StackName="night-set", ChangeSetName="other")
    fast(client, "stack_update_complete").wait(StackName="night-set")
    with pytest.raises(ClientError) as error:
        client.describe_change_set(StackName="night-set", ChangeSetName="same")
    assert error.value.response["Error"]["Code"] == "ChangeSetNotFound"
    client.update_stack(StackName="night-set", TemplateBody=template, Parameters=[asked])
    fast(client, "stack_update_complete").wait(StackName="night-set")
    client.delete_stack(StackName="night-set")
    fast(client, "stack_delete_complete").wait(StackName=created["StackId"])


def test_what_is_asked_about_stacks_and_templates(sandbox, client, template):
    sandbox.client("s3").put_object(Bucket=sandbox.bucket, Key="t.yaml", Body=template)
    url = f"{sandbox.s3_url}/{sandbox.bucket}/t.yaml"
    created = client.create_stack(StackName="night-asked", TemplateURL=url)["StackId"]
    fast(client, "stack_create_complete").wait(StackName="night-asked")
    detail = client.describe_stack_resource(StackName="night-asked", LogicalResourceId="Model")
    detail = detail["StackResourceDetail"]
    assert detail["ResourceStatus"] == "CREATE_COMPLETE"
    assert json.loads(detail["Metadata"]) == {"Night": 1}
    physical_id = detail["PhysicalResourceId"]
    found = client.describe_stack_resources(PhysicalResourceId=physical_id)["StackResources"]
    assert {item["LogicalResourceId"] for item in found} == {"Model", "Config"}
    one = client.describe_stack_resources(StackName="night-asked", LogicalResourceId="Config")
    assert len(one["StackResources"]) == 1
    model = sandbox.client("sagemaker").describe_model(ModelName=physical_id)
    assert model["PrimaryContainer"]["Environment"] == {"SIZE": "4", "WORD": "secret"}
    for validated in (
        client.validate_template(TemplateBody=template), client.validate_template(TemplateURL=url)
    ):  # fmt: skip
        assert validated["Description"] == "A model and its configuration"
        assert [p["DefaultValue"] for p in validated["Parameters"]][2:] == ["****", "no"]
    summary = client.get_template_summary(TemplateBody=template)
    assert summary["ResourceTypes"] == ["AWS::SageMaker::EndpointConfig", "AWS::SageMaker::Model"]
    assert summary["Parameters"][3]["ParameterConstraints"] == {"AllowedValues": ["yes", "no"]}
    listed = client.list_stacks(StackStatusFilter=["CREATE_COMPLETE"])["StackSummaries"]
    assert created in [stack["StackId"] for stack in listed]
    none = client.list_stacks(StackStatusFilter=["IMPORT_COMPLETE"])["StackSummaries"]
    assert none == []
    for call, words in [
        (lambda: client.describe_stack_resource(StackName="night-asked", LogicalResourceId="X"),
         "Resource X does not exist for stack night-asked"),
        (lambda: client.validate_template(TemplateURL="https://example.org/t.yaml"),
         "TemplateURL must be a supported URL"),
        (lambda: client.validate_template(TemplateURL=f"{url}.not"), "S3 error"),
        (lambda: client.validate_template(TemplateBody="Foo: 1"),
         r"Invalid template property or properties \[Foo\]"),
        (lambda: client.describe_stacks(NextToken="x"), "none of ours"),
        (lambda: client.update_stack(StackName="night-asked", TemplateBody=template),
         "No updates are to be performed"),
    ]:  # fmt: skip
        with pytest.raises(ClientError, match=words):
            call()


def test_boto3s_paginators_go_through_every_list(client, template):
    name = {"StackName": "night-pages"}
    client.create_change_set(
        **name, ChangeSetName="one", ChangeSetType="CREATE", TemplateBody=template
    )
    needs = {
        "describe_change_set": name | {"ChangeSetName": "one"}, "describe_stack_events": name,
        "list_change_sets": name, "list_stack_resources": name, "list_stacks": {},
        "describe_stacks": {},
    }  # fmt: skip
    for operation, request in needs.items():
        pages = list(client.get_paginator(operation).paginate(**request))
        assert pages


def test_the_page_of_what_is_answered_is_as_the_code_is():
    command = [sys.executable, "scripts/dev/calls.py", "--check"]
    result = subprocess.run(
        command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
