-- Views know how old they are.
ALTER TABLE minuet_read_models ADD COLUMN as_of REAL NOT NULL DEFAULT 0;
