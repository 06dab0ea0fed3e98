"""The sentences that open a report: estimates, intervals and verdicts in words."""
