-- The tables of a service's store. Times are seconds since 1970; attributes are those of CloudEvents, as JSON text.

-- What this service was asked to do, each thing once.
CREATE TABLE minuet_inbox (
    position          BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key               TEXT NOT NULL UNIQUE,
    handler           TEXT NOT NULL,
    saga              TEXT,
    saga_id           TEXT,
    attributes        TEXT NOT NULL,
    body              BYTEA NOT NULL,
    digest            TEXT NOT NULL,
    state             TEXT NOT NULL,
    attempts          BIGINT NOT NULL,
    due_at            DOUBLE PRECISION NOT NULL,
    owner             TEXT,
    waits_for         TEXT,
    answer_attributes TEXT,
    answer_body       BYTEA,
    error             TEXT NOT NULL,
    changed_at        DOUBLE PRECISION NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX minuet_inbox_due ON minuet_inbox (owner) WHERE state = 'due';
CREATE INDEX minuet_inbox_parked ON minuet_inbox (position) WHERE state = 'parked';
CREATE INDEX minuet_inbox_waiting ON minuet_inbox (waits_for) WHERE waits_for IS NOT NULL;
CREATE INDEX minuet_inbox_saga ON minuet_inbox (saga_id, saga) WHERE saga_id IS NOT NULL;

-- Per saga, the messages that its rules look at. The first row of a saga is its lock: see minuet_learn.
CREATE TABLE minuet_known (
    position   BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    saga       TEXT NOT NULL,
    saga_id    TEXT NOT NULL,
    literal    TEXT NOT NULL,
    is_first   BOOLEAN NOT NULL,
    attributes TEXT NOT NULL,
    body       BYTEA NOT NULL,
    UNIQUE (saga, saga_id, literal)
);
CREATE UNIQUE INDEX minuet_known_lock ON minuet_known (saga, saga_id) WHERE is_first;
CREATE INDEX minuet_known_first ON minuet_known (position) WHERE is_first;

-- Makes a literal known: true if it is the saga's first, false if others were known, NULL if it was known itself.
-- When it returns, nobody else learns for this saga until the transaction ends, and the statements after it see all that
-- others have learnt: each statement, in here too, sees what was committed when it began (READ COMMITTED).
CREATE FUNCTION minuet_learn(the_saga TEXT, the_id TEXT, the_literal TEXT, the_attributes TEXT, the_body BYTEA)
RETURNS BOOLEAN LANGUAGE plpgsql AS $$
BEGIN
    LOOP
        PERFORM FROM minuet_known WHERE saga = the_saga AND saga_id = the_id AND is_first FOR NO KEY UPDATE;
        IF FOUND THEN
            INSERT INTO minuet_known (saga, saga_id, literal, is_first, attributes, body)
                VALUES (the_saga, the_id, the_literal, FALSE, the_attributes, the_body) ON CONFLICT DO NOTHING;
            RETURN CASE WHEN FOUND THEN FALSE END;
        END IF;
        INSERT INTO minuet_known (saga, saga_id, literal, is_first, attributes, body)
            VALUES (the_saga, the_id, the_literal, TRUE, the_attributes, the_body) ON CONFLICT DO NOTHING;
        IF FOUND THEN
            RETURN TRUE;
        END IF;
        -- Somebody else has just made the first one known; it is committed, or we would still wait.
    END LOOP;
END
$$;

-- What was decided but is not confirmed by a transport yet. A position is never given twice.
CREATE TABLE minuet_outbox (
    position   BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    channel    TEXT NOT NULL,
    attributes TEXT NOT NULL,
    body       BYTEA NOT NULL,
    owner      TEXT
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
CREATE INDEX minuet_outbox_owner ON minuet_outbox (owner, position);

-- Messages that could not be understood.
CREATE TABLE minuet_parked (
    position   BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id         TEXT NOT NULL UNIQUE,
    channel    TEXT NOT NULL,
    attributes TEXT NOT NULL,
    body       BYTEA NOT NULL,
    reason     TEXT NOT NULL,
    parked_at  DOUBLE PRECISION NOT NULL
);

-- Local copies of other services' views.
CREATE TABLE minuet_read_models (
    query TEXT NOT NULL,
    key   TEXT NOT NULL,
    view  BYTEA NOT NULL,
    as_of DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (query, key)
);
