-- name: version
SELECT coalesce(max(version), 0) FROM audit_schema;

-- name: make_version
CREATE TABLE IF NOT EXISTS audit_schema (version INTEGER NOT NULL PRIMARY KEY);

-- name: insert_version
INSERT INTO audit_schema (version) VALUES ($1);

-- name: lock_schema
SELECT pg_advisory_xact_lock(hashtextextended('subak audit schema', 0));

-- name: lock_origin
SELECT pg_try_advisory_lock(hashtextextended('subak audit ' || $1, 0));

-- name: insert_checkpoint
INSERT INTO audit_checkpoint (origin, size, note, hashes) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING;

-- name: insert_rotation
INSERT INTO audit_rotation (origin, seq, vkey, signature) VALUES ($1, $2, $3, $4);

-- name: newest_seq
SELECT max(seq) FROM audit_event WHERE origin = $1;

-- name: rows
SELECT seq, time_ms, operation, outcome, stream, convert_to(core, 'UTF8'),
       pii_commit, pii_seal, subject, address, nonce, ct
FROM audit_event WHERE origin = $1 AND seq > $2 ORDER BY seq LIMIT $3;

-- name: checkpoints
SELECT size, note, hashes FROM audit_checkpoint WHERE origin = $1 AND size > $2 ORDER BY size LIMIT $3;

-- name: checkpoint_at_most
SELECT size, note, hashes FROM audit_checkpoint WHERE origin = $1 AND size <= $2 ORDER BY size DESC LIMIT 1;

-- name: rotations
SELECT seq, vkey, signature FROM audit_rotation WHERE origin = $1 ORDER BY seq;

-- name: base
SELECT size, hashes FROM audit_base WHERE origin = $1;

-- name: first_since
SELECT seq FROM audit_event WHERE origin = $1 AND time_ms >= $2 ORDER BY seq LIMIT 1;

-- name: redact
UPDATE audit_event SET subject = NULL, address = NULL, nonce = NULL, ct = NULL
WHERE origin = $1 AND seq BETWEEN $2 AND $3 AND pii_commit IS NOT NULL;

-- name: delete_rows
DELETE FROM audit_event WHERE origin = $1 AND seq < $2;

-- name: delete_checkpoints
DELETE FROM audit_checkpoint WHERE origin = $1 AND size < $2;

-- name: set_base
INSERT INTO audit_base (origin, size, hashes) VALUES ($1, $2, $3)
ON CONFLICT (origin) DO UPDATE SET size = excluded.size, hashes = excluded.hashes;

-- name: scrub
VACUUM audit_event;

-- name: search
SELECT seq, time_ms, operation, outcome, stream, convert_to(core, 'UTF8'),
       pii_commit, pii_seal, subject, address, nonce, ct
FROM audit_event
WHERE origin = $1
  AND ($2::bigint IS NULL OR time_ms >= $2)
  AND ($3::bigint IS NULL OR time_ms < $3)
  AND ($4::text[] IS NULL OR operation = ANY($4))
  AND ($5::text IS NULL OR outcome = $5)
  AND ($6::text IS NULL OR stream = $6)
  AND ($7::bytea[] IS NULL OR subject = ANY($7))
  AND ($8::bytea[] IS NULL OR address = ANY($8))
  AND ($9::bigint IS NULL OR seq > $9)
ORDER BY seq LIMIT $10;

-- name: search_newest_first
SELECT seq, time_ms, operation, outcome, stream, convert_to(core, 'UTF8'),
       pii_commit, pii_seal, subject, address, nonce, ct
FROM audit_event
WHERE origin = $1
  AND ($2::bigint IS NULL OR time_ms >= $2)
  AND ($3::bigint IS NULL OR time_ms < $3)
  AND ($4::text[] IS NULL OR operation = ANY($4))
  AND ($5::text IS NULL OR outcome = $5)
  AND ($6::text IS NULL OR stream = $6)
  AND ($7::bytea[] IS NULL OR subject = ANY($7))
  AND ($8::bytea[] IS NULL OR address = ANY($8))
  AND ($9::bigint IS NULL OR seq < $9)
ORDER BY seq DESC LIMIT $10;
