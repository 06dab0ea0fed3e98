from __future__ import annotations

import importlib.util
from typing import Any, cast

import pytest

from halflife.errors import UserError
from halflife.evaluation.targets import TaskTarget
from halflife.prompts.attacks import PromptAttacks
from halflife.stages.train import Checkpoint
from halflife.store.execution import Execution
from halflife.sweep import executions
from halflife.sweep.resources import ResourceRequest
from halflife.sweep.site import ExecutionSite
from halflife.tasks.arithmetic import Addition
from halflife.training.parameters import LoRA
from halflife.training.penalties import KL
from tests.sweep.fakes import Fake
from tests.training.fakes import BATCH_TOKENS, SEQUENCE, recipe

START = Checkpoint(stage=recipe())
AGAINST = PromptAttacks(
    strength=1.0, attacks=(cast(Any, Fake(name="prompts")),), target=TaskTarget(language=Addition(form="digits"))
)
ROWS = BATCH_TOKENS // SEQUENCE


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (("jax", None, None), "unknown engine 'jax': expected auto, torch or deepspeed"),
        (("torch", 2, None), "2 workers were asked for: the torch engine trains a stage with 1"),
        (("torch", None, 1), "ZeRO stage 1 was asked for: the torch engine shards nothing"),
        (("auto", 2, None), "2 workers were asked for, and the engine is left open: add --engine deepspeed"),
        (("auto", None, 3), "ZeRO stage 3 was asked for, and the engine is left open"),
        (("deepspeed", 5, None), "5 workers were asked for, this machine has 4 devices for them: expected at most 4"),
        (("deepspeed", 0, None), "0 workers were asked for: expected at least 1"),
        (("deepspeed", 1, 4), "ZeRO stage 4 was asked for: expected 0, 1, 2 or 3"),
    ],
)
def test_what_no_engine_can_do_is_refused_in_one_line(asked: tuple, reason: str):
    with pytest.raises(UserError, match=reason) as error:
        executions.check(*asked, devices=4)
    assert "\n" not in str(error.value)


def test_deepspeed_that_is_not_installed_is_refused_before_any_compute(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"'deepspeed' was asked for and is not installed: pip install"):
        executions.check("deepspeed", 1, 0, devices=1)
    executions.check("torch", None, None, devices=1)


@pytest.mark.parametrize(
    ("changes", "workers", "zero", "reason"),
    [
        ({}, 3, 1, f"batches of {ROWS} sequences do not divide among 3 workers: choose a number"),
        ({"parameters": LoRA()}, 1, 3, "LoRA under ZeRO stage 3.*--zero 2"),
        ({"gradient_noise": 0.1}, 1, 1, "gradient noise under the engine 'deepspeed'.*--engine torch"),
        ({"start": START, "penalties": (KL(strength=1.0),)}, 1, 0, "KL under the engine 'deepspeed'.*--engine torch"),
        ({"start": START, "penalties": (AGAINST,)}, 1, 0, "PromptAttacks under the engine 'deepspeed'"),
    ],
)
def test_a_stage_that_the_engine_cannot_train_is_refused(changes: dict, workers: int, zero: int, reason: str):
    execution = Execution(engine="deepspeed", workers=workers, zero=zero)
    with pytest.raises(UserError, match=reason):
        executions.check_stage(recipe(**changes), execution)
    executions.check_stage(Fake(name="of another kind"), execution)


def test_only_training_is_spread_over_workers_and_zero_1_is_the_default():
    assert executions.choose(recipe(), "deepspeed", 2, None) == Execution(engine="deepspeed", workers=2, zero=1)
    assert executions.choose(Fake(name="other"), "deepspeed", 2, None) == Execution()
    assert executions.choose(recipe(), "auto", None, None) == Execution()


def test_no_more_stages_run_at_once_than_have_workers_for_them(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("halflife.sweep.resources.cores", lambda: 8)
    place = ExecutionSite(device="cpu", engine="deepspeed", workers=3)
    assert place.slots([ResourceRequest(cpus=3, workers=3)]) == 2
    assert ExecutionSite(device="cpu", max_concurrent=1).slots([ResourceRequest(cpus=3, workers=3)]) == 1
