-- From layout 3 to layout 2, which did not know of renames under way.
BEGIN;
DROP TABLE moving;
PRAGMA user_version = 2;
COMMIT;
