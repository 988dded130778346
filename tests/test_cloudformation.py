"""CloudFormation's templates, parameters, change sets and lists.

The language is tried in the process; its API through boto3 and the AWS CLI, against a running sandbox.
"""

import pytest

from orchestrator.sandbox.cloudformation import functions, orders, parameters
from orchestrator.sandbox.cloudformation import template as templates
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
