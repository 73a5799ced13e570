INSERT INTO logins VALUES ('lg_00000000000000000000000001', 'ws_00000000000000000000000001',
    'wk_00000000000000000000000001', 'coder', 'code',
    '{"state":"waiting","url":"https://id.example/device","code":"ABCD-EFGH"}', 2, 1, 2, 900001, NULL);
