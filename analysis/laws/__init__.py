"""Decay and scaling laws, each with formula, bounds, derivatives, half-life and source."""
