-- Of which history of the log a dropped slot was, once the source has missed it: in a later one it is
-- no cause of anything any more.
ALTER TABLE anabranch.dropped_slots ADD COLUMN log text, ADD COLUMN epoch int;
