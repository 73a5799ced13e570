-- What becomes of a workspace's VM when it is idle, and the memory that a hibernated one has left.
ALTER TABLE workspaces ADD COLUMN idle_action TEXT NOT NULL DEFAULT 'hibernate';
ALTER TABLE workspaces ADD COLUMN hibernation_json TEXT;
