"""Makes the JSON Schemas beside this file: of the OCSF 1.8.0 classes that exports use, with the profiles that they name.

The schema itself comes from the Python package `ocsf-json-schema` 1.2.0, which carries the published OCSF 1.8.0 schema as its server
exports it (Apache License 2.0, see LICENSE), and makes JSON Schema of it. Only what constrains nothing is left out: titles and marks
of deprecation. Run:

    python3 -m venv VENV && VENV/bin/pip install ocsf-json-schema==1.2.0
    VENV/bin/python crates/bailiwick/tests/it/ocsf/make.py
"""

import importlib.metadata
import json
import pathlib

import ocsf_json_schema

CLASSES = {
    "api_activity": ["ai_operation", "security_control", "trace"],
    "application_lifecycle": [],
    "authorize_session": ["security_control"],
    "base_event": [],
    "detection_finding": ["security_control"],
    "entity_management": ["security_control"],
}
SILENT = {"title", "deprecated"}


def plain(node, names=False):
    """Without what constrains nothing. Below `properties` and `$defs` stand names, and not keywords."""
    if isinstance(node, list):
        return [plain(item) for item in node]
    if not isinstance(node, dict):
        return node
    kept = {key: value for key, value in node.items() if names or key not in SILENT}
    return {key: plain(value, not names and key in ("properties", "$defs")) for key, value in kept.items()}


def main():
    assert importlib.metadata.version("ocsf-json-schema") == "1.2.0"
    package = pathlib.Path(ocsf_json_schema.__file__).parent
    published = json.loads((package / "ocsf/1.8.0.json").read_text())
    assert published["version"] == "1.8.0"
    here = pathlib.Path(__file__).parent
    for name, profiles in CLASSES.items():
        schema = ocsf_json_schema.OcsfJsonSchemaEmbedded(ocsf_json_schema.OcsfJsonSchema(published)).get_class_schema(name, profiles)
        text = json.dumps(plain(schema), sort_keys=True, separators=(",", ":"))
        (here / f"{published['classes'][name]['uid']}.json").write_text(text + "\n")
    (here / "LICENSE").write_text((package / "ocsf/LICENSE.txt").read_text())


main()
