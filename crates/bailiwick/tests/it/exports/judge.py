"""Judges exported files with other people's programs: `jsonschema` with the published OCSF 1.8.0 schema, `opentelemetry-proto`."""

import base64
import copy
import json
import pathlib
import sys

import jsonschema
import ocsf_json_schema
from google.protobuf import json_format
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

FOLDER = pathlib.Path(sys.argv[1])


def validators():
    """One for each class and set of profiles, made of the published schema when it is asked for."""
    package = pathlib.Path(ocsf_json_schema.__file__).parent
    published = json.loads((package / "ocsf/1.8.0.json").read_text())
    schema = ocsf_json_schema.OcsfJsonSchemaEmbedded(ocsf_json_schema.OcsfJsonSchema(published))
    made = {}

    def of(event):
        key = (event["class_uid"], tuple(event["metadata"]["profiles"]))
        if key not in made:
            name = schema.lookup_class_name_from_uid(key[0])
            made[key] = jsonschema.Draft202012Validator(copy.deepcopy(schema.get_class_schema(name, list(key[1]))))
        return made[key]

    return of


def bytes_of_hex(message):
    """OTLP writes identities in hex where Protocol Buffers' JSON has base64."""
    if isinstance(message, list):
        return [bytes_of_hex(item) for item in message]
    if not isinstance(message, dict):
        return message
    ids = {"traceId", "spanId", "parentSpanId"}
    return {k: base64.b64encode(bytes.fromhex(v)).decode() if k in ids else bytes_of_hex(v) for k, v in message.items()}


def main():
    of = validators()
    events = [json.loads(line) for line in (FOLDER / "events.jsonl").read_text().splitlines()]
    for event in events:
        errors = [f"{error.json_path}: {error.message}" for error in of(event).iter_errors(event)]
        assert not errors, (errors, event)
    print(len(events), "events fit the published schema")
    broken = 0
    for event in events:
        for name in ("time", "metadata", "severity_id"):
            bad = {k: v for k, v in event.items() if k != name}
            broken += not of(event).is_valid(bad)
        broken += not of(event).is_valid({**event, "type_uid": 1})
        broken += not of(event).is_valid({**event, "verdict": "allow"})
    assert broken == 5 * len(events), (broken, len(events))
    print("and", broken, "broken ones do not")
    spans = records = 0
    for line in (FOLDER / "otel.jsonl").read_text().splitlines():
        message = bytes_of_hex(json.loads(line))
        if "resourceSpans" in message:
            request = json_format.ParseDict(message, ExportTraceServiceRequest())
            for span in request.resource_spans[0].scope_spans[0].spans:
                spans += 1
                assert len(span.trace_id) == 16 and len(span.span_id) == 8 and span.kind == 2, span
                assert 0 < span.start_time_unix_nano <= span.end_time_unix_nano, span
        else:
            request = json_format.ParseDict(message, ExportLogsServiceRequest())
            records += len(request.resource_logs[0].scope_logs[0].log_records)
    assert spans > 0 and records > 0
    print(spans, "spans and", records, "log records are read")


main()
