"""Tasks: prompts with clusters and features, and verifiers that turn a completion into a reward."""

from trainer_client.tasks.protocol import Pool, TaskPrompt, Verifier, VerifierError

__all__ = ["Pool", "TaskPrompt", "Verifier", "VerifierError"]
