-- What operators said last of the work here: of pausing and resuming the later, and when to try again.
CREATE TABLE minuet_instructions (
    topic   TEXT NOT NULL,
    saga    TEXT NOT NULL,
    saga_id TEXT NOT NULL,
    service TEXT NOT NULL,
    verb    TEXT NOT NULL,
    at      DOUBLE PRECISION NOT NULL,
    who     TEXT NOT NULL,
    why     TEXT NOT NULL,
    PRIMARY KEY (topic, saga, saga_id, service)
);
CREATE INDEX minuet_instructions_in_force ON minuet_instructions (verb, at);
