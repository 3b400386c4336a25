"""The trainer client: an SDK for any trainer, and a trainer of our own on top of it."""
