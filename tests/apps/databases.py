"""Databases on the mount: SQLite in WAL mode and DuckDB.

    databases.py sqlite-insert FILE WHO ROWS    inserts rows one transaction at a time
    databases.py sqlite-check FILE ROWS         whole, with ROWS rows of each of two writers
    databases.py duckdb-hold FILE               opens it for writing, says so, ends with standard input
    databases.py duckdb-refused FILE            opening it for writing is refused for its lock
    databases.py duckdb-check FILE ROWS         whole, with ROWS rows
"""

import sqlite3
import sys
import time

import duckdb


def sqlite_insert(path: str, who: str, rows: str) -> None:
    db = sqlite3.connect(path, timeout=60, isolation_level=None)
    # Of two that turn it on at once SQLite tells one, without waiting, that the other is at it.
    deadline = time.monotonic() + 60
    while True:
        try:
            mode = db.execute("PRAGMA journal_mode=WAL").fetchone()[0]
            break
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
    assert mode == "wal", mode
    db.execute("CREATE TABLE IF NOT EXISTS fits(who TEXT, n INTEGER, body BLOB)")
    for n in range(int(rows)):
        db.execute("BEGIN IMMEDIATE")
        db.execute("INSERT INTO fits VALUES (?, ?, randomblob(200))", (who, n))
        db.execute("COMMIT")
    db.close()


def sqlite_check(path: str, rows: str) -> None:
    db = sqlite3.connect(path, timeout=60)
    assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    counts = db.execute("SELECT who, count(*), count(DISTINCT n) FROM fits GROUP BY who ORDER BY who").fetchall()
    assert counts == [(who, int(rows), int(rows)) for who in ("a", "b")], counts
    db.close()


def duckdb_hold(path: str) -> None:
    db = duckdb.connect(path)
    db.execute("CREATE TABLE IF NOT EXISTS fits AS SELECT range AS n, random() AS value FROM range(100000)")
    db.execute("INSERT INTO fits SELECT range, 0.5 FROM range(1000)")
    print("held", flush=True)
    sys.stdin.read()
    db.execute("INSERT INTO fits SELECT range, 0.25 FROM range(1000)")
    db.close()


def duckdb_refused(path: str) -> None:
    try:
        duckdb.connect(path)
    except duckdb.IOException as error:
        assert "lock" in str(error).lower(), error
        return
    raise AssertionError("a second writer was let in")


def duckdb_check(path: str, rows: str) -> None:
    with duckdb.connect(path) as db:
        found = db.execute("SELECT count(*), count(value) FROM fits").fetchone()
        assert found == (int(rows), int(rows)), found
        db.execute("CHECKPOINT")


if __name__ == "__main__":
    verb, *words = sys.argv[1:]
    globals()[verb.replace("-", "_")](*words)
