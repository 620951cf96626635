"""Verifies an exported log, every entry and every tile, with PyPI's `tlog-scales` alone: `audit_scales.py DIR VKEY_FILE`.

Its `TilesReader` believes the tiles. So the checkpoint's signature and the root are checked first; then, for each tile of leaves,
an inclusion proof of its first leaf, which is made from all hashes of that tile and of those above it; then each entry against its
hash in the tile.
"""

import sys
from pathlib import Path

from tlog_scales import backend, reader, signing, tiles

directory, vkey = Path(sys.argv[1]), signing.Vkey.from_string(Path(sys.argv[2]).read_text("utf-8").strip())
log = reader.TilesReader(backend.LocalBackend(directory))
checkpoint = log.get_checkpoint()
checkpoint.verify(vkey)
if checkpoint.origin != vkey.name:
    sys.exit("checkpoint: another log's")
if log.calculate_root_hash() != checkpoint.root_hash:
    sys.exit("the tiles do not lead to the signed root")
for first in range(0, checkpoint.size, 256):
    proof = log.get_inclusion_proof(first, checkpoint.size)
    proof.check(log.mth(first, first + 1), checkpoint.root_hash)
    for index in range(first, min(first + 256, checkpoint.size)):
        if tiles.leaf_hash(log.get_entry(index)) != log.mth(index, index + 1):
            sys.exit(f"entry {index} is not the one in its tile")
print(f"verified {checkpoint.size} entries, root {checkpoint.root_hash.hex()}")
