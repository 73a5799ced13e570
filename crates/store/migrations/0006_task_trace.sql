-- The trace that asked for a task, as a W3C traceparent.
ALTER TABLE tasks ADD COLUMN trace TEXT;
