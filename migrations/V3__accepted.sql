-- What a person has accepted of lost history (`anabranch source accept`). A row names the log, its
-- epoch and position, and what was found there; going on begins another epoch, so it is used once.
CREATE TABLE anabranch.accepted (
    -- The finding, as JSON: `anabranch_postgres::Gap`.
    finding      text PRIMARY KEY,
    -- `gap`: go on without what is missing. `snapshot`: copy every table again.
    way          text NOT NULL CHECK (way IN ('gap', 'snapshot')),
    accepted_by  text NOT NULL DEFAULT current_user,
    accepted_at  timestamptz NOT NULL DEFAULT now()
);

COMMENT ON TABLE anabranch.accepted IS 'Decisions of `anabranch source accept`, one row a finding';
