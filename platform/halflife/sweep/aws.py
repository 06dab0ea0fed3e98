"""`python -m halflife.sweep.aws`, once per AWS account: create the bucket and the role that cluster.yaml names.

Ray creates a role for the head, but that role cannot be passed on to workers, which write to the bucket too.
"""

from __future__ import annotations

import contextlib
import json
import sys
from typing import Any

from halflife.errors import UserError

ROLE = "halflife"
"""Name of the role, the policy and the instance profile of every host."""
ACCOUNT = "{account}"
"""Placeholder for the account number in `provider.results`."""


def named(results: str) -> str:
    """`results` with {account} replaced by the account number."""
    if ACCOUNT not in results:
        return results
    return results.replace(ACCOUNT, _client("sts").get_caller_identity()["Account"])


def prepare(region: str, results: str) -> None:
    """Create whatever is missing of bucket, role and instance profile. Idempotent."""
    bucket = results.removeprefix("s3://").partition("/")[0]
    _make_bucket(bucket, region)
    _make_role(bucket)


def _make_bucket(bucket: str, region: str) -> None:
    from botocore.exceptions import ClientError

    client = _client("s3", region)
    where = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
    try:
        client.create_bucket(Bucket=bucket, **where)
    except ClientError as error:
        if error.response["Error"]["Code"] != "BucketAlreadyOwnedByYou":
            raise UserError(f"the bucket {bucket} cannot be created: {error}") from error
    private = dict.fromkeys(("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True)
    client.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=private)


def _make_role(bucket: str) -> None:
    client = _client("iam")
    existing = client.exceptions.EntityAlreadyExistsException
    trust = {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}
    with contextlib.suppress(existing):
        client.create_role(RoleName=ROLE, AssumeRolePolicyDocument=_document([trust]))
    role = client.get_role(RoleName=ROLE)["Role"]["Arn"]
    client.attach_role_policy(
        RoleName=ROLE, PolicyArn="arn:aws:iam::aws:policy/AmazonEC2FullAccess"
    )  # to start workers
    allowed = [
        {"Effect": "Allow", "Action": "s3:*", "Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]},
        {"Effect": "Allow", "Action": "ssm:GetParameters", "Resource": "arn:aws:ssm:*::parameter/aws/service/*"},
        {"Effect": "Allow", "Action": "iam:PassRole", "Resource": role},
    ]
    client.put_role_policy(RoleName=ROLE, PolicyName=ROLE, PolicyDocument=_document(allowed))
    with contextlib.suppress(existing):
        client.create_instance_profile(InstanceProfileName=ROLE)
    profile = client.get_instance_profile(InstanceProfileName=ROLE)["InstanceProfile"]
    if not profile["Roles"]:
        client.add_role_to_instance_profile(InstanceProfileName=ROLE, RoleName=ROLE)


def _document(statements: list[dict[str, Any]]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": statements})


def _client(service: str, region: str | None = None) -> Any:
    try:
        import boto3
    except ImportError as error:
        raise UserError("AWS needs boto3: make install-cluster") from error
    return boto3.client(service, region_name=region)  # pyright: ignore[reportCallIssue, reportArgumentType]


def main() -> None:
    """Bad input prints one line and exits with 2."""
    import yaml
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        try:
            with open("cluster.yaml") as file:
                provider = yaml.safe_load(file)["provider"]
        except OSError as error:
            raise UserError("no cluster.yaml here: run this in its folder") from error
        if provider["type"] != "aws":
            raise UserError(f"the provider in cluster.yaml is {provider['type']}: this is only needed for aws")
        results = named(provider["results"])
        prepare(provider["region"], results)
        print(f"results will be stored in {results}; next: ray up cluster.yaml")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except (BotoCoreError, ClientError) as error:
        print(f"error: AWS: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
