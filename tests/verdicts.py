"""Verifiers for runs whose rewards should be neither all right nor all wrong."""

import zlib


def by_lot(completion: str, answer: str) -> float:
    """Right for about half of all completions, whatever was asked."""
    del answer
    return float(zlib.crc32(completion.encode()) % 2)
