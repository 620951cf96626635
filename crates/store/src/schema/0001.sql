-- The ledger. No secondary index: what is found by call or task is found through the index file, which is rebuilt from here.
CREATE TABLE entries (
    idx    INTEGER PRIMARY KEY,
    kind   TEXT NOT NULL,
    task   BLOB,
    call   BLOB,
    closes INTEGER,
    leaf   BLOB NOT NULL,
    body   BLOB NOT NULL
) STRICT;

CREATE TABLE head (
    id          INTEGER PRIMARY KEY CHECK (id = 0),
    size        INTEGER NOT NULL,
    control_seq INTEGER NOT NULL,
    settled     INTEGER NOT NULL,
    frontier    BLOB NOT NULL,
    root        BLOB NOT NULL,
    checkpoint  TEXT NOT NULL
) STRICT;
INSERT INTO head VALUES (0, 0, 0, 0, x'', zeroblob(32), '');

CREATE TABLE tasks (
    id         BLOB PRIMARY KEY,
    agent      TEXT NOT NULL,
    owner      TEXT NOT NULL,
    subject    TEXT NOT NULL,
    state      TEXT NOT NULL CHECK (state IN ('open', 'closing', 'closed')),
    state_json TEXT NOT NULL,
    used       INTEGER NOT NULL DEFAULT 0,
    opened_at  INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    task       TEXT NOT NULL
) STRICT;
CREATE INDEX tasks_state ON tasks (state) WHERE state <> 'closed';
CREATE INDEX tasks_agent ON tasks (agent);

CREATE TABLE holds (
    id         BLOB PRIMARY KEY,
    key        BLOB NOT NULL,
    task       BLOB NOT NULL REFERENCES tasks (id),
    call       BLOB NOT NULL,
    agent      TEXT NOT NULL,
    owner      TEXT NOT NULL,
    subject    TEXT NOT NULL,
    tool       TEXT NOT NULL,
    effect     TEXT NOT NULL,
    target     TEXT NOT NULL,
    arguments  BLOB NOT NULL,
    digest     BLOB NOT NULL,
    revision   TEXT NOT NULL,
    people     TEXT NOT NULL,
    count      INTEGER NOT NULL,
    reasons    TEXT NOT NULL,
    approvals  TEXT NOT NULL,
    at         INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    state      TEXT NOT NULL CHECK (state IN ('pending', 'approved', 'refused', 'expired', 'withdrawn', 'consumed')),
    state_json TEXT NOT NULL
) STRICT;
CREATE INDEX holds_key ON holds (key, task);
CREATE INDEX holds_task ON holds (task, state);
CREATE INDEX holds_state ON holds (state) WHERE state IN ('pending', 'approved');

-- What an asynchronous call gave, until its caller fetches it. Sealed by the credentials room where it must be.
CREATE TABLE results (hold BLOB PRIMARY KEY REFERENCES holds (id), result BLOB NOT NULL) STRICT;

-- Sealed blobs only.
CREATE TABLE secrets (name TEXT PRIMARY KEY, sealed BLOB NOT NULL) STRICT, WITHOUT ROWID;

CREATE TABLE pins (
    system        TEXT NOT NULL,
    tool          TEXT NOT NULL,
    definition    BLOB NOT NULL,
    digest        BLOB NOT NULL,
    effect        TEXT NOT NULL,
    status        TEXT NOT NULL CHECK (status IN ('classified', 'proposed', 'quarantined')),
    classified_by TEXT,
    at            INTEGER NOT NULL,
    PRIMARY KEY (system, tool)
) STRICT;

CREATE TABLE agents (name TEXT PRIMARY KEY, document TEXT NOT NULL, public_key BLOB NOT NULL, at INTEGER NOT NULL) STRICT;
CREATE TABLE people (name TEXT PRIMARY KEY, document TEXT NOT NULL, public_key BLOB NOT NULL, at INTEGER NOT NULL) STRICT;

-- Assertions that were used, until they expire by themselves. The jti is kept as a digest: strangers choose its length.
CREATE TABLE jtis (issuer TEXT NOT NULL, jti BLOB NOT NULL, expires INTEGER NOT NULL, PRIMARY KEY (issuer, jti)) STRICT, WITHOUT ROWID;

CREATE TABLE incidents (id BLOB PRIMARY KEY, kind TEXT NOT NULL, at INTEGER NOT NULL, document TEXT NOT NULL) STRICT;

CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
