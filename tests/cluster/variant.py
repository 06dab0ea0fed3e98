"""cluster.yaml for one's own hosts."""

from __future__ import annotations

import re

RULES = re.compile(r"^# ---- .* ----$", re.MULTILINE)


def of_hosts(text: str) -> str:
    """cluster.yaml with the block for one's own hosts in use instead of that for AWS."""
    aws, hosts, same = list(RULES.finditer(text))
    block = re.sub(r"^# ?", "", text[hosts.end() : same.start()], flags=re.MULTILINE)
    return text[: aws.start()] + block + text[same.end() :]
