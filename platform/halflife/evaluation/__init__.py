SCORED_TOKENS = 16_384
"""Tokens scored at once: enough to keep a small model's matrix products large, little enough for memory."""
