"""The generated reference leaves nothing out that the code or a proto has."""

from __future__ import annotations

import re
from typing import cast

import pytest
from starlette.routing import Mount

from curriculum.v1 import curriculum_pb2, log_pb2
from docs_reference.command_page import command_page, commands
from docs_reference.http_page import http_page
from docs_reference.markdown import prose, table
from docs_reference.model_fields import field_docs
from docs_reference.proto_page import proto_page
from docs_reference.service_settings_page import service_settings_page, service_settings_table
from docs_reference.strategy_page import REGISTRIES, strategy_page
from sampler_service.curriculum.iterations import Iterations
from sampler_service.curriculum.presets import PRESETS
from sampler_service.curriculum.strategy import Estimator, Strategy
from sampler_service.dashboard import create_app
from sampler_service.dashboard.guard import required_role
from sampler_service.dashboard.reader import CurriculumReader, StrategyWriter
from sampler_service.rpc.roles import METHOD_ROLES

PROTOS = {"curriculum.proto": curriculum_pb2.DESCRIPTOR, "log.proto": log_pb2.DESCRIPTOR}


def section(page: str, heading: str) -> str:
    """What stands below a heading, up to the next one."""
    _, found, rest = page.partition(f"\n{heading}\n")
    assert found, f"no heading {heading!r}"
    return re.split(r"\n##+ ", rest)[0]


def rows(text: str) -> dict[str, str]:
    """First cell, without its code span → the row."""
    return {match[1]: match[0] for match in re.finditer(r"^\| `([^`]+)`.*$", text, flags=re.MULTILINE)}


@pytest.mark.parametrize("name", PROTOS)
def test_every_message_field_and_enum_value_is_there_with_its_comment(name: str) -> None:
    page, file = proto_page(name, "Title"), PROTOS[name]
    for message in file.message_types_by_name.values():
        listed = rows(section(page, f"### {message.name} {{#{message.name}}}"))
        assert list(listed) == [field.name for field in message.fields], message.name
        for field, row in zip(message.fields, listed.values(), strict=True):
            cells = row.strip("| ").split(" | ")
            assert cells[1] == str(field.number)
            assert len(cells) == 4, f"{message.name}.{field.name} has no comment"
            assert field.message_type is None or field.message_type.name in cells[2] or "map from" in cells[2]
            assert field.is_repeated == cells[2].startswith(("repeated", "map from"))
    for enum in file.enum_types_by_name.values():
        assert list(rows(section(page, f"### {enum.name} {{#{enum.name}}}"))) == list(enum.values_by_name)


def test_every_rpc_is_there_with_the_role_it_needs() -> None:
    page = proto_page("curriculum.proto", "Title")
    methods = curriculum_pb2.DESCRIPTOR.services_by_name["CurriculumService"].methods
    for method in methods:
        text = section(page, f"### {method.name} {{#call-{method.name}}}")
        assert f"role `{METHOD_ROLES[method.name].name.lower()}`" in text
        assert f"(rpc.md#{method.input_type.name}), answers with" in text
        assert f"| [{method.name}](#call-{method.name}) | {METHOD_ROLES[method.name]} |" in page
    assert set(METHOD_ROLES) == {method.name for method in methods}
    assert "buf:lint" not in page


@pytest.mark.parametrize("place", REGISTRIES)
def test_every_strategy_part_is_there_with_every_parameter_and_its_meaning(place: str) -> None:
    page = strategy_page()
    for name in REGISTRIES[place]:
        part = REGISTRIES[place][name]
        listed = rows(section(page, f"### `{place}`: `{name}`"))
        assert list(listed) == list(part.model_fields)
        assert set(part.model_fields) <= set(field_docs(part)), (
            f"{place}.{name}: a parameter without a docstring"
        )


def test_the_fields_of_the_strategy_itself_are_there() -> None:
    page = strategy_page()
    parts = {"## The strategy": Strategy, "## `estimator`": Estimator, "## `iterations`": Iterations}
    for heading, model in parts.items():
        assert list(rows(section(page, heading))) == list(model.model_fields)
    assert "`0.1` | ≥ 0, ≤ 1 | Share of every batch" in page


def test_every_preset_is_there() -> None:
    presets = strategy_page().partition("\n## Presets\n")[2]
    assert re.findall(r"^### `([\w-]+)`", presets, flags=re.MULTILINE) == list(PRESETS)


def test_every_command_is_there_with_every_option() -> None:
    page = command_page()
    named = dict(commands())
    assert {"sampler-service serve", "sampler-service curricula create", "trainer-client train"} <= set(named)
    for name, command in named.items():
        text = section(page, f"## `{name}`")
        for parameter in command.params:
            for option in parameter.opts if parameter.param_type_name == "option" else ():
                assert f"`{option}`" in text, f"{name} {option}"


def test_every_variable_of_the_service_is_there() -> None:
    assert service_settings_table() in service_settings_page()


def test_every_route_is_there_with_the_role_it_needs_and_what_it_does() -> None:
    listed = rows(http_page())
    app = create_app(cast(CurriculumReader, None), writer=cast(StrategyWriter, object()))
    pending, served = list(app.routes), {}
    while pending:
        route = pending.pop()
        pending += getattr(getattr(route, "original_router", None), "routes", [])
        if path := getattr(route, "path", ""):
            for method in set(getattr(route, "methods", None) or ["GET"]) - {"HEAD"}:
                # A mount's path is where it begins; what a path holds may be of any length.
                served[f"{method} {path.replace(':path', '')}"] = required_role(
                    method, f"{path}/" if isinstance(route, Mount) else path
                )
    assert set(listed) == set(served)
    for route, role in served.items():
        cells = listed[route].strip("| ").split(" | ")
        assert cells[1].partition(",")[0] == (role or "open"), route
        assert cells[2], f"{route}: what it does is not said"
    assert "| admin | Puts a strategy in force." in listed["PUT /api/v1/curricula/{curriculum_id}/strategy"]
    assert listed["GET /metrics"].split(" | ")[1] == "read, of all curricula"


@pytest.mark.torch
def test_every_setting_of_the_trainer_is_there() -> None:
    from docs_reference.trainer_settings_page import trainer_settings_page
    from trainer_client.settings_list import settings_list

    listed = rows(trainer_settings_page())
    settings = list(settings_list())
    assert set(listed) == {name for name, _, _ in settings}
    assert all(text for _, _, text in settings)


def test_what_looks_like_markup_stays_as_it_was_written() -> None:
    assert prose("λ_s < 1, but `a_b < c` as it is") == "λ\\_s &lt; 1, but `a_b < c` as it is"
    assert (
        table(("a", ""), [("x | `y | z`", "two\nlines")]).splitlines()[-1] == "| x \\| `y | z` | two lines |"
    )
