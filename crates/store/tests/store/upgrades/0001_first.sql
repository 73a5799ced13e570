-- What a binary of this version leaves: a workspace with a VM, a prompt that ended, one that runs, one
-- that waits, an interactive command that runs, and a VM that ended.

UPDATE counters SET value = 4 WHERE name = 'task';

INSERT INTO workers (id, hostname, version, driver, driver_reason, internal_address, templates_json,
    vcpus, memory_mib, vms, state, created_at, heartbeat_at)
VALUES ('wk_00000000000000000000000001', 'host', '0.1.0', 'qemu', 'it boots a guest',
    'unix:/var/lib/aetherium/worker.sock', '["debian"]', 2, 4096, 1, 'active', 1, 2);

INSERT INTO workspaces (id, name, ai_assistant, spec_json, worker_id, vm_id, idle_timeout_s, state,
    state_json, created_at, updated_at)
VALUES ('ws_00000000000000000000000001', 'kept', 'shell',
    '{"template":"debian","vcpus":1,"memory_mib":512,"disk_mib":2048,"network":"isolated"}',
    'wk_00000000000000000000000001', 'vm_00000000000000000000000001', 900, 'ready',
    '{"state":"ready"}', 0, 0);

INSERT INTO vms (id, spec_json, worker_id, workspace_id, state, state_json, driver, accelerator,
    agent_transport, created_at, updated_at, ended_at)
VALUES
    ('vm_00000000000000000000000001',
    '{"template":"debian","vcpus":1,"memory_mib":512,"disk_mib":2048,"network":"isolated"}',
    'wk_00000000000000000000000001', 'ws_00000000000000000000000001', 'running',
    '{"state":"running"}', 'qemu', 'tcg', 'vsock', 0, 3, NULL),
    ('vm_00000000000000000000000002',
    '{"template":"debian","vcpus":1,"memory_mib":512,"disk_mib":2048,"network":"isolated"}',
    'wk_00000000000000000000000001', NULL, 'failed',
    '{"state":"failed","termination":{"code":"vmm_killed","detail":"it was killed"}}', NULL, NULL,
    NULL, 0, 4, 4);

INSERT INTO tasks (id, seq, kind, kind_json, serial_key, worker_id, state, attempts,
    cancel_requested, not_before, lease_until, created_at, started_at, finished_at)
VALUES
    ('tk_00000000000000000000000001', 1, 'workspace:create',
    '{"type":"workspace:create","workspace_id":"ws_00000000000000000000000001"}',
    'ws_00000000000000000000000001', 'wk_00000000000000000000000001', 'succeeded', 1, 0, 0, NULL,
    0, NULL, 0),
    ('tk_00000000000000000000000002', 2, 'prompt:execute',
    '{"type":"prompt:execute","workspace_id":"ws_00000000000000000000000001","prompt_id":"pr_00000000000000000000000001"}',
    'ws_00000000000000000000000001', 'wk_00000000000000000000000001', 'succeeded', 1, 0, 0, NULL,
    0, 1, 3),
    ('tk_00000000000000000000000003', 3, 'prompt:execute',
    '{"type":"prompt:execute","workspace_id":"ws_00000000000000000000000001","prompt_id":"pr_00000000000000000000000002"}',
    'ws_00000000000000000000000001', 'wk_00000000000000000000000001', 'started', 1, 0, 0, 30000,
    0, 1, NULL),
    ('tk_00000000000000000000000004', 4, 'prompt:execute',
    '{"type":"prompt:execute","workspace_id":"ws_00000000000000000000000001","prompt_id":"pr_00000000000000000000000003"}',
    'ws_00000000000000000000000001', 'wk_00000000000000000000000001', 'queued', 0, 0, 0, NULL,
    0, NULL, NULL);

INSERT INTO runs (id, workspace_id, vm_id, task_id, prompt_json, timeout_ms, command_json, state,
    state_json, last_seq, output_bytes, truncated, created_at, started_at, finished_at)
VALUES
    ('pr_00000000000000000000000001', 'ws_00000000000000000000000001',
    'vm_00000000000000000000000001', 'tk_00000000000000000000000002', '"echo hello"', 5, NULL,
    'completed',
    '{"state":"completed","result":{"exit":{"kind":"exited","code":3},"exit_code":3,"wall_ms":1,"user_ms":1,"system_ms":0,"max_rss_kib":9}}',
    2, 6, 0, 0, 1, 3),
    ('pr_00000000000000000000000002', 'ws_00000000000000000000000001',
    'vm_00000000000000000000000001', 'tk_00000000000000000000000003', '"sleep 600"', NULL, NULL,
    'running', '{"state":"running"}', 0, 0, 0, 0, 1, NULL),
    ('pr_00000000000000000000000003', 'ws_00000000000000000000000001', NULL,
    'tk_00000000000000000000000004', '"echo next"', NULL, NULL, 'queued', '{"state":"queued"}', 0,
    0, 0, 0, NULL, NULL),
    ('ex_00000000000000000000000001', NULL, 'vm_00000000000000000000000001', NULL, NULL, NULL,
    '{"argv":["true"]}', 'running', '{"state":"running"}', 0, 0, 0, 0, 3, NULL);

INSERT INTO events (run_id, seq, at, body_json)
VALUES
    ('pr_00000000000000000000000001', 1, 2, '{"type":"output","stream":"stdout","text":"hello\n"}'),
    ('pr_00000000000000000000000001', 2, 3,
    '{"type":"end","state":"completed","result":{"exit":{"kind":"exited","code":3},"exit_code":3,"wall_ms":1,"user_ms":1,"system_ms":0,"max_rss_kib":9}}');

INSERT INTO idempotency (key, request_sha256, resource_id, created_at)
VALUES ('once', '00ff', 'pr_00000000000000000000000002', 0);
