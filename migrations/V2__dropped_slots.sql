-- What the WAL guard has given up by policy, so that a later start can name the cause.
CREATE TABLE anabranch.dropped_slots (
    slot        text PRIMARY KEY,
    cause       text NOT NULL,
    dropped_at  timestamptz NOT NULL DEFAULT now()
);

COMMENT ON TABLE anabranch.dropped_slots IS 'Slots that the WAL guard dropped, as [source.wal_guard] drop_slot asks';
