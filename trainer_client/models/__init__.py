"""Models: the small real one of the demo, a tiny one for tests, and loading by name or path."""
