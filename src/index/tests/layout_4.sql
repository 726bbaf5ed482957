-- From layout 5 to layout 4, which did not know of downloads that were being put in place.
BEGIN;
DROP TABLE arriving;
PRAGMA user_version = 4;
COMMIT;
