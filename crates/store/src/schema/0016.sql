-- Whether the running copy that a task belongs to has a name. One that has none, as those of before, may be any that has none.
ALTER TABLE tasks ADD COLUMN named INTEGER NOT NULL DEFAULT 0;
-- What the tasks of a running copy were given is looked up when its model opens another one, or goes on with one.
CREATE INDEX tasks_labelled ON tasks (agent, json_extract(task, '$.instance'), named, labels) WHERE labels <> '[]';
