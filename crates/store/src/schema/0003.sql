-- Shards of the ledger after the first: a log under a new name and key, over the same entries, begun when the old one could not be
-- continued. `first` is the entry that says so; `known` the furthest checkpoint of the old one that was seen anywhere.
CREATE TABLE shards (
    number     INTEGER PRIMARY KEY,
    origin     TEXT NOT NULL UNIQUE,
    vkey       TEXT NOT NULL,
    first      INTEGER NOT NULL,
    old_origin TEXT NOT NULL,
    old_vkey   TEXT NOT NULL,
    known      TEXT NOT NULL,
    reason     TEXT NOT NULL,
    settled    INTEGER NOT NULL,
    at         INTEGER NOT NULL
) STRICT;

-- Checkpoints with the cosignatures of witnesses. `witnesses` are the ids of their keys, as JSON in order.
CREATE TABLE cosigned (
    origin    TEXT NOT NULL,
    size      INTEGER NOT NULL,
    note      TEXT NOT NULL,
    witnesses TEXT NOT NULL,
    at        INTEGER NOT NULL,
    PRIMARY KEY (origin, size)
) STRICT, WITHOUT ROWID;
