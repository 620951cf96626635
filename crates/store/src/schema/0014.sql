-- The journal that must stand beside this database, because the database has not everything of it. Empty: none must.
ALTER TABLE head ADD COLUMN journal_must BLOB NOT NULL DEFAULT x'';
-- The journals that may stand beside it, 16 bytes each: the database has everything of them.
ALTER TABLE head ADD COLUMN journal_may BLOB NOT NULL DEFAULT x'';
-- A journal of before has no name. Only a database that had one goes on with it.
UPDATE head SET journal_may = zeroblob(16) WHERE journal > 0;
