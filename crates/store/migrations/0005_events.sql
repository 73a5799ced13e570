-- The event log. A change inserts its events without a number, so that no change waits for another's;
-- whoever reads the log first numbers what has been committed (docs/decisions/0015). `ordinal` is the
-- order in which that is done.
CREATE TABLE event_log (
    id TEXT NOT NULL PRIMARY KEY,
    seq BIGINT UNIQUE,
    ordinal BIGINT NOT NULL,
    at BIGINT NOT NULL,
    type TEXT NOT NULL,
    subject_kind TEXT NOT NULL,
    subject_id TEXT NOT NULL,
    workspace_id TEXT,
    task_id TEXT,
    request_id TEXT,
    actor_json TEXT NOT NULL,
    data_json TEXT NOT NULL
);
CREATE INDEX event_log_unnumbered ON event_log (subject_id, ordinal) WHERE seq IS NULL;
CREATE INDEX event_log_by_subject ON event_log (subject_id, seq);
CREATE INDEX event_log_by_workspace ON event_log (workspace_id, seq) WHERE workspace_id IS NOT NULL;
INSERT INTO counters (name, value) VALUES ('event', 0);

CREATE TABLE webhooks (
    id TEXT NOT NULL PRIMARY KEY,
    url TEXT NOT NULL,
    filter_json TEXT NOT NULL,
    secret TEXT NOT NULL,
    state TEXT NOT NULL,
    state_json TEXT NOT NULL,
    reached BIGINT NOT NULL,
    failures BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

-- `next_at` is when a pending delivery is tried next, by whoever takes it. While it is being tried,
-- that is when its lease ends.
CREATE TABLE webhook_deliveries (
    id TEXT NOT NULL PRIMARY KEY,
    webhook_id TEXT NOT NULL REFERENCES webhooks (id) ON DELETE CASCADE,
    event_seq BIGINT NOT NULL,
    event_json TEXT NOT NULL,
    state TEXT NOT NULL,
    attempts BIGINT NOT NULL,
    refusal_json TEXT,
    next_at BIGINT,
    created_at BIGINT NOT NULL,
    finished_at BIGINT,
    UNIQUE (webhook_id, event_seq)
);
CREATE INDEX webhook_deliveries_pending ON webhook_deliveries (webhook_id, next_at)
    WHERE state = 'pending';
CREATE INDEX webhook_deliveries_finished ON webhook_deliveries (finished_at)
    WHERE finished_at IS NOT NULL;

-- What is NULL has no limit.
CREATE TABLE projects (
    id TEXT NOT NULL PRIMARY KEY,
    max_vms BIGINT,
    max_vcpus BIGINT,
    max_memory_mib BIGINT,
    max_workspaces BIGINT,
    max_queued_prompts BIGINT
);
INSERT INTO projects (id) VALUES ('default');
ALTER TABLE workspaces ADD COLUMN project TEXT NOT NULL DEFAULT 'default';
ALTER TABLE vms ADD COLUMN project TEXT NOT NULL DEFAULT 'default';
ALTER TABLE vms ADD COLUMN expires_at BIGINT;
CREATE INDEX workspaces_by_project ON workspaces (project);
CREATE INDEX vms_by_project ON vms (project) WHERE ended_at IS NULL;
CREATE INDEX vms_expiring ON vms (worker_id, expires_at)
    WHERE ended_at IS NULL AND expires_at IS NOT NULL;
CREATE INDEX runs_queued ON runs (workspace_id) WHERE state = 'queued';
