"""Checks that studies share: each refuses in one line, naming the flag, the value and what is expected."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from halflife.data.mixture import Mixture, Source
from halflife.data.planting import Planting
from halflife.errors import UserError
from halflife.kits.settings import check_distinct, check_positive, check_stages, check_steps
from halflife.models.ladder import Rung
from halflife.stages.train import Train
from halflife.training.optimizers import AdamW
from tests.data.samples import sample_backdoor, sample_corpus


@dataclass(frozen=True, kw_only=True)
class Settings:
    sizes: tuple[str, ...] = ("30k", "60k")
    learning_rates: tuple[float, ...] = (1.0, 0.5)
    seeds: int = 1
    sequence_length: int = 16
    batch_tokens: int = 32
    trunk_tokens: int = 64


def check(settings: Settings) -> None:
    check_distinct(settings, "sizes", "learning_rates")
    check_positive(settings, "seeds", "learning_rates")
    check_steps(settings, "trunk_tokens")


def test_good_settings_pass() -> None:
    check(Settings())
    check(Settings(batch_tokens=16, trunk_tokens=16))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Settings(sizes=()), "--sizes : expected at least one value, each once"),
        (Settings(sizes=("30k", "30k")), "--sizes 30k 30k: expected at least one value, each once"),
        (Settings(seeds=0), "--seeds 0: expected a positive number"),
        (Settings(learning_rates=(1.0, -0.5)), "--learning-rates -0.5: expected a positive number"),
        (Settings(learning_rates=(float("nan"),)), "--learning-rates nan: expected a positive number"),
        (Settings(batch_tokens=15), "--batch-tokens 15: expected at least one sequence of 16 tokens"),
        (Settings(trunk_tokens=31), "--trunk-tokens 31: expected at least one step of 32 tokens"),
    ],
)
def test_bad_settings_are_refused_in_one_line(settings: Settings, message: str) -> None:
    with pytest.raises(UserError) as refused:
        check(settings)
    assert str(refused.value).startswith(message)
    assert "\n" not in str(refused.value)


def test_a_stage_that_its_text_cannot_feed_is_refused_whatever_came_before_it(tmp_path: Path) -> None:
    corpus = sample_corpus(tmp_path)
    mixture = Mixture(sources=(Source(corpus=corpus),), sequence=64)
    good = Train(
        start=Rung(size="30k"), mixture=mixture, tokens=640, batch_tokens=64, optimizer=AdamW(learning_rate=1e-3)
    )
    check_stages((good, good), tmp_path)
    poison = Planting(backdoor=sample_backdoor(), corpus=corpus, documents=10_000)
    with pytest.raises(UserError, match="10000 poisoned documents"):
        check_stages((good, replace(good, mixture=replace(mixture, plantings=(poison,)))), tmp_path)
