-- The tables of a service's store. Times are seconds since 1970; attributes are those of CloudEvents, as JSON.

-- What this service was asked to do, each thing once.
CREATE TABLE minuet_inbox (
    position          INTEGER PRIMARY KEY,
    key               TEXT NOT NULL UNIQUE,
    handler           TEXT NOT NULL,
    saga              TEXT,
    saga_id           TEXT,
    attributes        TEXT NOT NULL,
    body              BLOB NOT NULL,
    digest            TEXT NOT NULL,
    state             TEXT NOT NULL,
    attempts          INTEGER NOT NULL,
    due_at            REAL NOT NULL,
    owner             TEXT,
    waits_for         TEXT,
    answer_attributes TEXT,
    answer_body       BLOB,
    error             TEXT NOT NULL,
    changed_at        REAL NOT NULL
) STRICT;
CREATE INDEX minuet_inbox_due ON minuet_inbox (owner) WHERE state = 'due';
CREATE INDEX minuet_inbox_parked ON minuet_inbox (position) WHERE state = 'parked';
CREATE INDEX minuet_inbox_waiting ON minuet_inbox (waits_for) WHERE waits_for IS NOT NULL;
CREATE INDEX minuet_inbox_saga ON minuet_inbox (saga_id, saga) WHERE saga_id IS NOT NULL;

-- Per saga, the messages that its rules look at.
CREATE TABLE minuet_known (
    position   INTEGER PRIMARY KEY,
    saga       TEXT NOT NULL,
    saga_id    TEXT NOT NULL,
    literal    TEXT NOT NULL,
    is_first   INTEGER NOT NULL,
    attributes TEXT NOT NULL,
    body       BLOB NOT NULL,
    UNIQUE (saga, saga_id, literal)
) STRICT;
CREATE INDEX minuet_known_first ON minuet_known (position) WHERE is_first;

-- What was decided but is not confirmed by a transport yet. A position is never given twice.
CREATE TABLE minuet_outbox (
    position   INTEGER PRIMARY KEY AUTOINCREMENT,
    channel    TEXT NOT NULL,
    attributes TEXT NOT NULL,
    body       BLOB NOT NULL,
    owner      TEXT
) STRICT;
CREATE INDEX minuet_outbox_owner ON minuet_outbox (owner);

-- Messages that could not be understood.
CREATE TABLE minuet_parked (
    id         TEXT PRIMARY KEY,
    channel    TEXT NOT NULL,
    attributes TEXT NOT NULL,
    body       BLOB NOT NULL,
    reason     TEXT NOT NULL,
    parked_at  REAL NOT NULL
) STRICT;

-- Local copies of other services' views.
CREATE TABLE minuet_read_models (
    query TEXT NOT NULL,
    key   TEXT NOT NULL,
    view  BLOB NOT NULL,
    as_of REAL NOT NULL DEFAULT 0,
    PRIMARY KEY (query, key)
) STRICT;

-- What operators did. Nothing is ever taken out.
CREATE TABLE minuet_audit (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    at       REAL NOT NULL,
    who      TEXT NOT NULL,
    verb     TEXT NOT NULL,
    what     TEXT NOT NULL,
    why      TEXT NOT NULL
) STRICT;

-- What operators said last of the work here: of pausing and resuming the later, and when to try again.
CREATE TABLE minuet_instructions (
    topic   TEXT NOT NULL,
    saga    TEXT NOT NULL,
    saga_id TEXT NOT NULL,
    service TEXT NOT NULL,
    verb    TEXT NOT NULL,
    at      REAL NOT NULL,
    who     TEXT NOT NULL,
    why     TEXT NOT NULL,
    PRIMARY KEY (topic, saga, saga_id, service)
) STRICT;
CREATE INDEX minuet_instructions_in_force ON minuet_instructions (verb, at);
