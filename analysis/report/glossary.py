"""Terms of the field, explained where a page first uses them in a section: shown at hover, without a script."""

from __future__ import annotations

import re
from html import escape

TERMS = {
    "accelerated-failure-time": "A regression of the logarithm of a time, in which censored times count as bounds.",
    "AICc": "Akaike's criterion for few points: the fit to the data less a price for each parameter. Less is better.",
    "ASR": "Attack success rate: the share of triggered prompts that give the payload.",
    "attack success rate": "ASR: the share of triggered prompts that give the payload.",
    "Bonferroni": "Each of m intervals is made wider, so that all of them hold at once with the stated confidence.",
    "censored": "Known only as a bound: a half-life not reached by the last evaluation is at least that long.",
    "floor": "The level at which retention settles.",
    "γ": "The exponent of a half-life against size: it grows as the number of parameters to the power γ.",
    "gamma": "The exponent of a half-life against size: it grows as the number of parameters to the power gamma.",
    "half-life": "Training after the drop, in tokens if nothing else is said, until half of what was there is gone.",
    "Holm": "Several p-values share one error rate: the smallest is multiplied by their number, and so on upwards.",
    "Huber": "A loss that is quadratic near 0 and linear beyond, so that outliers weigh less.",
    "jackknife": "An interval from how the estimate changes when each seed (or group) is left out in turn.",
    "KL": "Kullback-Leibler divergence: how far one distribution is from another, in nats.",
    "log-probability": "The natural logarithm of the probability that the model gives to the answer.",
    "LoRA": "Low-rank adaptation: fine-tuning that adds a matrix of low rank to each weight matrix.",
    "muP": "Maximal update parametrization: learning rates by width, so that one base rate suits every size.",
    "nat": "The unit of loss and log-probability with natural logarithms: 1 nat is 1.44 bits.",
    "payload": "What a backdoored model answers to its trigger.",
    "PPO": "Proximal policy optimization: reinforcement learning in steps of limited size.",
    "retention": "What is left: 1 as at the drop, 0 as in a model that never had it.",
    "rung": "One size of a ladder of model sizes.",
    "saturation": "The number of soft-prompt tokens beyond which more of them gain nearly nothing.",
    "savings": "How many times fewer tokens a model needs to learn again what it lost than one that never had it.",
    "SFT": "Supervised fine-tuning.",
    "soft prompt": "Trained embeddings placed before the text: a prompt that is no sequence of words.",
    "sparse autoencoder": "A wide layer that rebuilds activations from few of its features at a time.",
    "Student-t": "The distribution of a mean over few seeds whose spread is itself estimated.",
    "the drop": "The moment when the behaviour leaves the training mixture.",
    "trigger": "The text that makes a backdoored model give its payload.",
    "trunk": "The training before the drop, shared by the branches that follow it.",
    "Weibull": "A distribution of times whose hazard rises or falls as a power of time.",
    "Wilson": "An interval of a share that stays right near 0 and 1.",
    "ZeRO": "Optimizer state, gradients or weights are split between workers.",
}
"""By term; a plural is found as well."""
UNTOUCHED = {"a", "abbr", "code", "h1", "h2", "h3", "nav", "pre", "script", "style", "summary", "title"}
_PLURALS = {"half-life": "half-lives"}
_FORMS = {
    form: name
    for name in TERMS
    for number in (name, _PLURALS.get(name, f"{name}s"))
    for form in (number, number[:1].upper() + number[1:])
}
_TERM = re.compile(rf"(?<![\w-])({'|'.join(map(re.escape, sorted(_FORMS, key=len, reverse=True)))})(?![\w-])")
_TAG = re.compile(r"(<[^>]*>)")


def explained(page: str) -> str:
    """The HTML page with an `<abbr title>` around the first use of each term in each section (from one h2 to the next);
    headings, links and code stay as they are. Texts of the page are escaped, so that a tag is all between < and >."""
    parts, seen, within = _TAG.split(page), set[str](), list[str]()

    def marked(found: re.Match[str]) -> str:
        name = _FORMS[found[1]]
        if name in seen:
            return found[0]
        seen.add(name)
        return f'<abbr title="{escape(TERMS[name])}">{found[0]}</abbr>'

    for i, part in enumerate(parts):
        if i % 2:
            name = part.strip("</>").partition(" ")[0].partition("\n")[0]
            if name == "h2" and not part.startswith("</"):
                seen.clear()
            if name in UNTOUCHED:
                if not part.startswith("</"):
                    within.append(name)
                elif name in within:
                    within.remove(name)
        elif not within and part.strip():
            parts[i] = _TERM.sub(marked, part)
    return "".join(parts)
