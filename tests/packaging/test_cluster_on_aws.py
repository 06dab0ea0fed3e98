"""cluster.yaml for AWS, taken by Ray's own provider, against a stand-in for AWS."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from halflife.errors import UserError
from halflife.sweep import aws, head, session

moto = pytest.importorskip("moto")
boto3 = pytest.importorskip("boto3")

ROOT = Path(__file__).parents[2]
CONFIG = yaml.safe_load((ROOT / "cluster.yaml").read_text())
REGION, BUCKET = CONFIG["provider"]["region"], "halflife-123456789012"


@pytest.fixture
def account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An account with nothing in it; the user's home."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    with moto.mock_aws(config={"iam": {"load_aws_managed_policies": True}}):
        yield tmp_path


def test_the_bucket_is_private_and_the_role_may_start_workers_with_itself(account: Path):
    for _ in range(2):
        aws.prepare(REGION, f"s3://{BUCKET}/results")
    blocked = boto3.client("s3").get_public_access_block(Bucket=BUCKET)["PublicAccessBlockConfiguration"]
    assert all(blocked.values())
    iam = boto3.client("iam")
    profile = iam.get_instance_profile(InstanceProfileName="halflife")["InstanceProfile"]
    (role,) = profile["Roles"]
    document = iam.get_role_policy(RoleName="halflife", PolicyName="halflife")["PolicyDocument"]
    statements = (document if isinstance(document, dict) else json.loads(document))["Statement"]
    allowed = {statement["Action"]: statement["Resource"] for statement in statements}
    assert allowed["iam:PassRole"] == role["Arn"]
    assert allowed["s3:*"] == [f"arn:aws:s3:::{BUCKET}", f"arn:aws:s3:::{BUCKET}/*"]


def test_the_head_knows_its_bucket(account: Path):
    (account / "ray_bootstrap_config.yaml").write_text(json.dumps(CONFIG))
    assert head.results() == f"s3://{BUCKET}/results"


def test_a_bucket_of_another_account_is_told_in_one_line(account: Path, monkeypatch: pytest.MonkeyPatch):
    from botocore.exceptions import ClientError

    class Taken:
        def create_bucket(self, **more: Any) -> None:
            raise ClientError({"Error": {"Code": "BucketAlreadyExists", "Message": "not yours"}}, "CreateBucket")

    monkeypatch.setattr(aws, "_client", lambda *_: Taken())
    with pytest.raises(UserError, match=rf"the bucket {BUCKET} cannot be created: .*not yours"):
        aws.prepare(REGION, f"s3://{BUCKET}/results")


@pytest.mark.slow
def test_ray_starts_head_and_spot_workers_from_it(account: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from ray.autoscaler._private.aws import utils
    from ray.autoscaler._private.commands import _bootstrap_config
    from ray.autoscaler._private.providers import _get_node_provider

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for cached in (utils.resource_cache, utils.client_cache):
        cached.cache_clear()
    aws.prepare(REGION, f"s3://{BUCKET}/results")
    config = _bootstrap_config(json.loads(json.dumps(CONFIG)), no_config_cache=True)
    workers = session._missing(config, [config["available_node_types"]["head"]["resources"]])
    assert [(host["CPU"], host["GPU"]) for host in workers] == [(8, 1)] * 8
    provider = _get_node_provider(config["provider"], config["cluster_name"])
    for name, kind in (("head", config["head_node"]), ("gpu_worker", {})):
        node = {**config["available_node_types"][name]["node_config"], **kind}
        provider.create_node(node, {"ray-node-type": name, "ray-user-node-type": name}, 1)
    launched = boto3.client("ec2").describe_instances()["Reservations"]
    instances = [instance for reservation in launched for instance in reservation["Instances"]]
    assert sorted(instance["InstanceType"] for instance in instances) == ["g5.2xlarge", "m6i.2xlarge"]
    assert all(instance["IamInstanceProfile"]["Arn"].endswith("/halflife") for instance in instances)
    groups = {group["GroupId"] for instance in instances for group in instance["SecurityGroups"]}
    rules = boto3.client("ec2").describe_security_groups(GroupIds=sorted(groups))["SecurityGroups"]
    from_outside = [rule for group in rules for rule in group["IpPermissions"] if rule["IpRanges"]]
    assert {(rule["FromPort"], rule["ToPort"]) for rule in from_outside} == {(22, 22)}, "ssh alone"
