"""The learner: advantages, losses, masks, reward shaping, and the LoRA policy they update."""
