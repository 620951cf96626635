-- Leases: the life of each credential that was made for a task. The row is there before anything is made at the system, and says by
-- which name it is found there. `secret` is sealed, and gone with the ending. `task` is null while an account waits in a pool.
CREATE TABLE leases (
    id         BLOB PRIMARY KEY,
    task       BLOB REFERENCES tasks (id),
    system     TEXT NOT NULL,
    class      TEXT NOT NULL,
    state      TEXT NOT NULL CHECK (state IN ('pooled', 'intended', 'live', 'ending', 'ended')),
    begun_at   INTEGER NOT NULL,
    ended_at   INTEGER,
    lease      TEXT NOT NULL,
    life       TEXT NOT NULL,
    secret     BLOB CHECK (secret IS NULL OR state <> 'ended')
) STRICT;
CREATE INDEX leases_task ON leases (task) WHERE task IS NOT NULL;
CREATE INDEX leases_open ON leases (state) WHERE state <> 'ended';
