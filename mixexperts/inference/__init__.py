"""Choosing models, and what can be said about their parameters."""
