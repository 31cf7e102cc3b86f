-- The control schema holds what people ask of the daemon, never where the data stands: a failover
-- may roll it back, and nothing is lost.
CREATE TABLE anabranch.sinks (
    name        text PRIMARY KEY,
    -- A paused sink leaves its consumer group, so that Kafka's own tools can reset its offsets.
    paused      boolean NOT NULL DEFAULT false,
    -- Grows with each `anabranch resume`: parked parts of the sink are tried again.
    resumes     bigint NOT NULL DEFAULT 0,
    changed_at  timestamptz NOT NULL DEFAULT now()
);

COMMENT ON TABLE anabranch.sinks IS 'Requests of `anabranch pause` and `anabranch resume`, one row a sink';
