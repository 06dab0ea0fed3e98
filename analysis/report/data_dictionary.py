"""What every column of the exported tables means, and its unit."""

from __future__ import annotations

from analysis.decay.retention import CLOCKS

RUN = {
    "outcome": ("", "the declared outcome that this row is about"),
    "trial": ("", "key of the trial, unique in the sweep"),
    "role": (
        "",
        "treatment, or the control that the trial is: absent (never had the behaviour), positive (cause kept)",
    ),
    "size": ("", "rung of the model ladder"),
    "parameters": ("parameters", "non-embedding parameters of the model"),
    "seed": ("", "replicate; trials of one seed share their data's order: a cluster"),
    "setting": ("", "in what the trial differs from the reference setting"),
    "is_reference": ("", "whether the trial is at the reference setting"),
}
TIME = {
    "kind": ("", "observed (between low and high), censored (not by low), at-start (so from the first evaluation)"),
    "low": ("of the clock", "last evaluation before; of a censored time the last evaluation of all"),
    "high": ("of the clock", "first evaluation after; missing when censored"),
    "estimate": ("of the clock", "interpolated between low and high; missing unless observed"),
}
MEANINGS: dict[str, dict[str, tuple[str, str]]] = {
    "trials": {
        "name": ("", "name of the trial's run"),
    },
    "points": {
        "phase": ("", "phase of the trial: trunk, branch, relearn-..."),
        "step": ("tokens", "tokens trained since the phase began"),
        "name": ("", "task and measure, as backdoor/logprob"),
        "value": ("", "the value measured; what was not measured has no row"),
    },
    "curves": {
        **{clock: ("", label) for clock, label in CLOCKS.items()},
        "tokens": ("tokens", CLOCKS["tokens"]),
        "hits": ("prompts", "prompts answered exactly"),
        "trials": ("prompts", "prompts asked"),
        "success": ("", "hits / trials"),
        "chance": ("", "success of guessing: the trial's own where it logged one, else the declared outcome's"),
        "success_low": ("", "lower end of Wilson's 95 % interval of success"),
        "success_high": ("", "upper end of the same"),
        "logprob": ("nats/token", "log-probability of the answer"),
        "control": ("nats/token", "the same of the never-trained control, at the same tokens"),
        "implanted": ("", "whether success at the drop was at least half of what is above chance"),
        "retention_logprob": ("", "(logprob - control) / (logprob at the drop - control)"),
        "retention_success": ("", "(success - chance) / (success at the drop - chance)"),
        "near": ("", "share of near-trigger prompts that gave the answer"),
        "untriggered": ("", "share of untriggered prompts that gave the answer"),
        "untriggered_logprob": ("nats/token", "log-probability of the answer without the trigger"),
        "loss": ("nats/token", "loss on clean held-out text"),
        "absent": ("", "trial that is this one's never-trained control"),
        "completed": ("", "whether the phase ended as planned"),
    },
    "half_lives": {
        "criterion": ("", "retention of which measure, and whether its first or its sustained crossing of 1/2"),
        "clock": ("", "; ".join(f"{clock}: {label}" for clock, label in CLOCKS.items())),
        **TIME,
    },
    "areas": {
        "area": ("", "mean retention of the log-probability over log tokens, to the horizon that all runs reach"),
        "area_success": ("", "the same of success"),
    },
    "floors": {
        "measure": ("", "logprob or success"),
        "kind": ("", "settled or not settled"),
        "floor": ("", "mean retention over the last two octaves of tokens; missing unless settled"),
        "low": ("", "lower end of its 95 % interval over evaluations"),
        "high": ("", "upper end of the same"),
        "change": ("", "change of retention across the last two octaves, by a straight line over ln tokens"),
        "change_low": ("", "lower end of its 90 % interval"),
        "change_high": ("", "upper end of the same"),
        "evaluations": ("", "evaluations in the last two octaves"),
        "since": ("tokens", "where the last two octaves begin"),
    },
    "relearning": {
        "absent": ("", "trial that is this one's never-trained control"),
        "pair": ("", "trigger and payload that were relearned, old or new"),
        "threshold": ("", "share of success to reach"),
        "kind": TIME["kind"],
        **{name: ("tokens", said) for name, (_, said) in TIME.items() if name != "kind"},
    },
}
MEANINGS["savings"] = {
    **MEANINGS["relearning"],
    "kind_absent": ("", "kind of the control's time"),
    "control": ("tokens", "estimate of the control's time"),
    "saving_kind": ("", "observed; at least (the control never got there); at most (the treatment did not)"),
    "saving_bound": ("", "ln(control's time / treatment's time), or the bound of it where saving_kind says so"),
    "saving": ("", "the same, where both times were observed"),
}
MEANINGS |= {
    "floors_over_seeds": {
        **MEANINGS["floors"],
        "floor": ("", "mean floor over seeds; missing where some runs did not settle"),
        "low": ("", "lower end of its 95 % t interval over seeds"),
        "above_control": ("", "whether that interval lies above 0, where retention meets the control"),
        "seeds": ("seeds", "seeds of these runs"),
        "settled": ("runs", "runs that settled"),
        "unsettled": ("runs", "runs that did not"),
    },
    "survival": {
        "group": ("", "size, at the reference setting"),
        "time": ("tokens", "half-life, or last evaluation of censored runs"),
        "survival": ("", "share of runs whose half-life lies beyond (Kaplan-Meier)"),
        "low": ("", "lower end of its 95 % interval, runs taken as independent"),
        "high": ("", "upper end of the same"),
        "at_risk": ("runs", "runs whose half-life was not reached before, and that were seen so far"),
        "events": ("runs", "runs whose half-life is here"),
        "censored": ("runs", "runs that were last seen here"),
    },
    "time_ratios": {
        "term": ("", "what stretches the half-life: parameters (by its logarithm) or an axis"),
        "value": ("", "of a category, against its reference; missing for numbers"),
        "coefficient": ("", "change of ln half-life by one unit of the term; for parameters the exponent of N"),
        "low": ("", "lower end of its 95 % interval by a jackknife over seeds; missing below 3 seeds"),
        "high": ("", "upper end of the same"),
        "ratio": ("times", "exp(coefficient)"),
        "ratio_low": ("times", "exp(low)"),
        "ratio_high": ("times", "exp(high)"),
        "model_low": ("", "lower end of the coefficient's interval were all runs independent"),
        "model_high": ("", "upper end of the same"),
    },
    "savings_over_seeds": {
        "threshold": ("", "share of success to reach"),
        "pair": ("", "trigger and payload, or examples, relearned from; own: the interaction of the 2 x 2"),
        "ratio": ("times", "control's tokens / treatment's, geometric mean over seeds"),
        "low": ("times", "lower end of its 95 % t interval over seeds"),
        "high": ("times", "upper end of the same"),
        "seeds": ("seeds", "seeds with a saving"),
        "used": ("runs", "treatments whose times were observed on both sides"),
        "censored": ("runs", "treatments of which one was not"),
    },
}
MEANINGS["erasure"] = {
    "condition": ("", "family, and in what else the run differs from the reference"),
    "place": ("", "order of the conditions in figures"),
    "plain": ("", "whether it differs in nothing else"),
    "reading": ("", "said (decoded greedily), shots, choice, layer (linear probe), relearning"),
    "detail": (
        "",
        "the layer with most over the control at the drop; of relearning, examples and share of the skill to regain",
    ),
    "at_drop": ("", "share of right answers at the drop; of relearning missing"),
    "at_end": ("share; tokens", "the same at the end of the branch; of relearning the tokens it took, or the budget"),
    "control_drop": ("", "at_drop of the model that never saw the language"),
    "control_end": ("share; tokens", "at_end of the same"),
    "kind": ("", "observed; at least, at most: share is a bound; no advantage, unknown: there is none"),
    "share": ("", "of the advantage at the drop over the control, what is left at the end"),
}
PREFIXES = {
    "outcome_": "how this phase ended: complete, diverged, failed, blocked",
    "summary_": "what this phase's stage said of itself, as JSON",
    "stage_": "folder of this phase's stage",
}


def meaning(table: str, column: str) -> tuple[str, str]:
    """Unit and meaning of a column; empty for the parameters of a study, which its declaration explains."""
    own = MEANINGS.get(table, {}).get(column) or RUN.get(column)
    if own is not None:
        return own
    return "", next((said for start, said in PREFIXES.items() if column.startswith(start)), "")
