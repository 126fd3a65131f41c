-- What operators did. Nothing is ever taken out.
CREATE TABLE minuet_audit (
    position BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at       DOUBLE PRECISION NOT NULL,
    who      TEXT NOT NULL,
    verb     TEXT NOT NULL,
    what     TEXT NOT NULL,
    why      TEXT NOT NULL
);
