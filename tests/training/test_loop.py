from __future__ import annotations

import json
import math

import pytest
import torch

from halflife.errors import Diverged, UserError
from halflife.evaluation.probes import Threshold
from halflife.models.ladder import Rung
from halflife.stages.train import Checkpoint
from halflife.training.checkpoints import WEIGHTS, read_optimizer, read_state, read_weights
from halflife.training.objectives import L2SP, NextToken
from halflife.training.optimizers import SGD, AdamW, Muon
from halflife.training.recipe import Snapshot
from halflife.training.schedules import Schedule
from tests.training.fakes import BATCH_TOKENS, Host, Interrupted, Stream, Ticking, recipe, run

TIMES = ("train/tokens_per_second",)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def timeless(values):
    return {name: value for name, value in values.items() if name not in TIMES}


def same_bits(a, b):
    return all(
        one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
        for one, other in ((read_weights(a), read_weights(b)), (read_optimizer(a), read_optimizer(b)))
    )


def test_every_evaluation_records_clocks_and_measures_in_tokens(tmp_path):
    host = Host(tmp_path)
    summary = run(recipe(), host)
    assert list(host.points) == [0, 4 * BATCH_TOKENS, 8 * BATCH_TOKENS, 12 * BATCH_TOKENS]
    assert set(host.points[0]) == {
        "clock/steps", "clock/learning_rate_sum", "clock/displacement", "clean/loss", "clean/tokens",
    }  # fmt: skip
    last = host.points[12 * BATCH_TOKENS]
    assert set(last) - set(host.points[0]) == {"train/loss", "train/gradient_norm", "train/tokens_per_second"}
    assert last["clock/steps"] == 12
    assert last["clock/learning_rate_sum"] == pytest.approx(0.12)
    assert host.points[0]["clock/displacement"] == 0.0
    assert last["clock/displacement"] > 0
    assert last["clean/loss"] < host.points[0]["clean/loss"]
    assert summary["final"] == last
    assert (summary["tokens"], summary["steps"], summary["reached"]) == (12 * BATCH_TOKENS, 12, None)
    assert json.loads(json.dumps(summary)) == summary


def test_parts_of_a_probe_are_recorded_as_tasks(tmp_path):
    host = Host(tmp_path)
    run(recipe(), host, measures={"clean": lambda model: {"loss": 1.0, "0/hits": 2.0, "words/hits": 3.0}})
    assert {"clean/loss": 1.0, "clean-0/hits": 2.0, "clean-words/hits": 3.0}.items() <= host.points[0].items()


def test_reported_seconds_add_up_to_those_of_the_summary(tmp_path):
    host = Host(tmp_path)
    summary = run(recipe(), host)
    assert host.seconds == pytest.approx(summary["seconds_training"] + summary["seconds_evaluating"])
    assert host.reports[-1][:2] == (12 * BATCH_TOKENS, 12 * BATCH_TOKENS)


@pytest.mark.parametrize(
    ("interrupt_at", "optimizer"),
    [(1, AdamW(learning_rate=0.01, weight_decay=0.01)), (4, SGD(learning_rate=0.1)), (7, Muon(learning_rate=0.01)),
     (11, AdamW(learning_rate=0.01, weight_decay=0.01))],
)  # fmt: skip
def test_a_resumed_run_ends_with_the_same_bits_as_an_uninterrupted_one(tmp_path, interrupt_at, optimizer):
    stage = recipe(
        optimizer=optimizer,
        dropout=0.1,
        objectives=(NextToken(), L2SP(strength=0.5)),
        schedule=Schedule(shape="cosine", warmup=0.2),
        snapshots=(Snapshot(name="early", when=Threshold(metric="clock/steps", threshold=4)),),
    )
    uninterrupted = Host(tmp_path / "a")
    expected = run(stage, uninterrupted)
    first = Host(tmp_path / "b", interrupt_at=interrupt_at)
    with pytest.raises(Interrupted):
        run(stage, first, checkpoint_seconds=0.5, clock=Ticking())
    second = Host(tmp_path / "c", resume=first.checkpoints[-1])
    summary = run(stage, second)
    assert same_bits(tmp_path / "a/final", tmp_path / "c/final")
    assert same_bits(tmp_path / "a/snapshots/early", tmp_path / "c/snapshots/early")
    assert summary["snapshots"] == expected["snapshots"] == {"early": 4 * BATCH_TOKENS}
    kept = {step: values for step, values in first.points.items() if step <= interrupt_at * BATCH_TOKENS}
    joined = {step: timeless(values) for step, values in (kept | second.points).items()}
    assert joined == {step: timeless(values) for step, values in uninterrupted.points.items()}


def test_only_the_newest_resumable_checkpoint_is_kept(tmp_path):
    host = Host(tmp_path)
    run(recipe(), host, checkpoint_seconds=0.5, clock=Ticking())
    assert len(host.checkpoints) > 2
    assert [folder for folder in host.checkpoints if folder.exists()] == [host.checkpoints[-1]]


def test_a_corrupt_resumable_checkpoint_is_ignored(tmp_path):
    expected = Host(tmp_path / "a")
    run(recipe(), expected)
    first = Host(tmp_path / "b", interrupt_at=6)
    with pytest.raises(Interrupted):
        run(recipe(), first, checkpoint_seconds=0.5, clock=Ticking())
    weights = first.checkpoints[-1] / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1])
    second = Host(tmp_path / "c", resume=first.checkpoints[-1])
    with pytest.warns(UserWarning, match="starts over"):
        run(recipe(), second)
    assert same_bits(tmp_path / "a/final", tmp_path / "c/final")
    assert list(second.points) == list(expected.points)


def test_seeds_and_dropout_change_the_weights_and_a_repetition_does_not(tmp_path):
    for name, stage in {
        "a": recipe(), "b": recipe(), "seed": recipe(seed=1), "dropout": recipe(dropout=0.2),
    }.items():  # fmt: skip
        run(stage, Host(tmp_path / name))
    assert same_bits(tmp_path / "a/final", tmp_path / "b/final")
    for name in ("seed", "dropout"):
        assert not same_bits(tmp_path / "a/final", tmp_path / name / "final")


def test_until_stops_at_the_first_evaluation_at_which_it_holds(tmp_path):
    host = Host(tmp_path)
    summary = run(recipe(until=Threshold(metric="clock/steps", threshold=5)), host)
    assert summary["reached"] == summary["tokens"] == 8 * BATCH_TOKENS
    assert list(host.points)[-1] == 8 * BATCH_TOKENS


def test_until_that_holds_at_the_start_trains_nothing(tmp_path):
    summary = run(recipe(until=Threshold(metric="clean/loss", threshold=9.0, at_most=True)), Host(tmp_path))
    assert (summary["reached"], summary["steps"], summary["tokens_per_second"]) == (0, 0, None)
    assert (tmp_path / "final" / WEIGHTS).exists()


def test_a_share_is_hits_over_trials(tmp_path):
    def half(model):
        return {"hits": 3.0, "trials": 6.0}

    for threshold, reached in ((0.5, 0), (0.51, None)):
        until = Threshold(metric="clean/hits", threshold=threshold, share=True)
        summary = run(recipe(until=until), Host(tmp_path / str(threshold)), measures={"clean": half})
        assert summary["reached"] == reached


def test_a_snapshot_holds_the_weights_of_its_evaluation(tmp_path):
    stage = recipe(snapshots=(Snapshot(name="at-4", when=Threshold(metric="clock/steps", threshold=4)),))
    run(stage, Host(tmp_path / "a"))
    run(recipe(tokens=4 * BATCH_TOKENS), Host(tmp_path / "b"))
    assert same_bits(tmp_path / "a/snapshots/at-4", tmp_path / "b/final")


def test_a_loss_that_is_not_finite_names_its_step(tmp_path):
    seen = []

    def spoil_at_the_second(model):
        seen.append(model)
        if len(seen) == 2:
            model.head.weight.fill_(math.nan)
        return {"loss": 0.0}

    host = Host(tmp_path)
    with pytest.raises(Diverged, match=r"the training loss became nan at step 4, after 256 tokens"):
        run(recipe(), host, measures={"clean": spoil_at_the_second})
    assert list(host.points) == [0, 4 * BATCH_TOKENS]


def test_weights_that_are_not_finite_diverge_even_after_the_last_loss(tmp_path):
    stage = recipe(tokens=BATCH_TOKENS, optimizer=SGD(learning_rate=1e42, weight_decay=0.0))
    with pytest.raises(Diverged, match="weights"):
        run(stage, Host(tmp_path))


def fork(tmp_path, **changes):
    """A branch of BASE's trunk; the trunk's final checkpoint is in trunk/final."""
    trunk = recipe(schedule=Schedule(shape="wsd", decay=0.5, final=0.25))
    if not (tmp_path / "trunk").exists():
        run(trunk, Host(tmp_path / "trunk"))
    return recipe(start=Checkpoint(stage=trunk), tokens=4 * BATCH_TOKENS, **changes)


def branch(tmp_path, name, **changes):
    host = Host(tmp_path / name)
    run(fork(tmp_path, **changes), host, start=tmp_path / "trunk/final", batches=Stream("branch"))
    return host


def test_a_branch_starts_with_its_trunks_weights(tmp_path):
    host = branch(tmp_path, "branch")
    assert host.points[0]["clock/displacement"] == 0.0
    stage = recipe(schedule=Schedule(shape="wsd", decay=0.5, final=0.25))
    assert host.points[0]["clean/loss"] == run(stage, Host(tmp_path / "again"))["final"]["clean/loss"]


def test_carried_and_reset_optimizer_states_differ_from_the_first_step(tmp_path):
    branch(tmp_path, "carry")
    branch(tmp_path, "reset", optimizer_state="reset")
    assert not same_bits(tmp_path / "carry/final", tmp_path / "reset/final")
    steps = read_optimizer(tmp_path / "carry/final")["step.embed.weight"]
    assert steps.item() == 16
    assert read_optimizer(tmp_path / "reset/final")["step.embed.weight"].item() == 4


def test_continue_keeps_the_multiplier_that_the_trunk_ended_with(tmp_path):
    host = branch(tmp_path, "branch", schedule=Schedule(shape="continue"))
    assert host.points[4 * BATCH_TOKENS]["clock/learning_rate_sum"] == pytest.approx(4 * 0.01 * 0.25)
    assert read_state(tmp_path / "branch/final")["progress"]["lr_multiplier"] == pytest.approx(0.25)


def test_a_branch_resumed_keeps_measuring_displacement_from_the_fork(tmp_path):
    whole = branch(tmp_path, "whole")
    first = Host(tmp_path / "first", interrupt_at=2)
    arguments = {"start": tmp_path / "trunk/final", "batches": Stream("branch")}
    with pytest.raises(Interrupted):
        run(fork(tmp_path), first, checkpoint_seconds=0.5, clock=Ticking(), **arguments)
    second = Host(tmp_path / "second", resume=first.checkpoints[-1])
    run(fork(tmp_path), second, **arguments)
    assert timeless(second.points[4 * BATCH_TOKENS]) == timeless(whole.points[4 * BATCH_TOKENS])


def test_a_checkpoint_of_another_vocabulary_is_refused(tmp_path):
    class Larger(Stream):
        vocabulary = 64

    with pytest.raises(UserError, match="vocabulary"):
        run(fork(tmp_path), Host(tmp_path / "x"), start=tmp_path / "trunk/final", batches=Larger())


def test_a_corrupt_start_is_an_error_not_a_fresh_model(tmp_path):
    stage = fork(tmp_path)
    (tmp_path / "trunk/final" / WEIGHTS).unlink()
    with pytest.raises(UserError, match="cannot start"):
        run(stage, Host(tmp_path / "x"), start=tmp_path / "trunk/final")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": 0}, "at least 1"),
        ({"batch_tokens": 100}, "make batch_tokens a multiple, such as 112"),
        ({"dropout": 1.0}, "dropout"),
        ({"max_grad_norm": 0.0}, "max_grad_norm"),
        ({"optimizer": "lion"}, "optimizer 'lion' given: expected an AdamW, an SGD or a Muon"),
        ({"schedule": Schedule(shape="continue")}, "a fresh rung has no learning rate"),
        ({"until": Threshold(metric="backdoor/hits", threshold=1)}, "waits for"),
        ({"snapshots": (Snapshot(name="../up", when=Threshold(metric="clean/loss", threshold=1)),)}, "snapshot"),
        ({"start": Checkpoint(stage=recipe(optimizer=SGD(learning_rate=0.1)))}, "optimizer_state='reset'"),
    ],
)
def test_contradictory_fields_are_refused_before_any_compute(changes, message):
    with pytest.raises(UserError, match=message):
        recipe(**changes)


def test_a_checkpoint_at_a_snapshot_that_its_stage_does_not_keep_is_refused():
    with pytest.raises(UserError, match="'strong': its stage keeps none and 'final'"):
        Checkpoint(stage=recipe(), at="strong")


@pytest.mark.parametrize(
    "fields", [{"learning_rate": 0.0}, {"learning_rate": math.nan}, {"learning_rate": 1, "weight_decay": -1}]
)
def test_learning_rates_must_be_positive_and_decay_not_negative(fields):
    for optimizer in (AdamW, SGD):
        with pytest.raises(UserError, match="expected"):
            optimizer(**fields)


def test_the_cost_counts_training_and_evaluation():
    bare = recipe(evaluations=()).cost
    assert bare.tokens == 12 * BATCH_TOKENS
    assert bare.flops == 12 * BATCH_TOKENS * Rung(size="20k").flops_per_token(16, 257)
    assert recipe().cost.flops > bare.flops
    assert recipe(start=Rung(size="1m")).cost.memory_bytes > 5 * bare.memory_bytes
    snapshots = (Snapshot(name="a", when=Threshold(metric="clean/loss", threshold=1)),)
    assert recipe(snapshots=snapshots).cost.disk_bytes > recipe().cost.disk_bytes
