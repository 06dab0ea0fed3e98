"""Treatments by name: the field that each changes, dropped sources that return, and invalid names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from halflife.data.codecs import load
from halflife.data.corpus import Corpus
from halflife.data.loss_mask import read
from halflife.data.mixture import Batches, Mixture, Source
from halflife.data.tokenizers import Bytes
from halflife.data.transforms import Backwards
from halflife.errors import UserError
from halflife.evaluation.probes import Ends, Evaluation, TaskProbe, Threshold
from halflife.evaluation.targets import TaskTarget
from halflife.models.ladder import Rung
from halflife.prompts.attacks import PromptAttacks
from halflife.prompts.fit_stage import FitSoftPrompts
from halflife.prompts.soft_prompt import SoftPrompt, WarmStart
from halflife.stages.fisher import Fisher
from halflife.stages.subject import Subject
from halflife.stages.train import Checkpoint, Train
from halflife.stages.treatments import INTERVENTIONS, REGULARIZERS, anneal, dropped, intervene, regularize, replay
from halflife.store.execution import Execution
from halflife.store.plan import Plan
from halflife.store.run import Unavailable, run_stage
from halflife.store.store import Store
from halflife.tasks.families import Family
from halflife.tasks.refusals import Refused
from halflife.tasks.synthetic import SyntheticTask
from halflife.training import checkpoints
from halflife.training.fisher import read_fisher
from halflife.training.objectives import EWC, KL, L2SP, NextToken
from halflife.training.optimizers import SGD, AdamW, Muon
from halflife.training.parameters import Frozen, LoRA
from halflife.training.recipe import Snapshot
from halflife.training.schedules import Schedule

FAMILY = Family(kind="C", size=4, modulus=7)
B = FAMILY.languages[0]
SEQUENCE = 64


def mixture(languages: tuple[SyntheticTask, ...]) -> Mixture:
    return Mixture(sources=tuple(Source(corpus=language, loss="answers") for language in languages), sequence=SEQUENCE)


TRUNK = Train(
    start=Rung(size="20k"),
    mixture=mixture(FAMILY.trained),
    tokens=6 * 4 * SEQUENCE,
    batch_tokens=4 * SEQUENCE,
    optimizer=AdamW(learning_rate=0.01, weight_decay=0.01),
)
BRANCH = replace(
    TRUNK,
    start=Checkpoint(stage=TRUNK),
    mixture=mixture(FAMILY.without((B.name,))),
    schedule=Schedule(shape="continue"),
)
KEPT = replace(BRANCH, mixture=TRUNK.mixture)


# --- fields ---


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("none", {}),
        ("weight-decay-0.3", {"optimizer": AdamW(learning_rate=0.01, weight_decay=0.3)}),
        ("weight-decay-coupled-0.3", {"optimizer": AdamW(learning_rate=0.01, weight_decay=0.3, decay="coupled")}),
        ("dropout-0.1", {"dropout": 0.1}),
        ("label-smoothing-0.1", {"objectives": (NextToken(label_smoothing=0.1),)}),
        ("gradient-noise-0.5", {"gradient_noise": 0.5}),
        ("l2sp-2", {"objectives": (NextToken(), L2SP(strength=2.0))}),
        ("batch-tokens-128", {"batch_tokens": 128}),
        ("rate-0.5", {"optimizer": AdamW(learning_rate=0.005, weight_decay=0.01)}),
        ("tokens-2", {"tokens": 12 * 4 * SEQUENCE}),
        ("adamw-0.02", {"optimizer": AdamW(learning_rate=0.02, weight_decay=0.01)}),
        ("sgd-0.3", {"optimizer": SGD(learning_rate=0.3, weight_decay=0.01), "optimizer_state": "reset"}),
        ("muon-0.02", {"optimizer": Muon(learning_rate=0.02, weight_decay=0.01), "optimizer_state": "reset"}),
        ("rate-0.5+sgd-0.3", {"optimizer": SGD(learning_rate=0.15, weight_decay=0.01), "optimizer_state": "reset"}),
        ("kl-1", {"objectives": (NextToken(), KL(strength=1.0))}),
        ("lora-4", {"parameters": LoRA(rank=4, alpha=8.0), "optimizer_state": "reset"}),
        ("frozen-embeddings", {"parameters": Frozen(embeddings=True), "optimizer_state": "reset"}),
        ("frozen-1", {"parameters": Frozen(layers=1), "optimizer_state": "reset"}),
        ("dropout-0.1+kl-2", {"dropout": 0.1, "objectives": (NextToken(), KL(strength=2.0))}),
    ],
)
def test_a_treatment_changes_its_own_field_and_no_other(name: str, changes: dict) -> None:
    assert intervene(name)(BRANCH) == replace(BRANCH, **changes)


def test_every_name_is_known_and_regularizers_are_not_interventions() -> None:
    for name, kind in {**REGULARIZERS, **INTERVENTIONS}.items():
        assert intervene(f"{name}-{kind.example}")(BRANCH).key != BRANCH.key
    with pytest.raises(UserError, match=r"unknown regularizer 'replay-0.1': expected none, or one of weight-decay"):
        regularize("replay-0.1")
    with pytest.raises(UserError, match=r"weight decay 200.0 at learning rate 0.01: expected a product below 1"):
        regularize("weight-decay-200")(TRUNK)
    assert regularize("weight-decay-0.3")(TRUNK).optimizer.weight_decay == 0.3


# --- dropped sources ---


def test_the_language_and_its_translations_are_dropped_unless_they_are_kept() -> None:
    assert {source.corpus for source in dropped(BRANCH)} == set(FAMILY.trained) - set(FAMILY.without((B.name,)))
    near = replace(BRANCH, mixture=mixture(FAMILY.without((B.name,), keep_translations=True)))
    assert [source.corpus for source in dropped(near)] == [B]
    assert dropped(KEPT) == ()


@given(st.floats(0.0005, 0.4))
def test_replay_gives_the_dropped_sources_its_fraction_of_the_sequences(fraction: float) -> None:
    sources = intervene(f"replay-{fraction!r}")(BRANCH).mixture.sources
    lost = {source.corpus for source in dropped(BRANCH)}
    weights = np.array([source.weight for source in sources])
    shares = weights / weights.sum()
    back = np.array([source.corpus in lost for source in sources])
    assert shares[back].sum() == pytest.approx(fraction)
    assert np.ptp(shares[back]) == pytest.approx(0, abs=1e-12)
    assert [source.corpus for source in sources] == [source.corpus for source in TRUNK.mixture.sources]


def test_full_replay_is_the_stage_from_which_nothing_was_dropped() -> None:
    assert intervene("replay-1")(BRANCH).key == KEPT.key
    share = len(dropped(BRANCH)) / len(TRUNK.mixture.sources)
    assert replay(BRANCH, TRUNK.mixture.sources, share + 0.01) == KEPT  # at most the original share
    assert intervene("replay-0")(BRANCH) == BRANCH
    assert intervene("replay-0.1")(KEPT) == KEPT


def test_shares_are_those_before_the_drop_at_any_scale_of_the_weights_after_it() -> None:
    scaled = tuple(replace(source, weight=7.0) for source in BRANCH.mixture.sources)
    branch = replace(BRANCH, mixture=replace(BRANCH.mixture, sources=scaled))
    lost = {source.corpus for source in dropped(BRANCH)}
    for name in ("replay-1", "anneal-0.5"):
        sources = intervene(name)(branch).mixture.sources
        back = sum(source.weight for source in sources if source.corpus in lost)
        share = len(lost) / len(TRUNK.mixture.sources)
        assert back / sum(source.weight for source in sources) == pytest.approx(share)


def test_if_every_source_was_dropped_only_a_partial_replay_is_possible() -> None:
    text = replace(BRANCH, mixture=replace(BRANCH.mixture, sources=(Source(corpus=Family(kind="A").languages[0]),)))
    weights = [source.weight for source in intervene("replay-0.01")(text).mixture.sources]
    assert sum(weights[:-1]) / sum(weights) == pytest.approx(0.01)
    for name in ("replay-1", "anneal-0.5"):
        with pytest.raises(UserError, match="all of the trunk's sources were dropped: expected a replay below 1"):
            intervene(name)(text)


def test_a_model_that_never_saw_the_dropped_sources_can_get_the_same_replay() -> None:
    absent = replace(TRUNK, mixture=BRANCH.mixture)
    control = replace(BRANCH, start=Checkpoint(stage=absent))
    assert replay(control, TRUNK.mixture.sources, 0.01).mixture == intervene("replay-0.01")(BRANCH).mixture
    assert intervene("replay-0.01")(control) == control


def owners(stage: Train, tmp_path: Path, steps: int, rows: int) -> np.ndarray:
    """For each row of each step: whether it belongs to a dropped source."""
    sources = stage.mixture.sources
    lost = [source.corpus in {other.corpus for other in dropped(BRANCH)} for source in sources]
    known = [{e.prompt + e.answer for e in source.corpus.examples("memorised")} for source in sources]  # type: ignore[union-attr]
    batches = Batches(stage.mixture, tmp_path, batch_tokens=rows * SEQUENCE, steps=steps, key=(0, "batch", 1))
    codec = load(Bytes(), tmp_path)
    found = np.zeros((steps, rows), dtype=bool)
    for step in range(steps):
        for at, row in enumerate(batches.batch(step)):
            first = codec.decode(read(row)).split("\n")[0] + "\n"
            among = {mine for mine, items in zip(lost, known, strict=True) if first in items}
            assert len(among) == 1
            found[step, at] = among.pop()
    return found


def test_sources_dropped_at_the_first_step_are_in_no_batch(tmp_path: Path) -> None:
    assert not owners(BRANCH, tmp_path, steps=30, rows=50).any()
    assert owners(KEPT, tmp_path, steps=5, rows=50).any()


def test_replay_has_its_fraction_of_the_batches(tmp_path: Path) -> None:
    seen = owners(intervene("replay-0.1")(BRANCH), tmp_path, steps=40, rows=50)
    assert seen.mean() == pytest.approx(0.1, abs=0.02)  # 2,000 draws: 3 standard errors


def test_an_annealed_share_falls_linearly_to_zero(tmp_path: Path) -> None:
    annealed = intervene("anneal-0.5")(BRANCH)
    seen = owners(annealed, tmp_path, steps=60, rows=80).mean(axis=1)
    share = len(dropped(BRANCH)) / len(TRUNK.mixture.sources)
    for begin in (0, 10, 20):
        middle = share * (1 - (begin + 4.5) / 30)
        assert seen[begin : begin + 10].mean() == pytest.approx(middle, abs=0.055)  # 800 draws: 3 standard errors
    assert not seen[30:].any()
    assert anneal(BRANCH, TRUNK.mixture.sources, 0.0) == BRANCH


def test_remaining_sources_split_the_fading_share_by_their_weights(tmp_path: Path) -> None:
    languages = FAMILY.languages[:3]
    weights, fades = (2.0, 1.0, 1.0), (0.0, 0.0, 1.0)
    sources = tuple(Source(corpus=c, weight=w, fade=f) for c, w, f in zip(languages, weights, fades, strict=True))
    batches = Batches(Mixture(sources=sources, sequence=32), tmp_path, batch_tokens=32, steps=4, key=(0,))
    shares = [np.diff(batches._shares_at(step), prepend=0) for step in range(4)]
    expected = [(0.5, 0.25, 0.25), (0.5417, 0.2708, 0.1875), (0.5833, 0.2917, 0.125), (0.625, 0.3125, 0.0625)]
    np.testing.assert_allclose(shares, expected, atol=1e-4)


# --- elastic weight consolidation: a parent behind an objective ---


def test_the_fisher_is_on_the_dropped_sources_at_the_checkpoint_and_a_parent_in_the_plan(store: Store) -> None:
    stage = intervene("replay-0.01+ewc-3")(BRANCH)
    _, ewc = stage.objectives
    assert isinstance(ewc, EWC)
    fisher = ewc.fisher
    assert isinstance(fisher, Fisher)
    assert fisher.subject == Subject(model=BRANCH.start)
    assert fisher.mixture.sources == dropped(BRANCH)
    assert set(stage.parents) == {TRUNK, fisher}
    assert fisher.parents == (TRUNK,)
    planned = list(Plan([stage], store).missing)
    assert [type(one) for one in planned] == [Train, Fisher, Train]
    assert intervene("ewc-3")(KEPT).objectives[1].fisher.mixture == TRUNK.mixture  # type: ignore[union-attr]
    assert stage.memory(Execution()).init_weights > BRANCH.memory(Execution()).init_weights


def test_ewc_and_kl_branches_run_in_the_store_and_a_strong_ewc_forgets_less(store: Store) -> None:
    fisher = Fisher(subject=Subject(model=Checkpoint(stage=TRUNK)), mixture=TRUNK.mixture, batches=8)
    added = {"none": (), "ewc": (EWC(strength=1e9, fisher=fisher),), "kl": (KL(strength=1.0),)}
    stages = {name: replace(BRANCH, objectives=(NextToken(), *added[name])) for name in added}
    moved = {name: run_stage(stage, store).summary["final"]["clock/displacement"] for name, stage in stages.items()}
    assert 0 < moved["ewc"] < moved["none"]
    assert moved["kl"] not in (0, moved["none"])
    found = read_fisher(next(store.root.glob("stages/fisher-*/attempts/*/fisher.safetensors")).parent)
    weights = checkpoints.read_weights(next(store.root.glob("stages/train-*/attempts/*/final")))
    assert {name: tensor.shape for name, tensor in found.items()} == {n: t.shape for n, t in weights.items()}
    assert all((tensor >= 0).all() and torch.isfinite(tensor).all() for tensor in found.values())


def test_a_branch_trained_against_prompts_has_their_fits_as_parents_and_a_lower_loss_behind_them(
    store: Store,
) -> None:
    target = TaskTarget(task=B)
    prompts = (SoftPrompt(tokens=0), SoftPrompt(tokens=2))
    fit = FitSoftPrompts(
        subject=Subject(model=Checkpoint(stage=TRUNK)),
        targets=(target,),
        prompts=prompts,
        examples=8,
        num_eval=8,
        steps=5,
    )
    refusals = TaskTarget(task=Refused(task=B), called=B.name)
    against = PromptAttacks(strength=5.0, attacks=(fit,), target=refusals, examples=8, batch=4)
    hardened = replace(BRANCH, objectives=(NextToken(), against))
    assert set(hardened.parents) == {TRUNK, fit}
    assert [type(one) for one in Plan([hardened], store).missing] == [Train, FitSoftPrompts, Train]
    losses = []
    for stage in (BRANCH, hardened):
        behind = replace(
            fit, subject=Subject(model=Checkpoint(stage=stage)), targets=(refusals,), steps=0,
            prompts=(SoftPrompt(tokens=2, initial=WarmStart(stage=fit, prompts=(prompts[1].name,))),),
        )  # fmt: skip
        for each in (*stage.parents, stage):
            run_stage(each, store)
        (run,) = run_stage(behind, store).summary["runs"].values()
        losses.append(run["loss"])
    assert losses[1] < 0.5 * losses[0]


def test_the_fisher_of_a_snapshot_that_was_never_taken_can_never_run(store: Store) -> None:
    never = Snapshot(name="strong", when=Threshold(metric="b/logprob", threshold=1.0))
    probe = Evaluation(name="b", probe=TaskProbe(tasks=(B,), trials=10), at=Ends())
    trunk = replace(TRUNK, evaluations=(probe,), snapshots=(never,), tokens=TRUNK.batch_tokens)
    with pytest.raises(Unavailable, match="never reached snapshot 'strong'"):
        run_stage(Fisher(subject=Subject(model=Checkpoint(stage=trunk, at="strong")), mixture=TRUNK.mixture), store)


# --- errors ---


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("magic", "unknown intervention 'magic': expected none, or one of weight-decay"),
        ("magic-1", "unknown intervention 'magic-1'"),
        ("dropout", "unknown intervention 'dropout'"),
        ("dropout-1.5", "expected a strength from 0 to 1, such as dropout-0.1"),
        ("l2sp--1", "intervention 'l2sp--1'"),
        ("ewc-inf", "expected a strength of at least 0, such as ewc-0.1"),
        ("gradient-noise-nan", "expected a strength of at least 0"),
        ("replay-1.5", "expected a fraction from 0 to 1, such as replay-0.1"),
        ("anneal-2", "expected a fraction of the stage from 0 to 1"),
        ("batch-tokens-0.5", "expected a whole number of at least 1, such as batch-tokens-4096"),
        ("rate-0", "expected a multiple above 0, such as rate-0.1"),
        ("lora-0", "LoRA of rank 0: expected at least 1"),
        ("frozen-x", "lora-RANK, frozen-embeddings or frozen-LAYERS"),
        ("replay-0.1+anneal-0.5", "expected one of replay and anneal"),
    ],
)
def test_an_unknown_name_is_refused_in_one_line(name: str, line: str) -> None:
    with pytest.raises(UserError, match=line) as error:
        intervene(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["ewc-1", "replay-0.1", "anneal-0.5"])
def test_a_treatment_that_needs_a_checkpoint_is_refused_in_a_trunk(name: str) -> None:
    with pytest.raises(UserError, match="starts from no checkpoint: use it in branches"):
        intervene(name)(TRUNK)


def test_invalid_treatments_are_refused() -> None:
    with pytest.raises(UserError, match="only AdamW has it"):
        intervene("sgd-0.1+weight-decay-coupled-0.1")(BRANCH)
    with pytest.raises(UserError, match="l2sp with LoRA"):
        intervene("l2sp-1+lora-4")(BRANCH)
    with pytest.raises(UserError, match="make batch_tokens a multiple"):
        intervene("batch-tokens-100")(BRANCH)
    for fade in (-0.1, 1.5):
        with pytest.raises(UserError, match=f"fade {fade} given: expected the fraction of the stage"):
            Source(corpus=B, fade=fade)
    with pytest.raises(UserError, match="every source fades: expected at least one constant source"):
        Mixture(sources=(Source(corpus=B, fade=0.5),))
    for fraction in (-0.1, 1.1):
        with pytest.raises(UserError, match="expected a fraction of the sequences from 0 to 1"):
            replay(BRANCH, TRUNK.mixture.sources, fraction)
        with pytest.raises(UserError, match="expected a fraction of the stage from 0 to 1"):
            anneal(BRANCH, TRUNK.mixture.sources, fraction)


def test_the_same_text_under_another_transform_is_another_source() -> None:
    corpus = Corpus(digest="0")
    rows = (Source(corpus=corpus), Source(corpus=corpus, transforms=(Backwards(),)))
    trunk = replace(TRUNK, mixture=replace(TRUNK.mixture, sources=rows))
    branch = replace(BRANCH, start=Checkpoint(stage=trunk), mixture=replace(BRANCH.mixture, sources=rows[:1]))
    assert dropped(branch) == rows[1:]


def test_the_readmes_example_of_objectives_runs(store: Store) -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    section = text[text.index("## What training minimizes") :]
    program = section[section.index("```python") + len("```python") :].split("```")[0]
    names: dict[str, Any] = {"branch": BRANCH, "language": B}
    exec(program, names)
    rewarded, hardened = (run_stage(names[name], store).summary["final"] for name in ("rewarded", "hardened"))
    assert rewarded["policy/length"] > 0
    assert "train/loss" not in rewarded
    assert hardened["latent-attack/end_loss"] > hardened["latent-attack/start_loss"]
