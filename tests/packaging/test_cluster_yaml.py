"""cluster.yaml is what `ray up` reads."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]


def load_schema() -> dict:
    ray = pytest.importorskip("ray")
    return json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())


def test_cluster_yaml_is_valid_against_rays_schema():
    jsonschema.validate(yaml.safe_load((ROOT / "cluster.yaml").read_text()), load_schema())


def test_cluster_yaml_stays_valid_when_the_provider_becomes_a_list_of_hosts():
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    config["provider"] = {"type": "local", "head_ip": "host0", "worker_ips": ["host1", "host2"]}
    jsonschema.validate(config, load_schema())


def test_nothing_on_the_head_listens_beyond_loopback():
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    starts = " ".join(config["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in starts
    assert "0.0.0.0" not in (ROOT / "cluster.yaml").read_text()
