"""Benchmarks: what the service costs, and what a curriculum buys."""
