UPDATE workspaces SET secrets_json = '{"TOKEN":{"secret":"TOKEN"}}'
    WHERE id = 'ws_00000000000000000000000001';
UPDATE runs SET secrets_json = '{"KEY":{"secret":"TOKEN"}}' WHERE id = 'pr_00000000000000000000000001';
INSERT INTO secrets (id, scope, workspace_id, name, kind, key_id, envelope, created_at, updated_at)
    VALUES ('sc_00000000000000000000000001', 'ws_00000000000000000000000001',
            'ws_00000000000000000000000001', 'TOKEN', 'git_token', 'test',
            'ENVELOPE', 1, 2);
