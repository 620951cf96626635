-- The marks of what a task, and all that shares its data, has been given: a JSON list that only grows.
ALTER TABLE tasks ADD COLUMN labels TEXT NOT NULL DEFAULT '[]';
