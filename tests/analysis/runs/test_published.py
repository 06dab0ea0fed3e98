"""What version 0.1 published stays readable: its declarations, and the names of its tags and metrics.

`published_by_0.1.json` holds two declarations as that version wrote them (a search and a study of soft prompts), and
the strings of its schema module. A name that changes needs a new SCHEMA and an entry in analysis.runs.upgrades.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from analysis.runs.study import declared
from halflife.tracking import schema

PUBLISHED: dict[str, Any] = json.loads(Path(__file__).with_name("published_by_0.1.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("written", PUBLISHED["declarations"], ids=lambda written: written["study"])
def test_a_published_declaration_is_read_with_all_that_it_says(written: dict[str, Any]) -> None:
    declaration, upgrade = declared(json.dumps(written), "study.json")
    read = json.loads(declaration.to_json())
    roles = [axis.pop("role") for axis in read["axes"]]
    assert {"replicate"} <= set(roles) <= {"replicate", "treatment", "dose", "measured"}
    added = {name: read.pop(name) for name in ("quantities", "questions", "looks", "pilot_seeds", "declared")}
    assert not any((*added.values(), read.pop("criteria"), *read.pop("levers").values()))
    assert read == written | {"schema": schema.SCHEMA}
    assert upgrade.metric("branch/dropped/hits") == "branch/dropped/hits"


def test_tags_and_metrics_keep_the_names_under_which_they_were_published() -> None:
    today = {value for name, value in vars(schema).items() if name.isupper() and isinstance(value, str)}
    assert set(PUBLISHED["names"]) <= today
