"""A refusal goes out in the protocol in which the request came in: a client reads no other.

Which one that is, the request itself tells, so that services are answered which are not here. Nothing
of botocore is imported: the fronts are to stay small.

    query       a form; XML comes back. EC2's has a shape of its own
    rest-xml    S3, Route 53 and CloudFront alone
    cbor        Smithy's RPC v2
    json        everything else: JSON 1.0 and 1.1, and rest-json
"""

import json
from xml.sax.saxutils import escape

from orchestrator.sandbox.errors import AwsError
from orchestrator.sandbox.web import Answer

REQUEST_ID = "00000000-0000-0000-0000-000000000000"
FORM = "application/x-www-form-urlencoded"
XML = "text/xml"
CBOR = "rpc-v2-cbor"
REST_XML = ("s3", "route53", "cloudfront")

# One fault, and what it is called where it is not called as here: SageMaker's ValidationException is
# a ValidationError in XML, and JSON has names of its own for signatures.
XML_NAMES = {"ValidationException": "ValidationError"}
JSON_NAMES = {
    "SignatureDoesNotMatch": "InvalidSignatureException",
    "IncompleteSignature": "IncompleteSignatureException",
    "InvalidClientTokenId": "UnrecognizedClientException",
}


def refusal(service: str, headers: dict[str, str], error: AwsError) -> Answer:
    """The refusal of a request to a service, by the request's headers, their names in lower case.
    API Gateway's is a plain `message`."""
    if service == "execute-api":
        body = json.dumps({"message": error.message}).encode()
        return Answer(error.status, "application/json", body)
    if headers.get("smithy-protocol") == CBOR:
        return _in_cbor(error)
    if service == "s3":
        return _in_xml(error, "{}")
    if headers.get("content-type", "").startswith(FORM) and service == "ec2":
        return _in_xml(error, "<Response><Errors>{}</Errors></Response>")
    if headers.get("content-type", "").startswith(FORM) or service in REST_XML:
        return query_refusal(error)
    answer = json_refusal(error)
    # Whoever once asked by a form goes on to use its names of errors.
    if "x-amzn-query-mode" in headers:
        code = XML_NAMES.get(error.code, error.code)
        answer.headers["x-amzn-query-error"] = f"{code};Sender"
    return answer


def query_refusal(error: AwsError, namespace: str = "") -> Answer:
    around = f'<ErrorResponse xmlns="{namespace}">{{}}<RequestId>{REQUEST_ID}</RequestId>'
    return _in_xml(error, f"{around}</ErrorResponse>")


def json_refusal(error: AwsError) -> Answer:
    code = JSON_NAMES.get(error.code, error.code)
    body = json.dumps({"__type": code, "message": error.message, "Message": error.message})
    return Answer(error.status, "application/json", body.encode(), {"x-amzn-ErrorType": code})


def _in_xml(error: AwsError, around: str) -> Answer:
    code = XML_NAMES.get(error.code, error.code)
    what = f"<Type>Sender</Type><Code>{code}</Code><Message>{escape(error.message)}</Message>"
    return Answer(error.status, XML, around.format(f"<Error>{what}</Error>").encode())


def _in_cbor(error: AwsError) -> Answer:
    pairs = {"__type": JSON_NAMES.get(error.code, error.code), "message": error.message}
    texts = [text.encode() for pair in pairs.items() for text in pair]
    # A map of two pairs (major type 5), each text (3) with its length in four bytes.
    body = b"\xa2" + b"".join(b"\x7a" + len(t).to_bytes(4, "big") + t for t in texts)
    return Answer(error.status, "application/cbor", body, {"smithy-protocol": CBOR})
