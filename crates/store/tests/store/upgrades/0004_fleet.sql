UPDATE workers SET zone = 'a', labels_json = '{"disk":"nvme"}', capabilities_json = '["kvm"]',
    disk_mib = 9000, max_vms = 10, allocatable_vcpus = 8, allocatable_memory_mib = 4096,
    allocatable_disk_mib = 18000, reserved_vcpus = 1, reserved_memory_mib = 512,
    reserved_disk_mib = 2048, usage_json = '{"load_percent":1,"memory_mib":2,"disk_mib":3}',
    admission = 'cordoned', lease_until = 0
    WHERE id = 'wk_00000000000000000000000001';
UPDATE worker_epochs SET epoch = 3 WHERE worker_id = 'wk_00000000000000000000000001';
UPDATE vms SET vcpus = 1, memory_mib = 512 WHERE id = 'vm_00000000000000000000000001';
UPDATE workspaces SET disk_mib = 2048 WHERE id = 'ws_00000000000000000000000001';
