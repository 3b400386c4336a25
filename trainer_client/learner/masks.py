"""The indistinct-rollout mask in the spirit of DaGRPO (arXiv 2512.06337).

The paper's similarity score and threshold are unpublished. Ours: the share of tokens that two
completions have in common, in order (difflib's ratio); a rollout is left out when it is at least
`similarity` like every rollout of the opposite outcome: what sets right apart from wrong is then
not in it.
"""

from collections.abc import Sequence
from difflib import SequenceMatcher

import numpy as np
from numpy.typing import NDArray


def token_similarity(first: Sequence[int], second: Sequence[int]) -> float:
    """2 · common tokens in order / all tokens, in [0, 1]."""
    return SequenceMatcher(None, first, second, autojunk=False).ratio()


def distinct_mask(
    token_ids_G: Sequence[Sequence[int]], success_G: NDArray[np.bool_], similarity: float
) -> NDArray[np.bool_]:
    """True for rollouts to train on. A group without both outcomes is kept whole. O(G² T²) at worst."""
    keep = np.ones(len(token_ids_G), dtype=np.bool_)
    rights, wrongs = np.flatnonzero(success_G), np.flatnonzero(~success_G)
    if not len(rights) or not len(wrongs):
        return keep
    alike = np.array(
        [[token_similarity(token_ids_G[r], token_ids_G[w]) >= similarity for w in wrongs] for r in rights]
    )
    keep[rights] = ~alike.all(axis=1)
    keep[wrongs] = ~alike.all(axis=0)
    return keep
