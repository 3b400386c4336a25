"""A page per proto: its calls, messages, fields and enums with their comments."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import grpc_tools
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
)
from grpc_tools import protoc

from docs_reference.markdown import code, prose, table
from sampler_service.access import Role
from sampler_service.rpc.roles import role_of

__all__ = ["proto_page"]

_PROTOS = Path(__file__).parents[1] / "proto"
_PACKAGE = ".curriculum.v1."
_PAGES = {"curriculum/v1/curriculum.proto": "rpc.md", "curriculum/v1/log.proto": "log-events.md"}
# Places within a file's descriptor, as its source info numbers them (descriptor.proto).
_SYNTAX, _MESSAGES, _ENUMS, _SERVICES = 12, 4, 5, 6
_FIELDS = _VALUES = _METHODS = 2

Comments = Mapping[tuple[int, ...], str]


def proto_page(name: str, title: str) -> str:
    """The page of one of our protos.

    Raises:
        RuntimeError: protoc refuses the file; it has said why on stderr.
    """
    files = {file.name: file for file in _described(name).file}
    homes = {
        f"{_PACKAGE}{kind.name}": page
        for path, page in _PAGES.items()
        if path in files
        for kind in _kinds(files[path])
    }
    file = files[f"curriculum/v1/{name}"]
    return "\n\n".join([f"# {title}", *_sections(file, homes)]) + "\n"


def _described(name: str) -> FileDescriptorSet:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "descriptors"
        arguments = [
            "protoc", f"-I{_PROTOS}", f"-I{Path(grpc_tools.__file__).parent / '_proto'}",
            "--include_imports", "--include_source_info", f"--descriptor_set_out={output}", f"curriculum/v1/{name}",
        ]  # fmt: skip
        if protoc.main(arguments) != 0:
            raise RuntimeError(f"protoc does not take proto/curriculum/v1/{name}; it says why above.")
        return FileDescriptorSet.FromString(output.read_bytes())


def _kinds(file: FileDescriptorProto) -> Iterator[DescriptorProto | EnumDescriptorProto]:
    yield from file.message_type
    yield from file.enum_type


def _comments(file: FileDescriptorProto) -> Comments:
    found = {}
    for place in file.source_code_info.location:
        lines = (place.leading_comments + place.trailing_comments).splitlines()
        kept = [line.strip() for line in lines if not line.strip().startswith("buf:lint:")]
        found[tuple(place.path)] = "\n".join(kept).strip()
    return found


def _sections(file: FileDescriptorProto, homes: Mapping[str, str]) -> Iterator[str]:
    comments = _comments(file)
    yield prose(comments[_SYNTAX,])
    for index, service in enumerate(file.service):
        yield f"## Calls of {service.name}"
        yield (
            f"Where the service has tokens, each call needs a role: {Role.__doc__} Each role may do what the one"
            " before it may, with the curricula in the token's scope ([Operations](../operations.md))."
        )
        yield table(
            ("call", "role", ""),
            (
                (
                    f"[{method.name}](#call-{method.name})",
                    role_of(method.name).name.lower(),
                    prose(comments[_SERVICES, index, _METHODS, number]),
                )
                for number, method in enumerate(service.method)
            ),
        )
        for number, method in enumerate(service.method):
            yield _method(method, comments[_SERVICES, index, _METHODS, number], homes)
    yield "## Messages"
    for index, message in enumerate(file.message_type):
        yield _message(message, (_MESSAGES, index), comments, homes)
    if file.enum_type:
        yield "## Enums"
    for index, enum in enumerate(file.enum_type):
        yield _enum(enum, (_ENUMS, index), comments)


def _method(method: MethodDescriptorProto, comment: str, homes: Mapping[str, str]) -> str:
    takes = "a stream of " * method.client_streaming + _link(method.input_type, homes)
    gives = "a stream of " * method.server_streaming + _link(method.output_type, homes)
    needs = f"Takes {takes}, answers with {gives}. Needs the role `{role_of(method.name).name.lower()}`."
    return f"### {method.name} {{#call-{method.name}}}\n\n{prose(comment)}\n\n{needs}"


def _message(
    message: DescriptorProto, path: tuple[int, ...], comments: Comments, homes: Mapping[str, str]
) -> str:
    entries = {nested.name: nested for nested in message.nested_type if nested.options.map_entry}
    rows = []
    for index, field in enumerate(message.field):
        text = prose(comments[*path, _FIELDS, index])
        if field.HasField("oneof_index") and not field.proto3_optional:
            text += f" (One of `{message.oneof_decl[field.oneof_index].name}`.)"
        kind = _field_type(field, entries, homes)
        rows.append((code(field.name), str(field.number), kind, text))
    fields = table(("field", "number", "type", ""), rows) if rows else "No fields."
    return f"### {message.name} {{#{message.name}}}\n\n{prose(comments[path])}\n\n{fields}"


def _enum(enum: EnumDescriptorProto, path: tuple[int, ...], comments: Comments) -> str:
    rows = [
        (code(value.name), str(value.number), prose(comments[*path, _VALUES, index]))
        for index, value in enumerate(enum.value)
    ]
    return f"### {enum.name} {{#{enum.name}}}\n\n{prose(comments[path])}\n\n{table(('value', 'number', ''), rows)}"


def _field_type(
    field: FieldDescriptorProto, entries: Mapping[str, DescriptorProto], homes: Mapping[str, str]
) -> str:
    kind = _plain_type(field, homes)
    if field.type_name.rpartition(".")[2] in entries:
        key, value = entries[field.type_name.rpartition(".")[2]].field
        return f"map from {_plain_type(key, homes)} to {_plain_type(value, homes)}"
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        return f"repeated {kind}"
    return f"optional {kind}" if field.proto3_optional else kind


def _plain_type(field: FieldDescriptorProto, homes: Mapping[str, str]) -> str:
    if field.type_name:
        return _link(field.type_name, homes)
    return FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()


def _link(type_name: str, homes: Mapping[str, str]) -> str:
    name = type_name.rpartition(".")[2]
    return f"[{name}]({homes[type_name]}#{name})" if type_name in homes else code(type_name.lstrip("."))
