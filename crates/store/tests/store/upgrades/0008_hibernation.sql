UPDATE workspaces SET idle_action = 'stop', hibernation_json = '{"at":"1970-01-01T00:00:00.001Z","bytes":1}'
    WHERE id = 'ws_00000000000000000000000001';
