-- Secrets, encrypted. `scope` is `project:` and its name, or the workspace's id; `envelope` opens with the
-- master key `key_id`, for the row it was written for alone (docs/decisions/0016).
CREATE TABLE secrets (
    id TEXT NOT NULL PRIMARY KEY,
    scope TEXT NOT NULL,
    workspace_id TEXT REFERENCES workspaces (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    key_id TEXT NOT NULL,
    envelope TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    UNIQUE (scope, name)
);
CREATE INDEX secrets_by_key ON secrets (key_id, id);
CREATE INDEX secrets_by_workspace ON secrets (workspace_id) WHERE workspace_id IS NOT NULL;
-- Where it is NULL, `secret` is not encrypted yet.
ALTER TABLE webhooks ADD COLUMN secret_key_id TEXT;
-- Which secrets are asked for, by name.
ALTER TABLE workspaces ADD COLUMN secrets_json TEXT;
ALTER TABLE runs ADD COLUMN secrets_json TEXT;
