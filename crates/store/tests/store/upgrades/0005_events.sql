UPDATE projects SET max_vms = 9 WHERE id = 'default';
UPDATE vms SET expires_at = 4000000000000 WHERE id = 'vm_00000000000000000000000001';
INSERT INTO event_log (id, seq, ordinal, at, type, subject_kind, subject_id, actor_json, data_json)
    VALUES ('00000000000000000000000001', 1, 1, 1, 'vm.creating', 'vm',
            'vm_00000000000000000000000001', '{"kind":"system"}', '{}'),
           ('00000000000000000000000002', NULL, 2, 2, 'vm.booting', 'vm',
            'vm_00000000000000000000000001', '{"kind":"api_key","id":"0123456789ab"}', '{}');
UPDATE counters SET value = 1 WHERE name = 'event';
INSERT INTO webhooks (id, url, filter_json, secret, state, state_json, reached, failures, created_at, updated_at)
    VALUES ('wh_00000000000000000000000001', 'https://example.com/', '{"types":["vm.creating"]}', 'whsec_x',
            'active', '{"state":"active"}', 0, 0, 0, 0);
