-- What workers say of themselves, what is promised of them, and until when they may work.
ALTER TABLE workers ADD COLUMN zone TEXT;
ALTER TABLE workers ADD COLUMN labels_json TEXT NOT NULL DEFAULT '{}';
ALTER TABLE workers ADD COLUMN capabilities_json TEXT NOT NULL DEFAULT '[]';
ALTER TABLE workers ADD COLUMN disk_mib BIGINT NOT NULL DEFAULT 0;
ALTER TABLE workers ADD COLUMN max_vms BIGINT NOT NULL DEFAULT 0;
ALTER TABLE workers ADD COLUMN allocatable_vcpus BIGINT NOT NULL DEFAULT 0;
ALTER TABLE workers ADD COLUMN allocatable_memory_mib BIGINT NOT NULL DEFAULT 0;
ALTER TABLE workers ADD COLUMN allocatable_disk_mib BIGINT NOT NULL DEFAULT 0;
-- Of its VMs that have not ended (the column vms counts them) and of its workspaces' disks.
ALTER TABLE workers ADD COLUMN reserved_vcpus BIGINT NOT NULL DEFAULT 0;
ALTER TABLE workers ADD COLUMN reserved_memory_mib BIGINT NOT NULL DEFAULT 0;
ALTER TABLE workers ADD COLUMN reserved_disk_mib BIGINT NOT NULL DEFAULT 0;
ALTER TABLE workers ADD COLUMN usage_json TEXT;
ALTER TABLE workers ADD COLUMN admission TEXT NOT NULL DEFAULT 'open';
ALTER TABLE workers ADD COLUMN drain_deadline BIGINT;
-- By the database's clock; nothing where the lease never runs out. No index: every heartbeat changes it.
ALTER TABLE workers ADD COLUMN lease_until BIGINT;
ALTER TABLE workers ADD COLUMN gone_at BIGINT;

-- Apart from the workers' own rows: whoever works holds this one against whoever would take over, and
-- heartbeats and reservations, which change the other one all the time, wait for neither.
CREATE TABLE worker_epochs (
    worker_id TEXT NOT NULL PRIMARY KEY,
    epoch BIGINT NOT NULL
);
INSERT INTO worker_epochs (worker_id, epoch) SELECT id, 0 FROM workers;

-- What a VM was given, which its end gives back.
ALTER TABLE vms ADD COLUMN vcpus BIGINT NOT NULL DEFAULT 0;
ALTER TABLE vms ADD COLUMN memory_mib BIGINT NOT NULL DEFAULT 0;
ALTER TABLE vms ADD COLUMN disk_mib BIGINT NOT NULL DEFAULT 0;

ALTER TABLE workspaces ADD COLUMN disk_mib BIGINT NOT NULL DEFAULT 0;
ALTER TABLE workspaces ADD COLUMN placement_json TEXT NOT NULL DEFAULT '{}';
ALTER TABLE workspaces ADD COLUMN when_full_json TEXT;
CREATE INDEX workspaces_by_worker ON workspaces (worker_id);
