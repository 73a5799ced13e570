-- Valid for SQLite and PostgreSQL alike. Times are milliseconds since the epoch, flags are 0 or 1,
-- *_json columns hold the domain's JSON.

-- One row per sequence: taking the next number locks the row until the transaction ends, so that
-- numbers become visible in their order.
CREATE TABLE counters (
    name TEXT NOT NULL PRIMARY KEY,
    value BIGINT NOT NULL
);
INSERT INTO counters (name, value) VALUES ('task', 0);

CREATE TABLE workers (
    id TEXT NOT NULL PRIMARY KEY,
    hostname TEXT NOT NULL,
    version TEXT NOT NULL,
    driver TEXT,
    driver_reason TEXT NOT NULL,
    internal_address TEXT NOT NULL,
    templates_json TEXT NOT NULL,
    vcpus BIGINT NOT NULL,
    memory_mib BIGINT NOT NULL,
    vms BIGINT NOT NULL,
    state TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    heartbeat_at BIGINT NOT NULL
);

CREATE TABLE workspaces (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    ai_assistant TEXT NOT NULL,
    spec_json TEXT NOT NULL,
    worker_id TEXT NOT NULL,
    -- No reference: a VM comes and goes, its workspace stays.
    vm_id TEXT,
    idle_timeout_s BIGINT NOT NULL,
    state TEXT NOT NULL,
    state_json TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

CREATE TABLE vms (
    id TEXT NOT NULL PRIMARY KEY,
    spec_json TEXT NOT NULL,
    worker_id TEXT NOT NULL,
    -- No reference: what happens to a VM never reaches a workspace, and the other way round.
    workspace_id TEXT,
    state TEXT NOT NULL,
    state_json TEXT NOT NULL,
    driver TEXT,
    accelerator TEXT,
    agent_transport TEXT,
    timings_json TEXT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    ended_at BIGINT
);
CREATE INDEX vms_live ON vms (worker_id) WHERE ended_at IS NULL;
CREATE INDEX vms_by_workspace ON vms (workspace_id, id);

CREATE TABLE tasks (
    id TEXT NOT NULL PRIMARY KEY,
    seq BIGINT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    kind_json TEXT NOT NULL,
    serial_key TEXT,
    worker_id TEXT NOT NULL,
    state TEXT NOT NULL,
    attempts BIGINT NOT NULL,
    cancel_requested BIGINT NOT NULL,
    not_before BIGINT NOT NULL,
    lease_until BIGINT,
    fault_json TEXT,
    created_at BIGINT NOT NULL,
    started_at BIGINT,
    finished_at BIGINT
);
CREATE INDEX tasks_queued ON tasks (worker_id, seq) WHERE state = 'queued';
CREATE INDEX tasks_held ON tasks (worker_id, lease_until) WHERE lease_until IS NOT NULL;
CREATE INDEX tasks_by_serial_key ON tasks (serial_key, seq);
CREATE INDEX tasks_finished ON tasks (finished_at) WHERE finished_at IS NOT NULL;
-- One at a time, whatever the code does.
CREATE UNIQUE INDEX tasks_one_per_serial_key ON tasks (serial_key)
    WHERE state IN ('claimed', 'started');

-- Prompts (with a workspace) and executions (without).
CREATE TABLE runs (
    id TEXT NOT NULL PRIMARY KEY,
    workspace_id TEXT REFERENCES workspaces (id) ON DELETE CASCADE,
    -- No reference: prompts outlive the VM they ran in.
    vm_id TEXT,
    task_id TEXT,
    prompt_json TEXT,
    timeout_ms BIGINT,
    command_json TEXT,
    state TEXT NOT NULL,
    state_json TEXT NOT NULL,
    last_seq BIGINT NOT NULL,
    output_bytes BIGINT NOT NULL,
    truncated BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    started_at BIGINT,
    finished_at BIGINT
);
CREATE INDEX runs_by_workspace ON runs (workspace_id, id);
CREATE INDEX runs_by_vm ON runs (vm_id, id);
CREATE INDEX runs_open ON runs (vm_id) WHERE finished_at IS NULL;
CREATE INDEX runs_by_task ON runs (task_id);

CREATE TABLE events (
    run_id TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    seq BIGINT NOT NULL,
    at BIGINT NOT NULL,
    body_json TEXT NOT NULL,
    PRIMARY KEY (run_id, seq)
);

CREATE TABLE idempotency (
    key TEXT NOT NULL PRIMARY KEY,
    request_sha256 TEXT NOT NULL,
    resource_id TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE INDEX idempotency_by_age ON idempotency (created_at);
