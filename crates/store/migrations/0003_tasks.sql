-- When tasks run: how soon (priority, and the turn that follows from it), not before when, by when.
ALTER TABLE tasks ADD COLUMN priority TEXT NOT NULL DEFAULT 'normal';
ALTER TABLE tasks ADD COLUMN turn BIGINT NOT NULL DEFAULT 0;
ALTER TABLE tasks ADD COLUMN run_at BIGINT;
ALTER TABLE tasks ADD COLUMN deadline BIGINT;
-- 1 for those that were tried as often as allowed and failed each time.
ALTER TABLE tasks ADD COLUMN dead BIGINT NOT NULL DEFAULT 0;
UPDATE tasks SET turn = created_at + 30000;
UPDATE tasks SET dead = 1 WHERE state = 'failed' AND fault_json LIKE '%"code":"retries_exhausted"%';

DROP INDEX tasks_queued;
CREATE INDEX tasks_queued ON tasks (worker_id, turn, seq) WHERE state = 'queued';
CREATE INDEX tasks_due ON tasks (deadline) WHERE state = 'queued' AND deadline IS NOT NULL;
CREATE INDEX tasks_unfinished_by_serial_key ON tasks (serial_key, seq) WHERE finished_at IS NULL;
CREATE INDEX tasks_dead ON tasks (id) WHERE dead = 1;
