"""The sampler service: which prompts next, and how many rollouts each."""

__version__ = "0.1.0"
