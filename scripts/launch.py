"""Launch the orchestrator in your AWS account: `make launch TARGET=aws`.

    TARGET=aws python scripts/launch.py [--email you@example.org]

Shows what it costs, asks for a yes (YES=1 for scripts), packs the handler, and hands
orchestrator/template.yaml to CloudFormation with the AWS CLI. STACK names the stack. Repeating
it brings an existing stack up to date.
"""

import argparse
import os
import subprocess
import time

from botocore.exceptions import ClientError

from clients import costs, lambda_zip
from clients.refusals import explained
from clients.target import AWS_COMMAND, Target, on_aws, stack_name
from common import ROOT
from common.errors import TargetError, run
from common.files import write_atomically
from common.output import confirm, print_json, say

TEMPLATE = ROOT / "orchestrator" / "template.yaml"
PACKAGED = ROOT / "build" / "template.yaml"


def aws_cli(*arguments: str) -> subprocess.Popen:
    """Start the AWS CLI of this environment; what it says on stderr is kept."""
    return subprocess.Popen(
        [*AWS_COMMAND, *arguments],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen, what: str) -> None:
    _, errors = process.communicate()
    if process.returncode:
        raise TargetError(f"{what} failed: {' '.join(errors.split())}", "make launch TARGET=aws")


def code_bucket(session) -> str:
    """The bucket that the Lambda package is uploaded to; made when it is not there.

    TargetError when somebody else has a bucket of this name, which can be guessed: what lies there
    would become the orchestrator's code.
    """
    account = session.client("sts").get_caller_identity()["Account"]
    name = f"{stack_name()}-code-{account}-{session.region_name}"
    s3 = Target("", "", session, account=account).client("s3")
    try:
        s3.head_bucket(Bucket=name)
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code in ("403", "AccessDenied"):
            raise TargetError(
                f"the bucket {name} is another account's, or you may not use it",
                "STACK=<another name> make launch TARGET=aws",
            ) from None
        if code not in ("404", "NoSuchBucket"):
            raise
        where = {"CreateBucketConfiguration": {"LocationConstraint": session.region_name}}
        s3.create_bucket(Bucket=name, **({} if session.region_name == "us-east-1" else where))
    return name


def show_events(session, stack: str, since: float, process: subprocess.Popen) -> None:
    """Print the stack's events as they come, until the CLI's deploy has ended."""
    cloudformation, seen = session.client("cloudformation"), set()
    while True:
        ended = process.poll() is not None
        try:
            events = cloudformation.describe_stack_events(StackName=stack)["StackEvents"]
        except ClientError:  # not there yet
            events = []
        for event in reversed(events):
            if event["EventId"] in seen or event["Timestamp"].timestamp() < since:
                continue
            seen.add(event["EventId"])
            reason = event.get("ResourceStatusReason", "")
            say(f"  {event['ResourceStatus']:22}{event['LogicalResourceId']:30}{reason}".rstrip())
        if ended:
            return
        time.sleep(2)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--email", default=os.environ.get("EMAIL", ""), help="where news go (EMAIL)"
    )
    parser.add_argument("--json", action="store_true", help="print the stack's outputs as JSON")
    arguments = parser.parse_args()
    session, stack = on_aws(
        "launching is for AWS; on a laptop there is the sandbox",
        "make launch TARGET=aws, or make sandbox",
    )
    say(costs.table(costs.estimate()))
    confirm(f"Launch {stack} in {session.region_name}?")
    with explained():
        bucket = code_bucket(session)
        write_atomically(lambda_zip.ZIP, lambda_zip.pack())
        finish(
            aws_cli("cloudformation", "package", "--template-file", str(TEMPLATE), "--s3-bucket",
                    bucket, "--output-template-file", str(PACKAGED)), "aws cloudformation package",
        )  # fmt: skip
        began = time.time()
        deploying = aws_cli(
            "cloudformation", "deploy", "--template-file", str(PACKAGED), "--stack-name", stack,
            "--capabilities", "CAPABILITY_IAM", "--no-fail-on-empty-changeset",
            "--parameter-overrides", f"NotificationEmail={arguments.email}",
        )  # fmt: skip
        show_events(session, stack, began, deploying)
        finish(deploying, "aws cloudformation deploy")
        described = session.client("cloudformation").describe_stacks(StackName=stack)["Stacks"][0]
    outputs = {o["OutputKey"]: o["OutputValue"] for o in described.get("Outputs", [])}
    if arguments.json:
        print_json(outputs)
    else:
        print(f"launch: {stack} is up")
        for key, value in outputs.items():
            print(f"  {key:44}{value}")
    return 0


if __name__ == "__main__":
    run(main)
