INSERT INTO environments VALUES ('en_00000000000000000000000001', 'rusty', 'default', 1, '{"setup":{"tools":["git"]}}', 1, 1);
INSERT INTO environment_versions VALUES ('en_00000000000000000000000001', 1, '{"setup":{"tools":["git"]}}', 1);
UPDATE workspaces SET session = 'conversation',
    environment_json = '{"id":"en_00000000000000000000000001","name":"rusty","version":1}',
    setup_json = '{"tools":["git"]}' WHERE id = 'ws_00000000000000000000000001';
UPDATE runs SET options_json = '{"new_session":true}' WHERE id = 'pr_00000000000000000000000001';
