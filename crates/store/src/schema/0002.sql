-- The secret of each task from which the salts of its calls' digests are made. Sealed.
CREATE TABLE salts (task BLOB PRIMARY KEY REFERENCES tasks (id), sealed BLOB NOT NULL) STRICT, WITHOUT ROWID;

-- What was ordered to be erased: on record with its entry in the same transaction, and done again at the next start until it is done.
CREATE TABLE erasures (
    entry INTEGER PRIMARY KEY,
    at    INTEGER NOT NULL,
    by    TEXT NOT NULL,
    kind  TEXT NOT NULL CHECK (kind IN ('task', 'call')),
    ids   BLOB NOT NULL,
    done  INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX erasures_due ON erasures (entry) WHERE done = 0;

-- Where the ledger's entries begin: the leaf hashes of all before `minimum` are there, their bodies are not. Before `done` they are gone
-- from the file too.
CREATE TABLE pruned (
    id      INTEGER PRIMARY KEY CHECK (id = 0),
    minimum INTEGER NOT NULL,
    done    INTEGER NOT NULL
) STRICT;
INSERT INTO pruned VALUES (0, 0, 0);
