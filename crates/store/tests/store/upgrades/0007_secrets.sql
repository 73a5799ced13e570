UPDATE workspaces SET secrets_json = '{"TOKEN":{"secret":"TOKEN"}}'
    WHERE id = 'ws_00000000000000000000000001';
UPDATE runs SET secrets_json = '{"KEY":{"secret":"TOKEN"}}' WHERE id = 'pr_00000000000000000000000001';
INSERT INTO secrets (id, scope, workspace_id, name, kind, key_id, envelope, created_at, updated_at)
    VALUES ('sc_00000000000000000000000001', 'ws_00000000000000000000000001',
            'ws_00000000000000000000000001', 'TOKEN', 'git_token', 'test',
            'AAECAwQFBgcICQoLWp9M8laCPI+CIE741q7H63a7gLsKVZ/o1XJSrmtrYYB5bsNMhNQr+v3mqZ4x3QUg.DA0ODxAREhMUFRYXaSbPcbJA7mo4TVF1l2u9N0LOBRA+xON7ZEg=', 1, 2);
