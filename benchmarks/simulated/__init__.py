"""Curricula compared on a policy-gradient learner that runs in seconds."""
