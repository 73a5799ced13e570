-- What workspaces are made from. Each change writes a version; the row of `environments` has the newest.
CREATE TABLE environments (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    project TEXT NOT NULL,
    version BIGINT NOT NULL,
    spec_json TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE TABLE environment_versions (
    environment_id TEXT NOT NULL REFERENCES environments (id) ON DELETE CASCADE,
    version BIGINT NOT NULL,
    spec_json TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (environment_id, version)
);
-- What a workspace was made from, what is put into it, how far that is, and the conversation of its assistant.
ALTER TABLE workspaces ADD COLUMN environment_json TEXT;
ALTER TABLE workspaces ADD COLUMN setup_json TEXT;
ALTER TABLE workspaces ADD COLUMN preparation_json TEXT;
ALTER TABLE workspaces ADD COLUMN session TEXT;
-- What else a prompt asks for.
ALTER TABLE runs ADD COLUMN options_json TEXT;
