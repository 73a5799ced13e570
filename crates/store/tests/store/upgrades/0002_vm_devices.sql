UPDATE vms SET virtio_transport = 'pci', address = '127.0.0.1'
    WHERE id = 'vm_00000000000000000000000001';
