"""What the docs use of grpcurl, where it is not installed: `[-plaintext] [-d JSON] HOST list|SERVICE/METHOD`.

Like grpcurl it knows nothing of the API but what the service's reflection says.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator

import grpc
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase


def main() -> None:
    parser = argparse.ArgumentParser(prog="grpcurl")
    parser.add_argument("-plaintext", action="store_true", required=True)
    parser.add_argument("-d", dest="data", default="")
    parser.add_argument("host")
    parser.add_argument("method")
    options = parser.parse_args()
    with grpc.insecure_channel(options.host) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        if options.method == "list":
            print("\n".join(sorted(database.get_services())))
            return
        try:
            for answer in call(channel, DescriptorPool(database), options.method, options.data):
                print(json_format.MessageToJson(answer))
        except grpc.RpcError as error:
            sys.exit(f"ERROR:\n  Code: {error.code().name}\n  Message: {error.details()}")


def call(channel: grpc.Channel, pool: DescriptorPool, path: str, data: str) -> Iterator[Message]:
    service, _, name = path.partition("/")
    method = pool.FindServiceByName(service).methods_by_name[name]
    request_class = message_factory.GetMessageClass(method.input_type)
    requests = (json_format.ParseDict(one, request_class()) for one in documents(data))
    stub = channel.stream_stream(
        f"/{path}",
        request_serializer=request_class.SerializeToString,
        response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
    )
    # To the wire, one message is a stream of one.
    yield from stub(requests, timeout=60)


def documents(text: str) -> Iterator[object]:
    """JSON documents, one after the other."""
    decoder, rest = json.JSONDecoder(), text.strip()
    while rest:
        value, end = decoder.raw_decode(rest)
        yield value
        rest = rest[end:].strip()


if __name__ == "__main__":
    main()
