-- Cursors of exports: the index of the first entry that a sink has not certainly got. A cursor stays when its sink is taken out of the
-- configuration, until somebody says that it may be forgotten.
CREATE TABLE exports (name TEXT PRIMARY KEY, next INTEGER NOT NULL, at INTEGER NOT NULL) STRICT, WITHOUT ROWID;
