-- The place in the journal up to which the database has everything. A program that does not know the journal must not open the database:
-- what stands behind that place would be lost to it.
ALTER TABLE head ADD COLUMN journal INTEGER NOT NULL DEFAULT 0;
-- The database has every entry before this one. From there on a change may stand behind entries that only the journal has.
ALTER TABLE head ADD COLUMN dense INTEGER NOT NULL DEFAULT 0;
UPDATE head SET dense = size;
