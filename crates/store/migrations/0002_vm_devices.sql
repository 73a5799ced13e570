-- How a VM's devices are attached, and where its host reaches it.
ALTER TABLE vms ADD COLUMN virtio_transport TEXT;
ALTER TABLE vms ADD COLUMN address TEXT;
