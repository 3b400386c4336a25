"""The curriculum's core: estimate, choose, allot, stop. Pure: no I/O, no clock, no global randomness.

Everything here takes arrays, a `numpy.random.Generator` and times as arguments. Array names carry their
shape: `_N` prompts of the table, `_B` prompts of a batch, `_R` rollouts (flat).
"""
