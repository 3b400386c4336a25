"""Curricula compared on a small language model that is really trained."""
