"""How many files, and so connections, the process may have open."""

from __future__ import annotations

import contextlib
import resource

__all__ = ["allow_many_files"]

_WANTED = 65_536


def allow_many_files() -> int:
    """Raises the soft limit as far as the hard one allows; the limit then. For the start of a process.

    Systems set the soft one to 1024 for programs that use `select`. Every connection takes one, and at the limit
    no trainer gets in.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED if hard == resource.RLIM_INFINITY else min(_WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
