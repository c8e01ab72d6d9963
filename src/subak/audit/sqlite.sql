-- name: origin
SELECT origin FROM audit_log;

-- name: name_origin
INSERT INTO audit_log (origin) VALUES (?);

-- name: insert_rows
INSERT INTO audit_event
  (seq, time_ms, operation, outcome, stream, core, pii_commit, pii_seal, subject, address, nonce, ct)
VALUES {rows};

-- name: row
(?, ?, ?, ?, ?, CAST(? AS TEXT), ?, ?, ?, ?, ?, ?);

-- name: insert_checkpoint
INSERT INTO audit_checkpoint (size, note, hashes) VALUES (?, ?, ?) ON CONFLICT DO NOTHING;

-- name: insert_rotation
INSERT INTO audit_rotation (seq, vkey, signature) VALUES (?, ?, ?);

-- name: newest_seq
SELECT max(seq) FROM audit_event;

-- name: rows
SELECT seq, time_ms, operation, outcome, stream, CAST(core AS BLOB),
       pii_commit, pii_seal, subject, address, nonce, ct
FROM audit_event WHERE seq >= ? ORDER BY seq;

-- name: checkpoints
SELECT size, note, hashes FROM audit_checkpoint WHERE size > ? ORDER BY size;

-- name: checkpoint_at_most
SELECT size, note, hashes FROM audit_checkpoint WHERE size <= ? ORDER BY size DESC LIMIT 1;

-- name: rotations
SELECT seq, vkey, signature FROM audit_rotation ORDER BY seq;

-- name: base
SELECT size, hashes FROM audit_base;

-- name: first_since
SELECT seq FROM audit_event WHERE time_ms >= ? ORDER BY seq LIMIT 1;

-- name: redact
UPDATE audit_event SET subject = NULL, address = NULL, nonce = NULL, ct = NULL
WHERE seq BETWEEN ? AND ? AND pii_commit IS NOT NULL;

-- name: delete_rows
DELETE FROM audit_event WHERE seq < ?;

-- name: delete_checkpoints
DELETE FROM audit_checkpoint WHERE size < ?;

-- name: delete_base
DELETE FROM audit_base;

-- name: insert_base
INSERT INTO audit_base (size, hashes) VALUES (?, ?);

-- name: search
SELECT seq, time_ms, operation, outcome, stream, CAST(core AS BLOB),
       pii_commit, pii_seal, subject, address, nonce, ct
FROM audit_event WHERE {conditions} ORDER BY seq {order} LIMIT ?;
