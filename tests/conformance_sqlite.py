"""SQLite on a mount: transactions in a child that is killed, and under a mount that is killed.

    conformance_sqlite.py DIR ROUNDS [MOUNT_PID_FILE]

What a commit that returned has written must be there afterwards, and PRAGMA integrity_check must say ok.
"""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time

CHILD = r"""
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
db.execute('PRAGMA journal_mode=' + sys.argv[2])
db.execute('PRAGMA synchronous=FULL')
db.execute('CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, v BLOB)')
last = db.execute('SELECT coalesce(max(id), 0) FROM t').fetchone()[0]
while True:
    db.execute('BEGIN IMMEDIATE')
    for i in range(10):
        last += 1
        db.execute('INSERT INTO t VALUES (?, randomblob(?))', (last, last * 37 % 5000))
    db.execute('COMMIT')
    print(last, flush=True)
"""


def run(path, mode, kill):
    """Commits until `kill`; the last id whose commit had returned."""
    child = subprocess.Popen([sys.executable, "-c", CHILD, path, mode], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    acknowledged = int(child.stdout.readline() or 0)
    os.set_blocking(child.stdout.fileno(), False)
    time.sleep(random.uniform(0.3, 1.2))
    kill(child)
    time.sleep(0.1)
    child.kill()
    child.wait()
    rest = child.stdout.read() or b""
    whole = rest[: rest.rfind(b"\n") + 1].split()
    return int(whole[-1]) if whole else acknowledged


def check(path, acknowledged, what):
    db = sqlite3.connect(path, timeout=60)
    verdict = db.execute("PRAGMA integrity_check").fetchone()[0]
    count, top = db.execute("SELECT count(*), coalesce(max(id), 0) FROM t").fetchone()
    db.close()
    print(f"{what}: {verdict}, {count} rows, {acknowledged} acknowledged", flush=True)
    if verdict != "ok" or count != top or top < acknowledged:
        sys.exit(f"{what}: lost or damaged")


def pid(pid_file):
    try:
        with open(pid_file) as f:
            return int(f.read().split()[0])
    except (OSError, ValueError, IndexError):
        return 0


def kill_mount(pid_file, directory):
    old = pid(pid_file)
    os.kill(old, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        time.sleep(0.2)
        if pid(pid_file) != old:
            try:
                os.listdir(directory)
                return
            except OSError:
                pass
    sys.exit("the mount does not come back")


def main():
    directory, rounds = sys.argv[1], int(sys.argv[2])
    pid_file = sys.argv[3] if len(sys.argv) > 3 else None
    for mode in ("WAL", "DELETE"):
        path = os.path.join(directory, mode.lower() + ".db")
        for number in range(rounds):
            acknowledged = run(path, mode, lambda child: child.kill())
            check(path, acknowledged, f"{mode} {number}: program killed")
            if pid_file:
                acknowledged = run(path, mode, lambda child: kill_mount(pid_file, directory))
                check(path, acknowledged, f"{mode} {number}: mount killed")


if __name__ == "__main__":
    main()
