"""The SDK's public surface: complete, light, the same for both clients."""

from __future__ import annotations

import inspect
import os
import pickle
import re
import subprocess
import sys

import grpc
import pytest

import trainer_client.client as sdk
from curriculum.v1 import curriculum_pb2 as pb
from trainer_client import exceptions
from trainer_client.client._status import error_from_code

METHOD_OF_RPC = {
    "CreateCurriculum": "create_curriculum",
    "GetCurriculum": "get_curriculum",
    "ListCurricula": "list_curricula",
    "UpdateCurriculum": "update_curriculum",
    "DeleteCurriculum": "delete_curriculum",
    "AddPrompts": "add_prompts",
    "NextBatch": "next_batch",
    "ReportRollouts": "report",
    "StreamRollouts": "stream_reports",
    "ReleaseBatch": "release",
    "AdvancePolicy": "advance_policy",
    "CreateCheckpoint": "create_checkpoint",
    "RestoreCheckpoint": "restore_checkpoint",
    "ListCheckpoints": "list_checkpoints",
    "DeleteCheckpoint": "delete_checkpoint",
    "ExportCurriculum": "export_curriculum",
    "ImportCurriculum": "import_curriculum",
    "ReplayCurriculum": "replay",
    "ListPromptStates": "prompt_states",
    "GetPromptHistory": "prompt_history",
    "GetSummary": "summary",
    "WatchSummary": "watch_summary",
}


def public_methods(client: type) -> dict[str, object]:
    return {name: getattr(client, name) for name in dir(client) if not name.startswith("_")}


@pytest.mark.parametrize("client", [sdk.CurriculumClient, sdk.AsyncCurriculumClient])
def test_no_rpc_of_the_service_is_left_unwrapped(client):
    rpcs = {method.name for method in pb.DESCRIPTOR.services_by_name["CurriculumService"].methods}
    assert rpcs == set(METHOD_OF_RPC)
    assert set(METHOD_OF_RPC.values()) | {"health", "flush", "lease"} <= set(public_methods(client))


def test_both_clients_take_the_same_arguments():
    blocking, awaited = public_methods(sdk.CurriculumClient), public_methods(sdk.AsyncCurriculumClient)
    assert set(blocking) == set(awaited)
    for name in set(blocking) - {"pending_reports"}:
        one, other = (inspect.signature(methods[name]).parameters for methods in (blocking, awaited))
        assert list(one) == list(other), name
        for parameter in one:
            assert one[parameter].default == other[parameter].default, (name, parameter)
    assert inspect.signature(sdk.CurriculumClient) == inspect.signature(sdk.AsyncCurriculumClient)


@pytest.mark.parametrize("module", [sdk, exceptions])
def test_all_names_every_public_name_and_each_has_a_docstring(module):
    public = {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and inspect.isclass(value) and "typing" not in value.__module__
    } - {"Mapping"}
    assert set(module.__all__) == public
    ours = [getattr(module, name) for name in module.__all__]
    assert all(value.__doc__ for value in ours if value.__module__.startswith("trainer_client"))


def test_the_enums_are_those_of_the_proto():
    for ours, theirs, prefix in (
        (sdk.Source, pb.Source, "SOURCE_"),
        (sdk.Action, pb.Action, "ACTION_"),
        (sdk.RolloutStatus, pb.RolloutStatus, "ROLLOUT_STATUS_"),
    ):
        assert {f"{prefix}{member.name}": member.value for member in ours} == dict(theirs.items())


def test_the_sdk_imports_nothing_heavy():
    script = """
import sys
heavy = ["torch", "transformers", "pydantic", "typer", "rich", "redis", "opentelemetry"]
# grpcio looks for its companions; they are not part of the base install.
companions = ["grpc_health", "grpc_status", "grpc_tools", "grpc_reflection"]
for name in heavy + companions:
    sys.modules[name] = None  # importing it now fails
import trainer_client.client, trainer_client.exceptions
allowed = {"grpc", "google", "numpy", "curriculum", "trainer_client"}
roots = {name.partition(".")[0] for name, module in sys.modules.items()
         if "site-packages" in (getattr(module, "__file__", None) or "")}
foreign = {root for root in roots - allowed if not root.startswith(("_", "numpy"))} - before - set(companions)
print(sorted(foreign))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([".", "proto"])}
    preamble = "import sys\nbefore = {name.partition('.')[0] for name in sys.modules}\n"
    outcome = subprocess.run(
        [sys.executable, "-c", preamble + script],
        env=environment,
        check=True,
        timeout=60,
        capture_output=True,
        text=True,
    )
    # typing_extensions is a dependency of grpcio itself.
    assert set(re.findall(r"'(\w+)'", outcome.stdout)) <= {"typing_extensions"}


def test_every_grpc_code_becomes_an_error_of_the_tree_drawn_in_the_docstring():
    for code in grpc.StatusCode:
        if code is not grpc.StatusCode.OK:
            error = error_from_code(code.value[0], "message")
            assert isinstance(error, exceptions.CurriculumError)
            assert error.code == code.name
    drawn = dict(re.findall(r"[├└]── (\w+)\s+\+ (\w+)", exceptions.__doc__ or ""))
    defined = {
        name: value
        for name, value in vars(exceptions).items()
        if inspect.isclass(value) and issubclass(value, exceptions.CurriculumError)
    }
    assert set(drawn) == set(defined) - {"CurriculumError"}
    for name, stdlib in drawn.items():
        assert stdlib in [base.__name__ for base in defined[name].__bases__], name


@pytest.mark.parametrize("name", [name for name in exceptions.__all__ if name.endswith("Error")])
def test_an_error_survives_pickling_with_its_details(name):
    details = exceptions.ErrorDetails(
        "REASON", "domain", {"k": "v"}, (exceptions.FieldViolation("f", "d"),), 2.0
    )
    error = getattr(exceptions, name)("it went wrong", code="X", details=details)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (str(copy), copy.details, copy.reason) == ("[REASON] it went wrong; f: d", details, "REASON")


@pytest.mark.parametrize("client", [sdk.CurriculumClient, sdk.AsyncCurriculumClient])
def test_the_arguments_that_are_passed_on_are_those_of_next_batch(client):
    told = inspect.signature(client.next_batch).parameters
    keywords = {
        name: parameter for name, parameter in told.items() if parameter.kind is parameter.KEYWORD_ONLY
    }
    assert sdk.NextBatchArguments.__annotations__.keys() == keywords.keys()
    needed = {name for name, parameter in keywords.items() if parameter.default is parameter.empty}
    # As said in the source: with annotations as text the class itself cannot tell.
    assert needed == {
        name for name, kind in sdk.NextBatchArguments.__annotations__.items() if "Required" in str(kind)
    }
