CREATE TABLE audit_log (
  origin TEXT NOT NULL PRIMARY KEY     -- one file is one log
) STRICT;

CREATE TABLE audit_event (
  seq        INTEGER PRIMARY KEY,      -- from 0, without gaps
  time_ms    INTEGER NOT NULL,         -- these four repeat what the core says
  operation  TEXT NOT NULL,
  outcome    TEXT,
  stream     TEXT,
  core       TEXT NOT NULL,            -- the exact JSON that is hashed
  pii_commit BLOB,                     -- salted, over the personal part in clear
  pii_seal   BLOB,                     -- over the next four as they stand here
  subject    BLOB,
  address    BLOB,
  nonce      BLOB,
  ct         BLOB
) STRICT;
CREATE INDEX audit_event_by_time ON audit_event (time_ms);
CREATE INDEX audit_event_by_operation ON audit_event (operation, seq);
CREATE INDEX audit_event_by_stream ON audit_event (stream, seq) WHERE stream IS NOT NULL;
CREATE INDEX audit_event_by_subject ON audit_event (subject, seq) WHERE subject IS NOT NULL;
CREATE INDEX audit_event_by_address ON audit_event (address, seq) WHERE address IS NOT NULL;

CREATE TABLE audit_checkpoint (
  size   INTEGER PRIMARY KEY,
  note   TEXT NOT NULL,                -- the signed note
  hashes BLOB NOT NULL                 -- the compact range at that size
) STRICT;

CREATE TABLE audit_rotation (
  seq       INTEGER PRIMARY KEY,       -- of the row key.rotate
  vkey      TEXT NOT NULL,             -- what seals from the next row on
  signature BLOB NOT NULL              -- by the key before it
) STRICT;

CREATE TABLE audit_base (
  size   INTEGER PRIMARY KEY,          -- at most one row: how many rows were pruned, and their compact range
  hashes BLOB NOT NULL
) STRICT;
