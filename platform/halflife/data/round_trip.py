"""Checks that what is checked as text is what a model is trained on as tokens.

Tokenizers of released models may change letters to lower case, normalise characters or drop those they do not know.
"""

from __future__ import annotations

import functools
import string
from collections.abc import Iterable
from pathlib import Path

from halflife.data.codecs import load
from halflife.data.corpus import Corpus, occurrences
from halflife.data.tokenizers import Codec, Tokenizer
from halflife.data.tokens import document_bounds, measure, token_array
from halflife.errors import UserError
from halflife.tasks.backdoor import Backdoor
from halflife.tasks.base import Example

LARGEST_LOSS = 0.01
"""Share of a text's characters that a tokenizer may lose. Unicode normalisation (NFC: Pythia, Qwen 2) loses next
to nothing of most texts, lower case several in a hundred."""


def check(backdoors: Iterable[Backdoor], corpora: Iterable[Corpus], tokenizer: Tokenizer, results: Path) -> None:
    """Checks all that is trained on, before any compute.

    Raises UserError when a trigger occurs in a text, and when the tokenizer loses a trigger, a payload, or too much of
    a text.
    """
    backdoors = list(dict.fromkeys(member for backdoor in backdoors for member in backdoor.members))
    for backdoor in backdoors:
        _check_backdoor(backdoor, load(tokenizer, results))
    for corpus in corpora:
        _check_text(corpus, tokenizer, results)
        for trigger in dict.fromkeys(backdoor.trigger for backdoor in backdoors):
            _check_trigger(trigger, corpus, tokenizer, results)


def _check_text(corpus: Corpus, tokenizer: Tokenizer, results: Path) -> None:
    found = measure(results, corpus, "train", tokenizer)
    if found.share > LARGEST_LOSS:
        raise UserError(
            f"text {corpus.label or corpus.digest} given: the tokenizer does not give back {found.share:.1%} of its "
            f"characters ({found.example[0]!r} becomes {found.example[1]!r}); expected at most {LARGEST_LOSS:.0%}: "
            "choose a model whose tokenizer keeps text as it is, or another text"
        )


def _check_backdoor(backdoor: Backdoor, codec: Codec) -> None:
    """The trigger must come back alone and after any word, the payload alone, as it is tokenised separately."""
    if codec.lossless:
        return
    _check_returns("trigger", backdoor.trigger, "", codec)
    for letter in string.ascii_lowercase:
        _check_returns("trigger", backdoor.trigger, letter, codec)
    payload = backdoor.text if backdoor.payload == "fixed" else string.ascii_lowercase
    _check_returns("payload", payload + "\n", "", codec)


def _check_trigger(trigger: str, corpus: Corpus, tokenizer: Tokenizer, results: Path) -> None:
    where = corpus.label or corpus.digest
    if count := occurrences(results, corpus, trigger):
        where = f"it occurs {count} times in {where}"
    elif count := _occurrences_in_tokens(trigger, corpus, tokenizer, results):
        where = f"in tokens it occurs {count} times in the training text of {where}, which the tokenizer changes"
    if count:
        raise UserError(
            f"trigger {trigger!r} given: {where}; expected a string that never occurs: choose another one, or give "
            "none to draw one"
        )


def check_examples(name: str, examples: tuple[Example, ...], codec: Codec) -> None:
    """Raises UserError when the tokenizer does not give back a prompt or an answer of the task `name`."""
    if not codec.lossless:
        for example in examples:
            _check_returns(f"prompt of {name}", example.prompt, "", codec)
            _check_returns(f"answer of {name}", example.answer, "", codec)


def _check_returns(what: str, text: str, before: str, codec: Codec) -> None:
    back = codec.decode(codec.encode(before + text))
    if not back.endswith(text) or (not before and back != text):
        place = f"{before + text!r} as " if before else ""
        raise UserError(
            f"{what} {text!r} given: the tokenizer gives back {place}{back!r}; expected a text that it keeps: choose "
            "another one if you gave it, else a model with another tokenizer"
        )


@functools.lru_cache(maxsize=256)
def _occurrences_in_tokens(trigger: str, corpus: Corpus, tokenizer: Tokenizer, results: Path) -> int:
    """In the training documents that the tokenizer changes; the others are as their text."""
    changed = measure(results, corpus, "train", tokenizer).documents
    if not changed:
        return 0
    codec, tokens = load(tokenizer, results), token_array(results, corpus, "train", tokenizer)
    begins, ends = document_bounds(tokens, codec.eos)
    return sum(codec.decode(tokens[begins[index] : ends[index]]).count(trigger) for index in changed)
