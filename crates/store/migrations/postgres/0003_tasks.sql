-- Numbers for tasks, which no transaction has to wait for. See docs/decisions/0013.
CREATE SEQUENCE task_seq OWNED BY tasks.seq;
SELECT setval('task_seq', (SELECT COALESCE(MAX(seq), 0) + 1 FROM tasks))::text;
