"""How cost grows: with the pool, with the batch, with replicas, and for methods that look at every prompt."""
