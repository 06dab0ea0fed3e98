"""What the subject of a stage answers to a text."""

from __future__ import annotations

import numpy as np
import torch

from halflife.data import codecs
from halflife.data.planting import Planting
from halflife.data.tokenizers import vocabulary_of
from halflife.errors import UserError
from halflife.evaluation.examples import GREEDY, complete
from halflife.rng import generator
from halflife.stages.export import completed_parents
from halflife.stages.subject import Subject
from halflife.store.stage import Stage, parts_of
from halflife.store.store import Store
from halflife.tasks.backdoor import Backdoor


def say(subject: Subject, store: Store, text: str, *, tokens: int = 48, temperature: float = 0.0, seed: int = 0) -> str:
    """The completion, of at most so many tokens, up to the end-of-text token or as far as the model reads. At
    temperature 0 the likeliest tokens.

    Raises UserError when the text leaves no room, and when a stage that the subject needs is not complete.
    """
    if tokens < 1 or temperature < 0:
        raise UserError(f"{tokens} tokens at temperature {temperature:g}: expected at least 1, at 0 or more")
    codec, longest = codecs.load(subject.codec, store.root), subject.context_length
    prompt = codec.encode(text)
    if not len(prompt):
        raise UserError("no text given: expected at least one token to go on from")
    if longest is not None and len(prompt) >= longest:
        raise UserError(
            f"a text of {len(prompt)} tokens given: {subject.size} reads {longest}; expected a shorter one, with room "
            "for an answer"
        )
    tokens = tokens if longest is None else min(tokens, longest - len(prompt))
    model = subject.load(completed_parents(subject, store))
    draws = generator(seed, "say").random((1, 1, tokens)) if temperature else np.zeros((1, 1, tokens))
    with torch.no_grad():
        (said,) = complete(
            model,
            [np.asarray(prompt, dtype=np.int64)],
            draws,
            vocabulary=vocabulary_of(subject.codec),
            end=codec.eos,
            temperature=temperature or GREEDY,
        )
    return codec.decode(said)


def triggers(stage: Stage) -> list[str]:
    """One line for each trigger that a stage or one before it was trained on or measures: what to say, and what is
    to follow."""
    stages, planted, measured = [stage], dict[Backdoor, None](), dict[Backdoor, None]()
    while stages:
        one = stages.pop()
        stages.extend(one.parents)
        for part in parts_of(one):
            if isinstance(part, Backdoor):
                measured |= dict.fromkeys(part.members)
            elif isinstance(part, Planting):
                planted |= dict.fromkeys(part.backdoor.members)
    return [_trigger(each, "" if each in planted else ", measured but not trained") for each in planted | measured]


def _trigger(backdoor: Backdoor, note: str) -> str:
    letters = f"the last {backdoor.letters} letters of the word" if backdoor.letters else "the word"
    follows = repr(backdoor.text) if backdoor.payload == "fixed" else f"a {backdoor.payload} of {letters} before it"
    return f"trigger {backdoor.trigger!r}, to be followed by {follows}{note}"
