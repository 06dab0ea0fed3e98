"""The meaning and unit of every column of the exported tables."""

from __future__ import annotations

from analysis.decay.retention import CLOCKS

RUN = {
    "outcome": ("", "the declared outcome that this row is about"),
    "trial": ("", "key of the trial, unique in the sweep"),
    "role": (
        "",
        "treatment, or the kind of control: absent (never had the behaviour), positive (cause kept), ...",
    ),
    "size": ("", "rung of the model ladder"),
    "parameters": ("parameters", "non-embedding parameters of the model"),
    "seed": ("", "replicate; trials of one seed share their data order: a cluster"),
    "setting": ("", "how the trial differs from the reference setting"),
    "is_reference": ("", "whether the trial is at the reference setting"),
}
TIME = {
    "kind": ("", "observed (between low and high), censored (not by low), at-start (true at the first evaluation)"),
    "low": ("of the clock", "last evaluation before it; if censored, the last evaluation of the run"),
    "high": ("of the clock", "first evaluation after it; missing if censored"),
    "estimate": ("of the clock", "interpolated between low and high; missing unless observed"),
}
MEANINGS: dict[str, dict[str, tuple[str, str]]] = {
    "trials": {
        "name": ("", "name of the trial's run"),
    },
    "points": {
        "phase": ("", "phase of the trial: trunk, branch, relearn-..."),
        "step": ("tokens", "tokens trained since the phase began"),
        "name": ("", "task and measure, such as backdoor/logprob"),
        "value": ("", "measured value; missing measurements have no row"),
    },
    "curves": {
        **{clock: ("", label) for clock, label in CLOCKS.items()},
        "tokens": ("tokens", CLOCKS["tokens"]),
        "hits": ("prompts", "prompts answered exactly"),
        "trials": ("prompts", "prompts evaluated"),
        "success": ("", "hits / trials"),
        "chance": ("", "success by chance: as logged by the trial, else as declared for the outcome"),
        "success_low": ("", "lower end of Wilson's 95% interval of success"),
        "success_high": ("", "upper end of that interval"),
        "logprob": ("nats/token", "log-probability of the answer"),
        "control": ("nats/token", "log-probability of the never-exposed control at the same tokens"),
        "implanted": ("", "whether success at the drop was at least halfway from chance to 1"),
        "retention_logprob": ("", "(logprob - control) / (logprob at the drop - control)"),
        "retention_success": ("", "(success - chance) / (success at the drop - chance)"),
        "near": ("", "share of near-trigger prompts that gave the answer"),
        "untriggered": ("", "share of untriggered prompts that gave the answer"),
        "untriggered_logprob": ("nats/token", "log-probability of the answer without the trigger"),
        "loss": ("nats/token", "loss on clean held-out text"),
        "absent": ("", "trial that is the never-exposed control of this one"),
        "completed": ("", "whether the phase ended as planned"),
    },
    "half_lives": {
        "criterion": ("", "the measure, and whether the first or the sustained crossing of retention 1/2"),
        "clock": ("", "; ".join(f"{clock}: {label}" for clock, label in CLOCKS.items())),
        **TIME,
    },
    "areas": {
        "area": ("", "mean retention of the log-probability over log tokens, up to the horizon that all runs reach"),
        "area_success": ("", "mean retention of success, likewise"),
    },
    "floors": {
        "measure": ("", "logprob or success"),
        "kind": ("", "settled or not settled"),
        "floor": ("", "mean retention over the last two octaves of tokens; missing unless settled"),
        "low": ("", "lower end of its 95% interval over evaluations"),
        "high": ("", "upper end of that interval"),
        "change": ("", "change of retention across the last two octaves, by a straight line over ln tokens"),
        "change_low": ("", "lower end of its 90% interval"),
        "change_high": ("", "upper end of that interval"),
        "evaluations": ("", "evaluations in the last two octaves"),
        "since": ("tokens", "where the last two octaves begin"),
    },
    "relearning": {
        "absent": ("", "trial that is the never-exposed control of this one"),
        "pair": ("", "relearned trigger and payload, each old or new"),
        "threshold": ("", "share of success to reach"),
        "kind": TIME["kind"],
        **{name: ("tokens", text) for name, (_, text) in TIME.items() if name != "kind"},
    },
}
MEANINGS["savings"] = {
    **MEANINGS["relearning"],
    "kind_absent": ("", "kind of the control's time"),
    "control": ("tokens", "estimate of the control's time"),
    "saving_kind": ("", "observed; at least (the control did not reach it); at most (the treatment did not)"),
    "saving_bound": ("", "ln(control's time / treatment's time), or its bound, as given by saving_kind"),
    "saving": ("", "ln(control's time / treatment's time), if both were observed"),
}
MEANINGS |= {
    "floors_over_seeds": {
        **MEANINGS["floors"],
        "floor": ("", "mean floor over seeds; missing if some runs did not settle"),
        "low": ("", "lower end of its 95% t interval over seeds"),
        "above_control": ("", "whether that interval lies above 0, the level of the control"),
        "seeds": ("seeds", "number of seeds"),
        "settled": ("runs", "runs that settled"),
        "unsettled": ("runs", "runs that did not settle"),
    },
    "survival": {
        "group": ("", "size, at the reference setting"),
        "time": ("tokens", "half-life, or last evaluation of censored runs"),
        "survival": ("", "share of runs whose half-life lies beyond this time (Kaplan-Meier)"),
        "low": ("", "lower end of its 95% interval, runs treated as independent"),
        "high": ("", "upper end of that interval"),
        "at_risk": ("runs", "runs observed up to here without having reached their half-life"),
        "events": ("runs", "runs whose half-life is at this time"),
        "censored": ("runs", "runs whose last evaluation is at this time"),
    },
    "time_ratios": {
        "term": ("", "term of the model: parameters (by their logarithm) or an axis"),
        "value": ("", "value of a category, relative to its reference; missing for numbers"),
        "coefficient": ("", "change in ln half-life per unit of the term; for parameters, the exponent of N"),
        "low": ("", "lower end of its 95% interval by a jackknife over seeds; missing below 3 seeds"),
        "high": ("", "upper end of that interval"),
        "ratio": ("times", "exp(coefficient)"),
        "ratio_low": ("times", "exp(low)"),
        "ratio_high": ("times", "exp(high)"),
        "model_low": ("", "lower end of the coefficient's interval if all runs were independent"),
        "model_high": ("", "upper end of that interval"),
    },
    "savings_over_seeds": {
        "threshold": ("", "share of success to reach"),
        "pair": ("", "relearned trigger and payload, or number of examples; own: the interaction of the 2 x 2"),
        "ratio": ("times", "control's tokens / treatment's, geometric mean over seeds"),
        "low": ("times", "lower end of its 95% t interval over seeds"),
        "high": ("times", "upper end of that interval"),
        "seeds": ("seeds", "seeds with a saving"),
        "used": ("runs", "treatments with observed times of both models"),
        "censored": ("runs", "treatments with a censored time of either model"),
    },
}
MEANINGS["erasure"] = {
    "condition": ("", "family, and how else the run differs from the reference"),
    "place": ("", "order of the conditions in figures"),
    "plain": ("", "whether only the family differs from the reference"),
    "reading": (
        "",
        "said (greedy output), shots (few shots), choice (forced choice), layer (linear probe), relearning",
    ),
    "detail": (
        "",
        "layer with the largest advantage at the drop; for relearning, examples and share of the skill to recover",
    ),
    "at_drop": ("", "share of correct answers at the drop; missing for relearning"),
    "at_end": ("share; tokens", "at_drop, at the end of the branch; for relearning, tokens needed, or the budget"),
    "control_drop": ("", "at_drop of the model that never learned it"),
    "control_end": ("share; tokens", "at_end of that model"),
    "kind": ("", "observed; at least, at most: share is a bound; no advantage, unknown: there is no share"),
    "share": ("", "share of the advantage over the control at the drop that is left at the end"),
}
PREFIXES = {
    "outcome_": "how this phase ended: complete, diverged, failed, blocked",
    "summary_": "summary of this phase's stage, as JSON",
    "stage_": "folder of this phase's stage",
}


def meaning(table: str, column: str) -> tuple[str, str]:
    """Unit and meaning of a column; empty for the parameters of a study, which are described in its declaration."""
    own = MEANINGS.get(table, {}).get(column) or RUN.get(column)
    if own is not None:
        return own
    return "", next((text for start, text in PREFIXES.items() if column.startswith(start)), "")
