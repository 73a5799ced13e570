-- Of another worker: one that was tried too often, and one that is put off.
INSERT INTO tasks (id, seq, kind, kind_json, serial_key, worker_id, state, attempts,
    cancel_requested, not_before, lease_until, fault_json, created_at, started_at, finished_at,
    priority, turn, run_at, deadline, dead)
VALUES
    ('tk_00000000000000000000000005', 0, 'vm:delete',
    '{"type":"vm:delete","vm_id":"vm_00000000000000000000000002"}', 'vm_00000000000000000000000002',
    'wk_00000000000000000000000002', 'failed', 5, 0, 0, NULL,
    '{"code":"retries_exhausted","detail":"x"}', 0, NULL, 3, 'normal', 30000, NULL, NULL, 1),
    ('tk_00000000000000000000000006', 5, 'vm:delete',
    '{"type":"vm:delete","vm_id":"vm_00000000000000000000000002"}', 'vm_00000000000000000000000002',
    'wk_00000000000000000000000002', 'queued', 0, 0, 7, NULL, NULL, 0, NULL, NULL, 'batch', 300007,
    7, 9, 0);
