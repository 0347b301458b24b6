"""Own servers of PostgreSQL and MariaDB for tests: a new data directory, a socket file, no port, gone afterwards."""

from __future__ import annotations

import glob
import os
import pathlib
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading
from typing import Any, Dict, List

from elk_coordinator.testing import wait_until

#: Seconds a server gets to start or to end.
STARTS_IN = 30.0


class Missing(Exception):
    """A server is not installed: an error, not a skipped test."""


def program(name: str, package: str) -> str:
    """Return the path of *name*, which Debian keeps off PATH. :raises Missing: naming the *package* it is in."""
    found = shutil.which(name) or next(iter(sorted(glob.glob("/usr/lib/postgresql/*/bin/" + name), reverse=True)), None)
    found = found or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise Missing("%s was not found; on Debian or Ubuntu: apt-get install -y --no-install-recommends %s"
                      % (name, package))  # fmt: skip
    return found


class Server:
    """One server process with its folder. Neither of them starts as root, so root runs it as *account*."""

    account = "nobody"

    def __init__(self) -> None:
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="elk-db-"))
        self.data = self.folder / "data"
        self.log = self.folder / "log"
        self.process: Any = None
        self.databases = 0
        self.lock = threading.Lock()
        self.user = self.account if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
        if os.geteuid() == 0:
            shutil.chown(str(self.folder), self.account)
            self.folder.chmod(0o755)

    def run(self, command: List[str]) -> None:
        done = subprocess.run(
            self.as_account(command), cwd=str(self.folder), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            universal_newlines=True, timeout=STARTS_IN * 2
        )  # fmt: skip
        if done.returncode:
            raise AssertionError("%s failed:\n%s" % (command[0], done.stdout[-4000:]))

    def as_account(self, command: List[str]) -> List[str]:
        # setpriv replaces itself by the command, so that the process we start is the server, whom signals reach.
        root = ["setpriv", "--reuid", self.account, "--regid", self.account, "--clear-groups", "--"]
        return (root if os.geteuid() == 0 else []) + command

    def launch(self, command: List[str]) -> None:
        with open(str(self.log), "ab") as log:
            self.process = subprocess.Popen(
                self.as_account(command), cwd=str(self.folder), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        wait_until(self.answers, STARTS_IN, lambda: "the server answers; its log:\n" + self.log.read_text()[-4000:])

    def answers(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError("the server ended:\n" + self.log.read_text()[-4000:])
        # A connection that is refused leaves a socket to the garbage collector with some drivers: look first.
        if not any(entry.is_socket() for entry in self.folder.iterdir()):
            return False
        try:
            self.connect().close()
            return True
        except Exception:
            return False

    def connect(self, **options: Any) -> Any:
        raise NotImplementedError

    def new_database(self) -> str:
        """Create an empty database and return its name."""
        with self.lock:
            self.databases += 1
            name = "elk%d" % self.databases
        self.admin("CREATE DATABASE %s" % name)
        return name

    def admin(self, *statements: str) -> None:
        """Run *statements* as the server's administrator, each committed by itself."""
        raise NotImplementedError

    def url(self, name: str) -> str:
        """Return the SQLAlchemy URL of database *name*."""
        raise NotImplementedError

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.stop()
            try:
                self.process.wait(STARTS_IN)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        shutil.rmtree(str(self.folder), ignore_errors=True)

    def stop(self) -> None:
        self.process.terminate()


class PostgresServer(Server):
    """PostgreSQL with prepared transactions; connect by psycopg2."""

    account = "postgres"
    dialect = "postgresql"

    def start(self) -> "PostgresServer":
        self.run([program("initdb", "postgresql"), "-D", str(self.data), "-A", "trust", "-U", "elk", "-N", "-E", "UTF8",
                  "--locale", "C"])  # fmt: skip
        self.launch([program("postgres", "postgresql"), "-D", str(self.data), "-k", str(self.folder), "-F",
                     "-c", "listen_addresses=", "-c", "max_connections=260", "-c", "max_prepared_transactions=8",
                     "-c", "shared_buffers=32MB", "-c", "autovacuum=off"])  # fmt: skip
        return self

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)  # "fast": open sessions are ended

    def connect(self, dbname: str = "postgres", user: str = "elk", **options: Any) -> Any:
        import psycopg2

        return psycopg2.connect(host=str(self.folder), dbname=dbname, user=user, **options)

    def admin(self, *statements: str) -> None:
        connection = self.connect()
        connection.autocommit = True
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
        connection.close()

    def url(self, name: str) -> str:
        return "postgresql+psycopg2://elk@/%s?host=%s" % (name, self.folder)


class MariaServer(Server):
    """MariaDB; connect by PyMySQL."""

    account = "mysql"
    dialect = "mysql"

    @property
    def socket(self) -> str:
        return str(self.folder / "s")

    def start(self) -> "MariaServer":
        server = program("mariadbd", "mariadb-server")
        self.run([program("mariadb-install-db", "mariadb-server"), "--no-defaults", "--datadir=%s" % self.data,
                  "--auth-root-authentication-method=normal", "--skip-test-db"])  # fmt: skip
        self.launch([server, "--no-defaults", "--datadir=%s" % self.data, "--socket=%s" % self.socket,
                     "--skip-networking", "--pid-file=%s" % (self.folder / "pid"), "--innodb-buffer-pool-size=32M",
                     "--innodb-log-file-size=32M", "--innodb-flush-log-at-trx-commit=0", "--max-connections=260",
                     "--innodb-fast-shutdown=2"])  # fmt: skip
        return self

    def connect(self, dbname: str = "mysql", user: str = "root", **options: Any) -> Any:
        import pymysql

        return pymysql.connect(unix_socket=self.socket, user=user, database=dbname, **options)

    def admin(self, *statements: str) -> None:
        connection = self.connect(autocommit=True)
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
        connection.close()

    def url(self, name: str) -> str:
        return "mysql+pymysql://root@/%s?unix_socket=%s" % (name, self.socket)


class Place:
    """One empty database on a server, for one test."""

    def __init__(self, server: Any) -> None:
        self.server = server
        self.dialect: str = server.dialect
        self.name: str = server.new_database()
        self._open: List[Any] = []

    def connect(self, **options: Any) -> Any:
        """Return a new DB-API connection to it; closed at the test's end at the latest."""
        connection = self.server.connect(dbname=self.name, **options)
        self._open.append(connection)
        return connection

    def run(self, *statements: str) -> List[Any]:
        """Run *statements* on a connection of their own, commit, and return the rows of the last one."""
        rows: List[Any] = []
        connection = self.server.connect(dbname=self.name)
        try:
            with connection.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)
                rows = list(cursor.fetchall()) if cursor.description else []
            connection.commit()
        finally:
            connection.close()
        return rows

    @property
    def url(self) -> str:
        return str(self.server.url(self.name))

    def close(self) -> None:
        for connection in self._open:
            try:
                connection.close()
            except Exception:  # closed before
                pass


SERVERS: Dict[str, Any] = {"postgresql": PostgresServer, "mariadb": MariaServer}
