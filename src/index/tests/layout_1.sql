-- From layout 2 to layout 1, which did not know the order of a remote's changes, nor what is hidden by
-- whom, nor when a version arrived.
BEGIN;
DROP INDEX replicas_rough;
ALTER TABLE replicas DROP COLUMN seq;
ALTER TABLE replicas DROP COLUMN behind;
ALTER TABLE replicas DROP COLUMN arrived_ns;
ALTER TABLE replicas DROP COLUMN rough;
PRAGMA user_version = 1;
COMMIT;
