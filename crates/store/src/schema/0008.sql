-- Secrets that are replaced at their system: where the replacement stands, and whose the secret is. No row: nothing was ever under way.
-- `candidate` is sealed under the secret's own name.
CREATE TABLE kept_secrets (
    name      TEXT PRIMARY KEY,
    revision  INTEGER NOT NULL,
    phase     TEXT NOT NULL CHECK (phase IN ('settled', 'open', 'lost')),
    candidate BLOB CHECK (candidate IS NULL OR phase <> 'settled'),
    holder    TEXT
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX kept_secrets_holder ON kept_secrets (holder) WHERE holder IS NOT NULL;
