SCORED_TOKENS = 16_384
"""Tokens scored in one forward pass: enough for large matrix products with a small model, and fits in memory."""
