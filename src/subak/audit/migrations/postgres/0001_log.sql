CREATE TABLE audit_event (
  origin     TEXT NOT NULL,
  seq        BIGINT NOT NULL,          -- from 0, without gaps in one origin
  time_ms    BIGINT NOT NULL,          -- these four repeat what the core says
  operation  TEXT NOT NULL,
  outcome    TEXT,
  stream     TEXT,
  core       TEXT NOT NULL,            -- the exact JSON that is hashed
  pii_commit BYTEA,                    -- salted, over the personal part in clear
  pii_seal   BYTEA,                    -- over the next four as they stand here
  subject    BYTEA,
  address    BYTEA,
  nonce      BYTEA,
  ct         BYTEA,
  PRIMARY KEY (origin, seq)
);
CREATE INDEX audit_event_by_time ON audit_event (origin, time_ms);
CREATE INDEX audit_event_by_operation ON audit_event (origin, operation, seq);
CREATE INDEX audit_event_by_stream ON audit_event (stream) WHERE stream IS NOT NULL;
CREATE INDEX audit_event_by_subject ON audit_event (subject) WHERE subject IS NOT NULL;
CREATE INDEX audit_event_by_address ON audit_event (address) WHERE address IS NOT NULL;

CREATE TABLE audit_checkpoint (
  origin TEXT NOT NULL,
  size   BIGINT NOT NULL,
  note   TEXT NOT NULL,                -- the signed note
  hashes BYTEA NOT NULL,               -- the compact range at that size
  PRIMARY KEY (origin, size)
);

CREATE TABLE audit_rotation (
  origin    TEXT NOT NULL,
  seq       BIGINT NOT NULL,           -- of the row key.rotate
  vkey      TEXT NOT NULL,             -- what seals from the next row on
  signature BYTEA NOT NULL,            -- by the key before it
  PRIMARY KEY (origin, seq)
);

CREATE TABLE audit_base (
  origin TEXT NOT NULL PRIMARY KEY,
  size   BIGINT NOT NULL,              -- how many rows were pruned, and their compact range
  hashes BYTEA NOT NULL
);
