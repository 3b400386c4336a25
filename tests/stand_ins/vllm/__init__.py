"""What an engine's process imports as vLLM when `tests/stand_ins` comes first in its path."""

import sys

from tests.vllm_fakes import vllm_modules

sys.modules.update(vllm_modules())
