-- Logins of assistants in workspaces, one at a time of each assistant. Credentials are secrets, whose scope is
-- `logins:` and the project's name.
CREATE TABLE logins (
    id TEXT NOT NULL PRIMARY KEY,
    workspace_id TEXT NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    worker_id TEXT NOT NULL,
    assistant TEXT NOT NULL,
    accepts TEXT NOT NULL,
    state_json TEXT NOT NULL,
    revision BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    ended_at BIGINT
);
CREATE UNIQUE INDEX logins_under_way ON logins (workspace_id, assistant) WHERE ended_at IS NULL;
CREATE INDEX logins_by_workspace ON logins (workspace_id, id);
CREATE INDEX logins_by_worker ON logins (worker_id) WHERE ended_at IS NULL;
