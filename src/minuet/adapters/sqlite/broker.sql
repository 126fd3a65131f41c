-- The tables of the embedded broker.

-- The groups that exist, and what each wants.
CREATE TABLE minuet_groups (
    name         TEXT PRIMARY KEY,
    subscription TEXT NOT NULL
) STRICT;

-- Goes up whenever a group changes, so that everybody notices.
CREATE TABLE minuet_groups_version (version INTEGER NOT NULL) STRICT;
INSERT INTO minuet_groups_version VALUES (1);

-- Each message once for each group that wants it. A position is never given twice.
CREATE TABLE minuet_queue (
    position   INTEGER PRIMARY KEY AUTOINCREMENT,
    name       TEXT NOT NULL,
    channel    TEXT NOT NULL,
    key        TEXT NOT NULL,
    attributes TEXT NOT NULL,
    body       BLOB NOT NULL,
    due_at     REAL NOT NULL DEFAULT 0,
    owner      TEXT,
    deliveries INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX minuet_queue_free ON minuet_queue (name, position, key, due_at, owner) WHERE owner IS NULL;
CREATE INDEX minuet_queue_owned ON minuet_queue (owner) WHERE owner IS NOT NULL;
CREATE INDEX minuet_queue_delayed ON minuet_queue (name, due_at) WHERE due_at > 0;
CREATE INDEX minuet_queue_holding ON minuet_queue (name, key, position) WHERE owner IS NOT NULL OR due_at > 0;
