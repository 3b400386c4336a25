"""Runs a benchmark: `python -m benchmarks [NAME] [options]`.

Names: service, growth, shadows, peers, log, simulated, trainer, trained.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    here = Path(__file__).parent
    known = sorted(path.parent.name for path in here.glob("*/__main__.py"))
    name = sys.argv[1] if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else "service"
    if name not in known:
        sys.exit(f"No benchmark {name!r}. Known: {', '.join(known)}.")
    sys.argv = [f"benchmarks {name}", *[argument for argument in sys.argv[1:] if argument != name]]
    runpy.run_module(f"benchmarks.{name}", run_name="__main__")
