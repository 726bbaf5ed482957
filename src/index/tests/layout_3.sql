-- From layout 4 to layout 3, which kept its sums in a row each and gave the ids of the outbox itself.
BEGIN;
DROP TRIGGER sums_node_made; DROP TRIGGER sums_node_gone; DROP TRIGGER sums_node_changed;
DROP TRIGGER sums_replica_made; DROP TRIGGER sums_replica_gone; DROP TRIGGER sums_replica_changed;
CREATE TABLE totals(what TEXT PRIMARY KEY, n INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO totals SELECT 'files', files FROM sums;
INSERT INTO totals SELECT 'bytes', bytes FROM sums;
INSERT INTO totals SELECT 'held_files', held_files FROM sums;
INSERT INTO totals SELECT 'held_bytes', held_bytes FROM sums;
INSERT INTO totals SELECT 'dirty_files', dirty_files FROM sums;
INSERT INTO totals SELECT 'dirty_bytes', dirty_bytes FROM sums;
DROP TABLE sums;
ALTER TABLE outbox RENAME TO outbox_after;
DROP INDEX outbox_puts; DROP INDEX outbox_deletes;
CREATE TABLE outbox(
  id INTEGER PRIMARY KEY AUTOINCREMENT, remote INTEGER NOT NULL, node INTEGER, key BLOB, base TEXT,
  generation INTEGER NOT NULL, queued_at INTEGER NOT NULL, attempts INTEGER NOT NULL DEFAULT 0,
  not_before INTEGER NOT NULL DEFAULT 0, last_error TEXT);
CREATE UNIQUE INDEX outbox_puts ON outbox(remote, node) WHERE node IS NOT NULL;
CREATE UNIQUE INDEX outbox_deletes ON outbox(remote, key) WHERE key IS NOT NULL;
CREATE INDEX outbox_by_node ON outbox(node) WHERE node IS NOT NULL;
INSERT INTO outbox(id, remote, node, key, base, generation, queued_at, attempts, not_before, last_error)
  SELECT id, remote, node, key, base, generation, queued_at, attempts, not_before, last_error FROM outbox_after;
DROP TABLE outbox_after;
-- Of its triggers, what an insertion needs.
CREATE TRIGGER totals_add_insert AFTER INSERT ON nodes WHEN new.kind = 0 BEGIN
  UPDATE totals SET n = n + 1 WHERE what = 'files' AND 1;
  UPDATE totals SET n = n + new.size WHERE what = 'bytes' AND 1;
  UPDATE totals SET n = n + 1 WHERE what = 'dirty_files' AND new.dirty <> 0;
  UPDATE totals SET n = n + new.size WHERE what = 'dirty_bytes' AND new.dirty <> 0; END;
CREATE TRIGGER replicas_add_insert AFTER INSERT ON replicas BEGIN
  UPDATE remotes SET files = files + 1, bytes = bytes + new.size,
  hidden = hidden + (new.node IS NULL) WHERE id = new.remote; END;
PRAGMA user_version = 3;
COMMIT;
