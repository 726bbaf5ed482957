#!/usr/bin/env python3
"""An FXCACHE server to test against: the protocol, with the habits of the original.

It answers what the original answers, and is as careless: no keep-alive, HTML for errors that are not
its own, 500 where 416 is meant, uploads written in place, links followed, its own index file served,
an index that only an upload or a refresh changes, and an incremental refresh that misses deletions and
old times. Not for use: for tests and benchmarks.

    fxcache_server.py [--host ADDRESS] [--port PORT] [--fxcache-path DIR]

prints a banner on standard output; `URL:` in it is the address (port 0 takes a free one). For tests only:
`--pause SECONDS` waits after every file that a refresh looks at, `--no-refresh` starts without one, and
`--index-file refuse|damage` does not give out the index file, or only damaged.
Requests are logged on standard error, one a line.
"""

import argparse
import io
import logging
import os
import posixpath
import socket
import sqlite3
import threading
import time
from datetime import datetime
from pathlib import Path

from flask import Flask, jsonify, request, send_file
from werkzeug.serving import make_server

app = Flask(__name__)
log = logging.getLogger("fxcache")

INDEX = ".fxcache_index.db"
MODES = ("auto", "full", "incremental")
TABLES = """
CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, size INTEGER NOT NULL, mtime REAL NOT NULL);
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
UPSERT = "INSERT OR REPLACE INTO files (path, size, mtime) VALUES (?, ?, ?)"

root = ""
pause = 0.0
index_file = ""
writing = threading.Lock()
refreshing = threading.Lock()
progress = {"status": "idle"}
began = time.time()
stats = {
    "uploads": 0,
    "downloads": 0,
    "exists_checks": 0,
    "bytes_received": 0,
    "bytes_sent": 0,
    "errors": 0,
    "start_time": None,
}


# The index: a connection for every operation, so that the log is put back into the file each time.


class Index:
    def __enter__(self):
        self.db = sqlite3.connect(os.path.join(root, INDEX), timeout=10)
        self.db.execute("PRAGMA journal_mode=WAL")
        return self.db

    def __exit__(self, kind, *_):
        if kind is None:
            self.db.commit()
        self.db.close()


def meta(db, key):
    row = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return row[0] if row else None


def set_meta(db, **values):
    for key, value in values.items():
        db.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (key, value))


def local_time(at=None):
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(at))


# Paths.


def checked(path):
    """The path as it is stored; None if it is not acceptable."""
    if not path or ".." in path or path.startswith("/") or "\0" in path:
        return None
    path = posixpath.normpath(path)
    return None if path.startswith("..") else path


def on_disk(path):
    return os.path.join(root, path)


# Questions.


@app.get("/health")
def health():
    with Index() as db:
        count = db.execute("SELECT COUNT(*) FROM files").fetchone()[0]
        last = meta(db, "last_refresh")
    return jsonify(
        status="ok",
        fxcache_path=root,
        db_file_count=count,
        last_refresh=last,
        uptime_seconds=round(time.time() - began, 1),
        stats=stats,
    )


@app.get("/exists")
def exists():
    path = checked(request.args.get("path", ""))
    if path is None:
        return jsonify(error="Invalid path"), 400
    stats["exists_checks"] += 1
    with Index() as db:
        row = db.execute("SELECT size, mtime FROM files WHERE path = ?", (path,)).fetchone()
    if row is None:
        return jsonify(exists=False)
    return jsonify(exists=True, size=row[0], mtime=row[1])


@app.post("/exists_batch")
def exists_batch():
    body = request.get_json(silent=True)
    if not body or body.get("paths") is None:
        return jsonify(error="Missing paths field"), 400
    paths = body["paths"]
    if not isinstance(paths, list) or len(paths) > 500:
        return jsonify(error="paths must be a list of max 500 items"), 400
    wanted = []
    for given in paths:
        path = checked(given)
        if path is None:
            return jsonify(error=f"Invalid path: {given}"), 400
        wanted.append(path)
    stats["exists_checks"] += len(wanted)
    marks = ",".join("?" * len(wanted))
    with Index() as db:
        rows = db.execute(f"SELECT path, size FROM files WHERE path IN ({marks})", wanted)
        sizes = dict(rows.fetchall())
    results = {}
    for path in wanted:
        found = path in sizes
        results[path] = {"exists": True, "size": sizes[path]} if found else {"exists": False}
    return jsonify(results=results)


@app.get("/download")
def download():
    path = checked(request.args.get("path", ""))
    if path is None:
        return jsonify(error="Invalid path"), 400
    file = on_disk(path)
    if not os.path.isfile(file):
        return jsonify(error="File not found"), 404
    if path == INDEX and index_file == "refuse":
        return jsonify(error="File not found"), 404
    if path == INDEX and index_file == "damage":
        whole = Path(file).read_bytes()
        damaged = io.BytesIO(whole[:100] + bytes(3996) + whole[4096:])
        return send_file(damaged, mimetype="application/octet-stream", etag="1.5-%d-1" % len(whole))
    try:
        size = os.path.getsize(file)
        answer = send_file(file, mimetype="application/octet-stream")
        stats["downloads"] += 1
        stats["bytes_sent"] += size
        return answer
    except Exception as error:
        stats["errors"] += 1
        return jsonify(error=str(error)), 500


@app.post("/upload")
def upload():
    path = checked(request.args.get("path", ""))
    if path is None:
        return jsonify(error="Invalid path"), 400
    body = request.get_data()
    if not body:
        return jsonify(error="Empty body"), 400
    file = on_disk(path)
    try:
        with writing:
            os.makedirs(os.path.dirname(file), exist_ok=True)
            with open(file, "wb") as out:
                out.write(body)
            facts = os.stat(file)
            with Index() as db:
                db.execute(UPSERT, (path, facts.st_size, facts.st_mtime))
        stats["uploads"] += 1
        stats["bytes_received"] += len(body)
        return jsonify(status="ok", path=path, size=len(body))
    except Exception as error:
        stats["errors"] += 1
        return jsonify(error=str(error)), 500


# Refreshing.


def walk():
    """Every file whose name does not begin with a dot; links to files count, links to directories do not."""
    for directory, _, names in os.walk(root):
        for name in names:
            if name.startswith("."):
                continue
            file = os.path.join(directory, name)
            try:
                facts = os.stat(file)
            except OSError:
                continue
            time.sleep(pause) if pause else None
            yield os.path.relpath(file, root), facts.st_size, facts.st_mtime


def full():
    begun = time.time()
    running = dict(status="running", mode="full", files_scanned=0, files_added=0, started_at=local_time(begun))
    progress.clear()
    progress.update(running)
    seen, waiting = set(), []

    def settle():
        with Index() as db:
            db.executemany(UPSERT, waiting)
        progress["files_added"] += len(waiting)
        waiting.clear()

    for row in walk():
        seen.add(row[0])
        waiting.append(row)
        progress["files_scanned"] += 1
        if len(waiting) >= 1000:
            settle()
    settle()
    with Index() as db:
        known = [row[0] for row in db.execute("SELECT path FROM files")]
        stale = [(path,) for path in known if path not in seen]
        db.executemany("DELETE FROM files WHERE path = ?", stale)
        total = db.execute("SELECT COUNT(*) FROM files").fetchone()[0]
        # The time at the end: what changed in the meantime is missed by the next incremental one.
        now = time.time()
        set_meta(db, last_refresh_timestamp=str(now), last_refresh=local_time(now), file_count=str(total))
    return dict(
        status="complete",
        mode="full",
        total_files=total,
        stale_removed=len(stale),
        duration_seconds=round(now - begun, 1),
    )


def incremental():
    begun = time.time()
    running = dict(
        status="running", mode="incremental", files_scanned=0, files_added=0, started_at=local_time(begun)
    )
    progress.clear()
    progress.update(running)
    with Index() as db:
        since = float(meta(db, "last_refresh_timestamp") or 0)
    waiting = []
    for row in walk():
        progress["files_scanned"] += 1
        if row[2] > since:
            waiting.append(row)
        if len(waiting) >= 500:
            with Index() as db:
                db.executemany(UPSERT, waiting)
            progress["files_added"] += len(waiting)
            waiting.clear()
    with Index() as db:
        db.executemany(UPSERT, waiting)
        progress["files_added"] += len(waiting)
        now = time.time()
        set_meta(db, last_refresh_timestamp=str(now), last_refresh=local_time(now))
    return dict(
        status="complete",
        mode="incremental",
        files_scanned=progress["files_scanned"],
        files_added=progress["files_added"],
        duration_seconds=round(now - begun, 1),
    )


def start_refresh(mode):
    """Starts it behind the answers; False if one runs."""
    if not refreshing.acquire(blocking=False):
        return False
    if mode == "auto":
        with Index() as db:
            mode = "incremental" if meta(db, "last_refresh_timestamp") else "full"

    def run():
        try:
            done = full() if mode == "full" else incremental()
        except Exception as error:
            done = dict(status="error", error=str(error))
        progress.clear()
        progress.update(done)
        refreshing.release()

    threading.Thread(target=run, daemon=True).start()
    return True


@app.post("/refresh")
def refresh():
    mode = request.args.get("mode", "auto")
    if mode not in MODES:
        return jsonify(error="Invalid mode. Use: auto, full, incremental"), 400
    if not start_refresh(mode):
        return jsonify(status="already_running"), 409
    return jsonify(status="started", mode=mode, message="Database refresh started in background")


@app.get("/refresh/status")
def refresh_status():
    return jsonify(dict(progress))


# Starting.


def lan_address():
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("8.8.8.8", 80))
            return probe.getsockname()[0]
    except OSError:
        return "127.0.0.1"


def banner(address, port, count):
    line = "=" * 60
    print(f"\n{line}\nRemote FXCACHE Server\n{line}")
    print(f"Local IP:    {address}")
    print(f"Port:        {port}")
    print(f"URL:         http://{address}:{port}")
    print(f"FXCACHE:     {root}")
    print(f"DB files:    {count}")
    print(line)
    print("\nEndpoints:")
    print("  GET  /health          - Health check")
    print("  GET  /exists?path=    - Check file existence (fast)")
    print("  POST /exists_batch    - Batch existence check")
    print("  GET  /download?path=  - Download file")
    print("  POST /upload?path=    - Upload file")
    print("  POST /refresh         - Rebuild SQLite index")
    print("  GET  /refresh/status  - Refresh progress", flush=True)


def main():
    global root, pause, index_file
    env = os.environ
    home = str(Path.home() / "GitHub/FX5/FXCACHE")
    words = argparse.ArgumentParser()
    words.add_argument("--port", type=int, default=int(env.get("FXCACHE_SERVER_PORT", "5002")))
    words.add_argument("--host", default=env.get("FXCACHE_SERVER_HOST", "0.0.0.0"))
    words.add_argument("--fxcache-path", default=env.get("FXCACHE_PATH", home))
    words.add_argument("--pause", type=float, default=0.0)
    words.add_argument("--no-refresh", action="store_true")
    words.add_argument("--index-file", default="", choices=["refuse", "damage"])
    given = words.parse_args()
    index_file = given.index_file
    logging.basicConfig(level=logging.INFO, format="%(asctime)s - %(levelname)s - %(message)s")
    root, pause = os.path.realpath(given.fxcache_path), given.pause
    if not os.path.isdir(root):
        log.error("FXCACHE path does not exist: %s", root)
        return
    with Index() as db:
        db.executescript(TABLES)
        count = db.execute("SELECT COUNT(*) FROM files").fetchone()[0]
        stamp = meta(db, "last_refresh_timestamp")
    stats["start_time"] = datetime.now()
    server = make_server(given.host, given.port, app, threaded=True)
    # The original's banner has the address on the network whatever it is bound to.
    address = lan_address() if given.host == "0.0.0.0" else given.host
    banner(address, server.server_port, count)
    if not given.no_refresh:
        start_refresh("incremental" if count and stamp else "full")
    server.serve_forever()


if __name__ == "__main__":
    main()
