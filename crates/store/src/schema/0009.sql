-- Tasks that are parts of others, so that the parts of one are found. No foreign key: a task is pruned before its parts may be.
ALTER TABLE tasks ADD COLUMN parent BLOB;
CREATE INDEX tasks_parent ON tasks (parent) WHERE parent IS NOT NULL;
