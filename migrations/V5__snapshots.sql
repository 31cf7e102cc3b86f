-- Snapshots of single tables that people have asked for: the last one of each table of each slot. How far
-- it is, is in the log.
CREATE TABLE anabranch.snapshots (
    slot        text NOT NULL,
    -- As `schema.table`.
    table_name  text NOT NULL,
    -- A new one for each request: it is carried out once.
    id          uuid NOT NULL,
    -- Which rows: those that meet a condition, those with these keys (a JSON array of arrays of texts), or all.
    condition   text,
    keys        jsonb,
    paused      boolean NOT NULL DEFAULT false,
    cancelled   boolean NOT NULL DEFAULT false,
    asked_by    text NOT NULL DEFAULT current_user,
    asked_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (slot, table_name)
);

COMMENT ON TABLE anabranch.snapshots IS 'Requests of `anabranch snapshot`, one row a table';
