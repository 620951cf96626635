"""Verifies an exported log, every entry and every tile, with PyPI's `aics-tlog` alone: `audit_aics.py DIR VKEY_FILE`."""

import sys
from pathlib import Path

import aics_tlog

directory, vkey = Path(sys.argv[1]), aics_tlog.read_vkey_file(Path(sys.argv[2]).read_text("utf-8"))
note = aics_tlog.parse_note((directory / "checkpoint").read_bytes())
checkpoint = aics_tlog.verify_checkpoint(note, vkey, expected_origin=vkey.name)
if not checkpoint.ok:
    sys.exit(f"checkpoint: {checkpoint.error}")
report = aics_tlog.audit_tiles(aics_tlog.FileSystemTileReader(directory), checkpoint.size, checkpoint.root)
print(f"verified {report.size} entries in {report.bundles} bundles, {report.tiles} tiles, root {checkpoint.root.hex()}")
