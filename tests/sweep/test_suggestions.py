"""What a search suggests, its identity, and invalid searches."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from halflife.errors import UserError
from halflife.sweep.adaptive import Budget
from halflife.sweep.suggestions import Suggestions
from halflife.tracking import schema
from tests.sweep.searches import Carried, Setting, conditional, height, search, states, two_objectives, unfold


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch):
    """No fsync: these tests do not simulate power cuts."""
    monkeypatch.setattr("os.fsync", lambda file: None)


def regret(folder: Path, sampler: str, seed: int, trials: int = 40) -> float:
    made = search(budget={"trials": trials, "sampler": sampler, "search_seed": seed, "startup": 10})
    suggestions = Suggestions(made, folder)
    best = 0.0
    while asked := suggestions.ask():
        number, setting = asked
        value = height(setting.x, setting.y)
        suggestions.tell(number, [{"height": value}])
        best = max(best, value)
    return 1.0 - best


def test_tpe_beats_random_search_at_equal_trials(tmp_path: Path):
    seeds = range(9)
    tpe = [regret(tmp_path, "tpe", seed) for seed in seeds]
    random = [regret(tmp_path, "random", seed) for seed in seeds]
    assert statistics.median(tpe) < 0.5 * statistics.median(random)


def test_searches_that_differ_never_share_a_journal(tmp_path: Path):
    def named(made: Any) -> str:
        return Suggestions(made, tmp_path).name

    taller = schema.Objective(name="height", label="Height", direction="maximize", formula="another")
    names = [
        named(made)
        for made in (
            search(),
            search(suggest=conditional),
            search(unfold=lambda setting, seed: unfold(Setting(setting.x, setting.y / 2), seed)),
            search(seeds=(0, 1)),
            search(declared={"objectives": (taller,)}),
            search(budget={"sampler": "random"}),
            search(budget={"search_seed": 1}),
            search(first=({"x": 0.5},)),
            search(declared={"preset": "laptop"}),
        )
    ]
    assert len(set(names)) == len(names)
    assert named(search(budget={"trials": 50, "timeout": "2h"}, fresh_seeds=(9,))) == names[0]


def test_a_journal_cut_by_a_power_failure_is_read_on(tmp_path: Path):
    killed = Carried(search(), tmp_path).run(6)
    path = killed.journal
    told = len(path.read_bytes().splitlines())
    path.write_bytes(path.read_bytes() + b'{"op_code":4,"worker')
    resumed = Carried(search(), tmp_path).run()
    assert states(resumed) == ["COMPLETE"] * 6
    assert len(path.read_bytes().splitlines()) > told


def test_an_unreadable_journal_is_one_line(tmp_path: Path):
    Carried(search(), tmp_path).run().journal.write_text('{"no": "journal"}\nat all\nbut text\n')
    with pytest.raises(UserError, match=r"cannot be read .*: move it away") as caught:
        Carried(search(), tmp_path)
    assert "\n" not in str(caught.value)


def test_a_declaration_keeps_its_objectives_and_older_ones_have_none():
    declared = two_objectives(budget={"trials": 1}).declaration
    assert schema.Declaration.from_json(declared.to_json()) == declared
    older = json.loads(declared.to_json())
    del older["objectives"], older["constraints"]
    assert schema.Declaration.from_json(json.dumps(older)).objectives == ()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"trials": 0}, "--trials 0"),
        ({"timeout": "soon"}, "--timeout soon: expected a time such as 90 (seconds), 30m or 2h"),
        ({"timeout": "0"}, "--timeout 0"),
        ({"at_once": 0}, "--at-once 0"),
        ({"startup": 0}, "--startup 0"),
        ({"finalists": -1}, "--finalists -1"),
    ],
)
def test_an_invalid_budget_is_refused(changes: dict[str, Any], said: str):
    with pytest.raises(UserError) as caught:
        Budget(**{"trials": 5, **changes})
    assert said in str(caught.value)


@pytest.mark.parametrize(("text", "seconds"), [("90", 90.0), ("1.5h", 5400.0), ("30m", 1800.0), ("20s", 20.0)])
def test_a_timeout_is_seconds_or_has_a_unit(text: str, seconds: float):
    assert Budget(trials=1, timeout=text).seconds == seconds


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"declared": {"objectives": ()}}, "declares no objective"),
        ({"measures": {}}, "expected one for each objective"),
        ({"seeds": ()}, "at least one seed"),
        ({"fresh_seeds": (0,)}, "no duplicates"),
        (
            {"declared": {"objectives": (schema.Objective(name="height", label="", direction="up"),)}},
            "expected maximize or minimize",
        ),
        ({"declared": {"constraints": (schema.Constraint(name="narrow", label=""),)}}, "has no bound"),
    ],
)
def test_an_invalid_search_is_refused(changes: dict[str, Any], said: str):
    with pytest.raises(UserError) as caught:
        search(**changes)
    assert said in str(caught.value)
