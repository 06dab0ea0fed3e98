"""Readings of trials that take more than one measure: their names, for questions. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Derived:
    """A reading that analysis computes from more than one measure (analysis.answers.derived): one row per trial, or per
    trial and item."""

    text: str
    """What it is, for which trials, and when it is censored."""
    items: tuple[str, ...] = ()
    """Columns that it adds to those of trials; a question may name them as axis, as items or in `where`."""
    phase: str = ""
    """Beginning of the name of a phase that it is read from."""


_PROMPT_ITEMS = ("moment", "kind", "length")
"""moment: when prompts were fitted, by the phase (`prompts-at-the-drop`: "at the drop"; `prompts`: ""). kind, length:
of a behaviour such as `say-16` ("say", 16); kind is the whole name where there is no number, and length null."""
DERIVED = {
    "prompt_loss": Derived(
        text="held-out loss, nats per token of the answer, with the best restart (by training loss) of each k",
        items=("k", *_PROMPT_ITEMS),
        phase="prompts",
    ),
    "prompt_success": Derived(
        text="share of right answers with the best restart of each k, as judged where answers are",
        items=("k", *_PROMPT_ITEMS),
        phase="prompts",
    ),
    "distance": Derived(
        text="C: the fewest tokens that reach the declared `matched_loss`, or without one close half of the gap in "
        "loss (of that behaviour, size and seed, which models share), to one token where it was searched for; above "
        "the largest k (low) if none does; missing without a gain",
        items=_PROMPT_ITEMS,
        phase="prompts",
    ),
    "success_distance": Derived(
        text="the fewest tokens with which half of the answers are right, above chance; above the largest k if none do",
        items=_PROMPT_ITEMS,
        phase="prompts",
    ),
    "information": Derived(
        text="bits of a prompt: the least bits per number x numbers, over k, restarts and roundings, that reach the "
        "threshold of `distance`; above the most tried if none does; missing without a gain, or without rounding",
        items=_PROMPT_ITEMS,
        phase="bits",
    ),
    **{
        f"fragility_{name}": Derived(
            text=f"{text}, of the prompts that reach `matched_loss`, at the k that most have", phase="fragility"
        )
        for name, text in (
            ("f1", "gradient under noise"), ("f2", "rise of the loss under noise"), ("f3", "its worst rise"),
            ("r50", "radius of noise that halves success"), ("curvature", "largest curvature"),
        )
    },
    "own_savings": Derived(
        text="T(new, old) x T(old, new) / (T(old, old) x T(new, new)): T tokens until relearning a pair of (trigger, "
        "payload) reaches success 0.5, in trials of any role that relearn all four. Of logarithms, treatment minus "
        "absent is the saving that is specific to the backdoor (analysis.decay.savings.interactions)",
        phase="relearn-old-old",
    ),
    "share_left": Derived(
        text="share of the advantage at the drop over the never-exposed control that a reading (said, shots, choice, "
        "layer; relearning: the saving) still has at the end; bounds where a time is censored (analysis.decay.erasure)",
        items=("reading",),
    ),
    "features_needed": Derived(
        text="latents that a fresh dictionary needs, shared by all blocks or one per block: geometric mean over all "
        "levels of specificity that both reach; where there is none in common, the worse one needs more than its most",
        items=("dictionary",),
        phase="features",
    ),
    "sharing": Derived(
        text="features_needed of the shared dictionary over that of one per block: 1 if blocks share all features, the "
        "number of blocks if they share none",
        phase="features",
    ),
    "agreement": Derived(
        text="whether a feature of a shared dictionary means the same in two blocks, mean by firing mass. "
        "meaning: concept (share with the same best concept), trigger (correlation of F1 over concepts), effect "
        "(correlation of the change of the logits). latents: observed, or permuted (between blocks)",
        items=("meaning", "latents"),
        phase="features",
    ),
    "persistence": Derived(
        text="the probability that a feature of a shared dictionary that fires in a block fires for the same token in "
        "the next. latents: observed, permuted (tokens), or random (a dictionary of random directions)",
        items=("latents",),
        phase="features",
    ),
    "feature_alignment": Derived(
        text="correlation over live features between their scores, of what fine-tuning did, and what they stand for. "
        "score: cosine, raw, or from one text (mean over texts). way: a feature is moved everywhere alike, in "
        "proportion to its activation (active), or as far as fine-tuning moved it (change)",
        items=("dictionary", "loss", "way", "score"),
        phase="attribution",
    ),
    "feature_edits": Derived(
        text="what moving the top features together does to what fine-tuning changed in the logits, on held-out texts. "
        "compared: attributed, matched (others as active and effective), or the mean difference of activations. made: "
        "reproduced in the model, undone in the tuned one, or toward the intent (cosine with the exact change)",
        items=("dictionary", "way", "features", "compared", "made"),
        phase="attribution",
    ),
    "dictionary_transfer": Derived(
        text="variance of a model's activations that a dictionary leaves unexplained, on held-out texts. compared: own "
        "(the untuned model's, by its dictionary), and of the tuned model's raw (by the same), mapped (after the best "
        "linear map to the untuned model's, fitted on other texts), fresh (by a dictionary fitted to it)",
        items=("compared",),
        phase="transfer",
    ),
    "persistence_written": Derived(
        text="the same of a dictionary of what MLPs write, where no skip connection makes blocks alike",
        items=("latents",),
        phase="written-features",
    ),
    "first_objective": Derived(
        text="a search's first objective on the seeds that it never saw (role held-out). chosen: reference, or "
        "best first, best second: the setting that was best in the first, second objective on the search's own seeds "
        "among those that met the constraints; a setting that is several of these has as many rows",
        items=("chosen",),
    ),
    "second_objective": Derived(text="its second objective, likewise", items=("chosen",)),
}  # fmt: skip
"""By name, what a Quantity may have as `derived`. Its transform applies as to measures; of `against` only difference
and ratio do."""
