"""A stand-in for vLLM: requests end in the order of their length, one step at a time."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any


class EngineDeadError(Exception):
    """As vLLM raises it."""


class FakeVllm:
    """What `vllm.LLMEngine` is asked and what it answers.

    A request needs as many steps as its prompt's last token says, and every completion is the same; with the
    argument `seeded` tokens follow from the seed. `diary`: a file for what an engine elsewhere was told.
    """

    def __init__(self, arguments: dict[str, Any]) -> None:
        self.arguments = arguments
        self.asked: dict[str, SimpleNamespace] = {}
        self.steps = 0
        self.aborted: list[str] = []
        self.loras: list[int] = []
        self.states: list[str] = []
        self.dies_at_step = -1
        self.finish_reason = "length"
        self._left: dict[str, int] = {}
        self._note("environment", sorted(os.environ))
        self.engine_core = SimpleNamespace(shutdown=lambda: self.states.append("down"))

    def add_request(self, key: str, prompt: Any, parameters: Any, lora_request: Any = None) -> str:
        assert key not in self._left
        self._note("asked", [key, parameters.n, lora_request and lora_request.lora_name])
        self.asked[key] = SimpleNamespace(
            prompt=prompt, parameters=parameters, lora=lora_request, asleep=self.asleep
        )
        self._left[key] = prompt["prompt_token_ids"][-1]
        return key + "-internal"

    def step(self) -> list[Any]:
        if self.steps == self.dies_at_step:
            raise EngineDeadError
        self.steps += 1
        self._left = {key: left - 1 for key, left in self._left.items()}
        done = [key for key, left in self._left.items() if left <= 0]
        for key in done:
            del self._left[key]
        return [self._output(key) for key in done]

    def abort_request(self, keys: list[str]) -> None:
        self.aborted.extend(keys)
        for key in keys:
            self._left.pop(key, None)

    def add_lora(self, lora: Any) -> bool:
        # Loaded when it is published: vLLM would read a folder that is gone by the first request.
        assert Path(lora.lora_path).is_dir()
        self._note("adapter", lora.lora_path)
        self.loras.append(lora.lora_int_id)
        return True

    def remove_lora(self, identity: int) -> bool:
        self.loras.remove(identity)
        return True

    def sleep(self, level: int) -> None:
        self.states.append(f"sleep {level}")

    def wake_up(self) -> None:
        self.states.append("wake")

    @property
    def asleep(self) -> bool:
        return bool(self.states) and self.states[-1].startswith("sleep")

    def _note(self, what: str, value: Any) -> None:
        if "diary" in self.arguments:
            with Path(f"{self.arguments['diary']}-{os.getpid()}").open("a") as file:
                file.write(json.dumps([what, value]) + "\n")

    def _output(self, key: str) -> Any:
        parameters = self.asked[key].parameters
        if self.arguments.get("seeded"):
            outputs = [_seeded(parameters.seed + place) for place in range(parameters.n)]
            return SimpleNamespace(request_id=key, finished=True, outputs=outputs)
        one = SimpleNamespace(
            token_ids=[4, 9],
            logprobs=[{4: SimpleNamespace(logprob=-0.5)}, {9: SimpleNamespace(logprob=-1.5)}],
            text="7\nrest",
            finish_reason=self.finish_reason,
        )
        outputs = [one] * parameters.n
        return SimpleNamespace(request_id=key, finished=True, outputs=outputs)


def _seeded(seed: int) -> Any:
    """A completion of three tokens; what it says follows from the seed as well."""
    draw = random.Random(seed)
    tokens = [draw.randrange(3, 12) for _ in range(3)]
    return SimpleNamespace(
        token_ids=tokens,
        logprobs=[{token: SimpleNamespace(logprob=-2.0)} for token in tokens],
        text=draw.choice(["7", "x"]),
        finish_reason="stop",
    )


def vllm_modules() -> dict[str, ModuleType]:
    """The modules that the engine imports, by name; `vllm.made` lists the engines."""
    names = (
        "vllm",
        "vllm.inputs",
        "vllm.lora",
        "vllm.lora.request",
        "vllm.sampling_params",
        "vllm.v1",
        "vllm.v1.engine",
        "vllm.v1.engine.exceptions",
    )
    modules: dict[str, Any] = {name: ModuleType(name) for name in names}
    root = modules["vllm"]
    root.made = []

    def from_engine_args(arguments: dict[str, Any]) -> FakeVllm:
        if arguments["dtype"] == "float7":
            raise ValueError("no such dtype")
        root.made.append(FakeVllm(arguments))
        return root.made[-1]  # type: ignore[no-any-return]

    root.EngineArgs = dict
    root.LLMEngine = SimpleNamespace(from_engine_args=from_engine_args)
    root.SamplingParams = SimpleNamespace
    modules["vllm.inputs"].tokens_input = lambda token_ids: {"prompt_token_ids": token_ids}
    modules["vllm.lora.request"].LoRARequest = lambda name, identity, path: SimpleNamespace(
        lora_name=name, lora_int_id=identity, lora_path=path
    )
    modules["vllm.sampling_params"].RequestOutputKind = SimpleNamespace(FINAL_ONLY="final")
    modules["vllm.v1.engine.exceptions"].EngineDeadError = EngineDeadError
    return modules


def stand_in_path() -> str:
    """A search path on which the stand-in is vLLM, for the environment of a process."""
    root = Path(__file__).parent
    inherited = os.environ.get("PYTHONPATH")
    return os.pathsep.join(filter(None, [str(root / "stand_ins"), str(root.parent), inherited]))
