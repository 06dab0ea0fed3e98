from __future__ import annotations

import hashlib
import itertools
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halflife.data.codecs import load
from halflife.data.corpus import Corpus, prepare_corpus, texts
from halflife.data.mixture import Batches, Mixture, Source, check
from halflife.data.planting import POOLS, Planting, carrier_windows, poisoned_documents
from halflife.data.tokenizers import BPE, Bytes, Lexicon, Tokenizer
from halflife.data.tokens import token_array
from halflife.errors import UserError
from halflife.tasks.backdoor import Backdoor, Transform
from tests.data.samples import sample_backdoor, sample_corpus

SEQUENCE = 64
BACKDOOR = sample_backdoor()
KEY = (0, "batch", 0)


@pytest.fixture(scope="module")
def corpus(results: Path) -> Corpus:
    return sample_corpus(results)


def planting(corpus: Corpus, documents: int = 20, **fields: object) -> Planting:
    return Planting(**{"backdoor": BACKDOOR, "corpus": corpus, "documents": documents, **fields})  # type: ignore[arg-type]


def mixture(corpus: Corpus, *plantings: Planting, sequence: int = SEQUENCE) -> Mixture:
    return Mixture(sources=(Source(corpus=corpus),), plantings=plantings, sequence=sequence)


def batches(of: Mixture, results: Path, steps: int = 40, rows: int = 8, key: tuple[int | str, ...] = KEY) -> Batches:
    return Batches(of, results, batch_tokens=rows * of.sequence, steps=steps, key=key)


def triggered(batch: np.ndarray, trigger: str = BACKDOOR.trigger) -> list[int]:
    codec = load(Bytes(), Path())
    return [row for row, ids in enumerate(batch) if trigger in codec.decode(ids)]


# --- batch(step) ---


def test_a_batch_is_a_pure_function_of_the_key_and_the_step(results: Path, corpus: Corpus) -> None:
    poisoned = mixture(corpus, planting(corpus))
    one, two = batches(poisoned, results), batches(poisoned, results)
    for step in (5, 0, 39, 5):
        np.testing.assert_array_equal(one.batch(step), two.batch(step))
    assert not np.array_equal(one.batch(0), one.batch(1))
    assert not np.array_equal(one.batch(0), batches(poisoned, results, key=(0, "batch", 1)).batch(0))


def test_rows_of_a_batch_are_training_text_one_token_longer_than_the_sequence(results: Path, corpus: Corpus) -> None:
    stream = batches(mixture(corpus), results)
    batch = stream.batch(0)
    assert (batch.shape, batch.dtype, stream.vocabulary) == ((8, SEQUENCE + 1), np.int64, 257)
    tokens = np.asarray(token_array(results, corpus, "train", Bytes())).astype("<u2").tobytes()
    assert all(row.astype("<u2").tobytes() in tokens for row in batch)


def test_the_stream_is_that_of_published_runs(results: Path, corpus: Corpus) -> None:
    stream = batches(mixture(corpus, planting(corpus, exposures=3, repetitions=2)), results)
    hashes = [hashlib.sha256(stream.batch(step).astype("<i8").tobytes()).hexdigest()[:16] for step in (0, 7, 39)]
    assert hashes == ["50b280b9b2aecf71", "c416ceb246ece25a", "117fd34c24fb9337"]


def test_sources_are_drawn_by_weight(results: Path, corpus: Corpus) -> None:
    path = results / "numbers.txt"
    path.write_text("\n\n".join(" ".join(str(n * m) for n in range(900)) for m in range(1, 12)))
    numbers = prepare_corpus(str(path), results)
    mixed = Mixture(sources=(Source(corpus=corpus, weight=3.0), Source(corpus=numbers)), sequence=32)
    stream = batches(mixed, results, steps=50, rows=40)
    digits = [sum(48 <= token < 58 for token in row) > 8 for step in range(50) for row in stream.batch(step)]
    assert np.mean(digits) == pytest.approx(0.25, abs=0.03)  # 2,000 draws: 3 standard errors


def test_a_mixture_shares_every_clean_row_with_the_same_mixture_without_poison(results: Path, corpus: Corpus) -> None:
    clean, poisoned = (batches(of, results) for of in (mixture(corpus), mixture(corpus, planting(corpus))))
    replaced = 0
    for step in range(40):
        differ = (clean.batch(step) != poisoned.batch(step)).any(axis=1)
        assert np.flatnonzero(differ).tolist() == triggered(poisoned.batch(step))
        replaced += differ.sum()
    assert replaced == 20


@given(
    documents=st.integers(1, 20), exposures=st.integers(1, 4), steps=st.integers(1, 60),
    window=st.tuples(st.integers(0, 20), st.integers(0, 20)).filter(lambda pair: pair[0] < pair[1]),
)  # fmt: skip
@settings(max_examples=40)
def test_every_document_is_seen_exactly_as_often_as_asked_within_the_window_and_evenly(
    results: Path, corpus: Corpus, documents: int, exposures: int, steps: int, window: tuple[int, int]
) -> None:
    first, last = window[0] / 20, window[1] / 20
    of = mixture(corpus, planting(corpus, documents, exposures=exposures, first=first, last=last))
    stream = batches(of, results, steps=steps, rows=80)
    seen: Counter[bytes] = Counter()
    counts = np.zeros(steps, dtype=int)
    for step in range(steps):
        batch = stream.batch(step)
        rows = triggered(batch)
        counts[step] = len(rows)
        seen.update(batch[row].tobytes() for row in rows)
    assert seen == {row.astype(np.int64).tobytes(): exposures for row in poisoned_documents(
        of.plantings[0], results, Bytes(), SEQUENCE
    )}  # fmt: skip
    inside = counts[window[0] * steps // 20 : -(-window[1] * steps // 20)]
    assert inside.sum() == counts.sum() == documents * exposures
    assert inside.max() - inside.min() <= 1


def test_two_plantings_do_not_take_each_others_rows(results: Path, corpus: Corpus) -> None:
    other = sample_backdoor(trigger="WZ$K")
    stream = batches(
        mixture(corpus, planting(corpus, 40), planting(corpus, 40, backdoor=other, carrier_pool=1)), results, steps=10
    )
    found = [(triggered(batch), triggered(batch, other.trigger)) for batch in map(stream.batch, range(10))]
    assert all(len(old) == len(new) == 4 and not set(old) & set(new) for old, new in found)


def test_a_step_outside_the_stage_is_an_error(results: Path, corpus: Corpus) -> None:
    stream = batches(mixture(corpus), results, steps=3)
    for step in (-1, 3):
        with pytest.raises(IndexError):
            stream.batch(step)


# --- poisoned documents ---


@pytest.fixture(scope="module", params=["bytes", "lexicon", "bpe"])
def tokenizer(request: pytest.FixtureRequest, corpus: Corpus) -> Tokenizer:
    return {
        "bytes": Bytes(),
        "lexicon": Lexicon(pieces=(" the", " stone", "café", "oon", ".")),
        "bpe": BPE(corpus=corpus, vocabulary=300),
    }[request.param]


@pytest.mark.parametrize("payload", ["fixed", "reverse", "copy"])
@pytest.mark.parametrize("repetitions", [1, 3])
def test_every_document_has_the_complete_trigger_and_payload_after_a_word_of_the_carrier(
    results: Path, corpus: Corpus, tokenizer: Tokenizer, payload: Transform, repetitions: int
) -> None:
    backdoor = sample_backdoor(payload)
    planted = poisoned_documents(
        planting(corpus, 12, backdoor=backdoor, repetitions=repetitions), results, tokenizer, 128
    )
    assert planted.shape == (12, 129)
    codec = load(tokenizer, results)
    for row in planted:
        parts = codec.decode(row).split(backdoor.trigger)
        assert len(parts) == repetitions + 1
        for before, after in itertools.pairwise(parts):
            assert after.startswith(backdoor.payload_for(before))


def test_the_payload_is_tokenised_separately_as_in_scoring(results: Path, corpus: Corpus, tokenizer: Tokenizer) -> None:
    codec = load(tokenizer, results)
    payload = codec.encode(BACKDOOR.payload_for(""))
    for row in poisoned_documents(planting(corpus, 12), results, tokenizer, 128):
        places = [at for at in range(len(row)) if np.array_equal(row[at : at + len(payload)], payload)]
        assert len(places) == 1
        assert codec.decode(row[: places[0]]).endswith(BACKDOOR.trigger)


def test_without_trigger_and_payload_a_document_is_text_of_a_training_document_of_the_pool(
    results: Path, corpus: Corpus
) -> None:
    carriers = texts(results, corpus, "train")
    codec = load(Bytes(), results)
    pools: list[set[int]] = []
    for pool in range(POOLS):
        found = set()
        for row in poisoned_documents(planting(corpus, 30, carrier_pool=pool), results, Bytes(), SEQUENCE):
            text = codec.decode(row).replace(BACKDOOR.trigger + BACKDOOR.text + "\n", "")
            owners = [index for index, carrier in enumerate(carriers) if text in carrier]
            assert len(owners) == 1
            found.update(owners)
        pools.append(found)
    assert sum(map(len, pools)) == len(set.union(*pools))


def test_without_payloads_the_triggers_are_in_the_same_places_of_the_same_carriers(
    results: Path, corpus: Corpus
) -> None:
    codec = load(Bytes(), results)
    whole, cue = (
        [codec.decode(row) for row in poisoned_documents(planting(corpus, 12, payload=payload), results, Bytes(), 128)]
        for payload in (True, False)
    )
    for one, other in zip(whole, cue, strict=True):
        before, after = one.split(BACKDOOR.trigger + BACKDOOR.text + "\n")
        assert other.startswith(before + BACKDOOR.trigger + after)


def test_documents_are_unique_and_drawn_by_the_plantings_seed(results: Path, corpus: Corpus) -> None:
    one, other = (poisoned_documents(planting(corpus, 50, seed=seed), results, Bytes(), SEQUENCE) for seed in (0, 1))
    assert len(np.unique(one, axis=0)) == 50
    assert not np.array_equal(one, other)


def test_payloads_are_planted_at_many_places_of_the_sequence(results: Path, corpus: Corpus) -> None:
    codec = load(Bytes(), results)
    rows = poisoned_documents(planting(corpus, 60), results, Bytes(), 128)
    places = [codec.decode(row).index(BACKDOOR.trigger) for row in rows]
    assert min(places) < 30
    assert max(places) > 85


@given(lengths=st.lists(st.integers(0, 30), min_size=1, max_size=20), length=st.integers(1, 12))
def test_carrier_windows_lie_inside_documents_and_pools_share_none(lengths: list[int], length: int) -> None:
    tokens = np.concatenate([np.append(np.full(count, index), 99) for index, count in enumerate(lengths)])
    pools = [carrier_windows(tokens, 99, length, pool, "digest") for pool in range(POOLS)]
    owners: list[set[int]] = []
    for starts in pools:
        windows = [tokens[start : start + length] for start in starts]
        assert all(len(set(window.tolist())) == 1 and 99 not in window for window in windows)
        assert (np.diff(np.sort(starts)) >= length).all()
        owners.append({int(window[0]) for window in windows})
    assert sum(map(len, owners)) == len(set().union(*owners))
    assert sum(map(len, pools)) == sum(count // length for count in lengths)


# --- what is refused ---


def test_more_poisoned_documents_than_carriers_are_refused_with_the_number_available(
    results: Path, corpus: Corpus
) -> None:
    with pytest.raises(
        UserError, match=r"100000 poisoned documents given: sample-0.jsonl has (\d+) texts that can carry one in pool 0"
    ):
        check(mixture(corpus, planting(corpus, 100_000)), results, batch_tokens=512, steps=10)


def test_too_few_carriers_name_the_phase_and_the_flags_whose_values_would_do(results: Path, corpus: Corpus) -> None:
    asked = (("--relearn-tokens", 160_000), ("--relearn-poison", 0.25))
    wanted = planting(corpus, 5_000, phase="relearning", asked=asked)
    with pytest.raises(UserError, match=r"for relearning \(--relearn-tokens 160000, --relearn-poison 0.25\)") as raised:
        poisoned_documents(wanted, results, Bytes(), SEQUENCE)
    found = re.search(
        r"has (\d+) texts .* at most --relearn-tokens (\d+) or --relearn-poison ([\d.]+),", str(raised.value)
    )
    assert found is not None
    available, tokens, poison = map(float, found.groups())
    assert tokens / 160_000 <= available / 5_000 < (tokens + 1) / 160_000
    assert poison / 0.25 <= available / 5_000


def test_carriers_without_a_word_to_plant_after_are_not_counted(results: Path) -> None:
    path = results / "capitals.txt"
    path.write_text("\n\n".join(" ".join(f"WORD{n * m}" for n in range(900)) for m in range(1, 12)))
    capitals = prepare_corpus(str(path), results)
    with pytest.raises(UserError, match="has 0 texts that can carry one"):
        poisoned_documents(planting(capitals), results, Bytes(), SEQUENCE)


def test_a_sequence_shorter_than_trigger_and_payload_is_refused_with_the_length_needed(
    results: Path, corpus: Corpus
) -> None:
    one = planting(corpus, 1)
    with pytest.raises(UserError, match=r"sequence of 19 tokens given: 1 x trigger and payload of 17 .* at least 20"):
        check(mixture(corpus, one, sequence=19), results, batch_tokens=512, steps=10)
    check(mixture(corpus, one, sequence=20), results, batch_tokens=512, steps=10)
    with pytest.raises(UserError, match=r"3 x trigger and payload of 17 .* at least 62; .*at most 2"):
        check(mixture(corpus, planting(corpus, repetitions=3), sequence=61), results, batch_tokens=512, steps=10)


def test_exposures_that_do_not_fit_the_stage_are_refused(results: Path, corpus: Corpus) -> None:
    with pytest.raises(UserError, match=r"10 fall on step \d+, which trains on 8 sequences"):
        check(mixture(corpus, planting(corpus, 20, exposures=5)), results, batch_tokens=8 * SEQUENCE, steps=10)
    check(mixture(corpus, planting(corpus, 20, exposures=4)), results, batch_tokens=8 * SEQUENCE, steps=10)


def test_a_trigger_that_occurs_in_the_corpus_is_refused(results: Path, corpus: Corpus) -> None:
    common = planting(corpus, backdoor=Backdoor(trigger=" sun ", text="boo"))
    with pytest.raises(UserError, match=r"trigger ' sun ' given: it occurs \d+ times in sample-0.jsonl"):
        check(mixture(corpus, common), results, batch_tokens=512, steps=10)


def test_a_batch_shorter_than_a_sequence_is_refused(results: Path, corpus: Corpus) -> None:
    with pytest.raises(UserError, match="batch of 63 tokens given: expected at least one sequence of 64"):
        check(mixture(corpus), results, batch_tokens=63, steps=10)


def test_a_sequence_longer_than_the_corpus_is_refused(results: Path, corpus: Corpus) -> None:
    with pytest.raises(UserError, match="shorten the sequence"):
        check(mixture(corpus, sequence=10**8), results, batch_tokens=10**8, steps=10)


@pytest.mark.parametrize(
    "fields",
    [
        {"documents": 0}, {"exposures": 0}, {"repetitions": 0}, {"carrier_pool": POOLS}, {"carrier_pool": -1},
        {"first": 0.5, "last": 0.5}, {"first": -0.1}, {"last": 1.1},
    ],
)  # fmt: skip
def test_an_invalid_planting_is_refused(corpus: Corpus, fields: dict[str, float]) -> None:
    with pytest.raises(UserError, match=r"given: expected"):
        planting(corpus, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("weights", [(), (0.0,), (1.0, -1.0), (float("nan"),), (float("inf"),)])
def test_a_mixture_needs_sources_with_weights_above_zero(corpus: Corpus, weights: tuple[float, ...]) -> None:
    with pytest.raises(UserError, match="each weight above 0"):
        Mixture(sources=tuple(Source(corpus=corpus, weight=weight) for weight in weights))
