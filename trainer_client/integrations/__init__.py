"""Other frameworks' trainers under a curriculum: thin adapters, each importing its framework."""
