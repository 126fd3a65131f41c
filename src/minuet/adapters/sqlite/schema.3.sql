-- What operators did. Nothing is ever taken out.
CREATE TABLE minuet_audit (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    at       REAL NOT NULL,
    who      TEXT NOT NULL,
    verb     TEXT NOT NULL,
    what     TEXT NOT NULL,
    why      TEXT NOT NULL
) STRICT;
