"""cluster.yaml is what `ray up` reads, for AWS as it stands and for hosts of one's own by its provider block alone."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import jsonschema
import pytest
import yaml

from tests.cluster.variant import of_hosts

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "cluster.yaml").read_text()


@pytest.fixture(params=[TEXT, of_hosts(TEXT)], ids=["aws", "hosts"])
def config(request: pytest.FixtureRequest) -> dict:
    return yaml.safe_load(request.param)


def test_it_is_valid_against_rays_schema(config: dict):
    ray = pytest.importorskip("ray")
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(config, schema)


def test_ray_fills_in_a_list_of_hosts():
    """Ray refuses node types of a cloud beside a list of hosts."""
    local = pytest.importorskip("ray.autoscaler._private.local.config")
    filled, _ = local.prepare_local(yaml.safe_load(of_hosts(TEXT)))
    assert filled["max_workers"] == 2


def test_nothing_but_the_provider_block_differs():
    aws, hosts = yaml.safe_load(TEXT), yaml.safe_load(of_hosts(TEXT))
    block = {"provider", "auth", "max_workers", "idle_timeout_minutes", "available_node_types", "head_node_type"}
    assert {key for key in aws.keys() | hosts.keys() if aws.get(key) != hosts.get(key)} == block


def test_nothing_on_the_head_listens_beyond_loopback(config: dict):
    starts = " ".join(config["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in starts
    assert "0.0.0.0" not in TEXT


def test_every_file_that_is_shipped_is_there(config: dict):
    for there, here in config["file_mounts"].items():
        assert here.startswith("~/.ray/") or (ROOT / here).exists(), here
        assert there.startswith("~/")


def test_every_file_that_the_installation_reads_is_shipped(config: dict):
    """The Makefile, what it installs by, and what the build needs: the readme, the license and the hook."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    read = {"Makefile", "pyproject.toml", "constraints.txt", "LICENSE", project["project"]["readme"], "hatch_build.py"}
    assert "custom" in project["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]  # which is hatch_build.py
    assert read <= set(config["file_mounts"].values())
