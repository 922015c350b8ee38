"""The servers that are measured: how each is had, started and stopped.

Each comes from an ordinary package manager at a version that is fixed here or in a lock file, lives in the target folder,
and starts with fresh state on a free port of the loopback interface.
"""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
DURABLE_STREAMS = "0.1.5"
# With Redis as it comes, an answered write is in its memory. Nothing is synced to disk, for any of the servers.
REDIS = ["--save", "", "--appendonly", "no"]


class Unavailable(Exception):
    """A server that can't be had or does not start; the table says so."""


def command(arguments, what, **more):
    """Runs a command that has to succeed."""
    done = subprocess.run(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)
    if done.returncode:
        raise Unavailable(f"{what}: {' '.join(done.stdout.split()[-40:])}")
    return done.stdout


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def install(programs):
    """Debian packages of programs that are missing: {program: package}."""
    missing = sorted({package for program, package in programs.items() if not shutil.which(program)})
    if not missing:
        return
    if not shutil.which("apt-get"):
        raise Unavailable(f"these Debian packages are missing, and there is no apt-get: {' '.join(missing)}")
    root = [] if os.geteuid() == 0 else ["sudo"]
    # At runlevel 1 a package does not start its service.
    environment = ["env", "RUNLEVEL=1", "DEBIAN_FRONTEND=noninteractive"]
    command([*root, "apt-get", "update", "-qq"], "apt-get update")
    command([*root, *environment, "apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing], "apt-get install")


class Running:
    """The processes of one server."""

    def __init__(self, folder):
        self.folder = folder
        self.processes = []
        self.port = free_port()

    def start(self, name, arguments, **more):
        log = open(self.folder / f"{name}.log", "wb")
        # In a group of its own: Ctrl-C is for us, and we stop it.
        process = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder, start_new_session=True, **more
        )
        log.close()
        process.log = self.folder / f"{name}.log"
        self.processes.append(process)
        return process

    def wait_for(self, ready, what, seconds=20):
        until = time.monotonic() + seconds
        while not ready():
            for process in self.processes:
                if process.poll() is not None:
                    raise Unavailable(f"{what} ended: {process.log.read_text(errors='replace')[-300:].strip()}")
            if time.monotonic() > until:
                raise Unavailable(f"{what} is not ready after {seconds} s")
            time.sleep(0.05)

    def stop(self):
        for process in reversed(self.processes):
            if process.poll() is None:
                process.terminate()
        for process in reversed(self.processes):
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes.clear()


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError:
        return False


def answers(port, path, body=None):
    """Whether a GET, or with a body a POST, gets a 2xx."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data=body)
    try:
        with urllib.request.urlopen(request, timeout=2) as answer:
            return 200 <= answer.status < 300
    except (OSError, urllib.error.URLError):
        return False


def descendants(process):
    """Process ids of a process and of its children."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [process.pid, *map(int, children)]


class Server:
    """One server: `get` makes it available and tells its version; `start` starts it in a folder of its own."""

    key = ""
    name = ""
    dialect = ""
    # Whether what it stores is in Redis, and what is so if it is not.
    has_redis = False
    store = ""

    def __init__(self, target):
        self.target = target

    def get(self):
        raise NotImplementedError

    def start(self, running, load):
        """Starts it for a load, waits until it serves, and gives the ids of the processes that hold the clients' connections."""
        raise NotImplementedError

    def start_redis(self, running):
        port = free_port()
        running.start("redis", ["redis-server", "--bind", "127.0.0.1", "--port", str(port), *REDIS])
        running.wait_for(lambda: listens(port), "redis-server")
        return port


class Moorline(Server):
    key, name, dialect = "moorline", "Moorline", "moorline"
    has_redis = True
    store = "Redis"

    def __init__(self, target, program):
        super().__init__(target)
        self.program = program

    def get(self):
        install({"redis-server": "redis-server", "redis-benchmark": "redis-tools"})
        if self.program is None:
            command(["cargo", "build", "--release", "--quiet", "--bin", "moorline"], "cargo build", cwd=ROOT)
            self.program = self.target / "release" / "moorline"
        redis = command(["redis-server", "--version"], "redis-server").split("v=")[1].split()[0]
        return f"{command([self.program, '--version'], 'moorline').split()[1]}, Redis {redis}"

    def start(self, running, load):
        redis = self.start_redis(running)
        listen = f"127.0.0.1:{running.port}"
        url = f"redis://127.0.0.1:{redis}/"
        process = running.start("moorline", [self.program, "serve", "--listen", listen, "--redis-url", url, "--log", "warn"])
        running.wait_for(lambda: answers(running.port, "/readyz"), "moorline")
        return [process.pid]


class Nchan(Server):
    """nginx with the module, unpacked from Debian's packages: installing them would start a web server on this machine."""

    key, name, dialect = "nchan", "Nchan", "nchan"
    has_redis = True
    store = "Redis"

    def __init__(self, target):
        super().__init__(target)
        self.unpacked = target / "compare" / "nchan"

    def get(self):
        install({"redis-server": "redis-server"})
        if not self.module():
            packages = self.unpacked / "packages"
            packages.mkdir(parents=True, exist_ok=True)
            try:
                command(["apt-get", "download", "-qq", "nginx", "libnginx-mod-nchan"], "apt-get download", cwd=packages)
            except FileNotFoundError:
                raise Unavailable("its packages come from Debian, and there is no apt-get") from None
            for package in packages.glob("*.deb"):
                command(["dpkg-deb", "-x", package, self.unpacked], "dpkg-deb")
        packages = {}
        for package in sorted((self.unpacked / "packages").glob("*.deb")):
            name, version = command(["dpkg-deb", "-f", package, "Package", "Version"], "dpkg-deb").splitlines()
            packages[name.split()[-1]] = version.split()[-1].split(":")[-1]
        return f"{packages['libnginx-mod-nchan']} in nginx {packages['nginx']} of Debian"

    def module(self):
        return next(self.unpacked.glob("usr/lib/nginx/modules/ngx_nchan_module.so"), None)

    def start(self, running, load):
        redis = self.start_redis(running)
        filled = (HERE / "nchan.conf").read_text()
        for name, value in {"module": self.module(), "workers": load.nchan_workers, "redis": redis, "port": running.port}.items():
            filled = filled.replace(f"@{name}@", str(value))
        (running.folder / "nginx.conf").write_text(filled)
        nginx = self.unpacked / "usr" / "sbin" / "nginx"
        process = running.start("nginx", [nginx, "-p", f"{running.folder}/", "-c", "nginx.conf", "-e", "stderr"])
        # Each worker answers 503 until its connection to Redis stands; a new connection may get any of them.
        running.wait_for(lambda: all(answers(running.port, "/publish/ready", b"{}") for _ in range(16)), "nginx")
        return descendants(process)


class DurableStreams(Server):
    """As it comes: an answered event is on the disk."""

    key, name, dialect = "durable-streams", "Durable Streams, Rust", "durable-streams"
    store = "local files, synced before it answers"
    durability = "wal"

    def __init__(self, target):
        super().__init__(target)
        self.root = target / "compare" / "durable-streams"

    def get(self):
        program = self.root / "bin" / "durable-streams-server"
        installed = self.root / ".crates.toml"
        if not (program.exists() and f"durable-streams {DURABLE_STREAMS} " in installed.read_text()):
            build = ["cargo", "install", f"durable-streams@{DURABLE_STREAMS}", "--locked", "--quiet", "--force"]
            target = self.target / "compare" / "durable-streams-build"
            command([*build, "--root", self.root, "--target-dir", target], "cargo install")
        return f"crate durable-streams {DURABLE_STREAMS}"

    def start(self, running, load):
        program = self.root / "bin" / "durable-streams-server"
        options = ["--port", str(running.port), "--data-dir", running.folder / "data", "--durability", self.durability]
        process = running.start("durable-streams", [program, *options])
        running.wait_for(lambda: listens(running.port), "durable-streams-server")
        return [process.pid]


class DurableStreamsUnsynced(DurableStreams):
    """Its fastest: an answered event is in the page cache, as safe as in a Redis without an append-only file, or safer."""

    key, name = "durable-streams-unsynced", "Durable Streams, Rust, not synced"
    store = "local files, not synced"
    durability = "memory"


class DurableStreamsNode(Server):
    key, name, dialect = "durable-streams-node", "Durable Streams, Node", "durable-streams"
    store = "its own memory"

    def __init__(self, target):
        super().__init__(target)
        self.root = target / "compare" / "durable-streams-node"

    def get(self):
        install({"node": "nodejs", "npm": "npm"})
        lock, installed = HERE / "node" / "package-lock.json", self.root / "installed"
        if not (installed.exists() and installed.read_text() == lock.read_text()):
            shutil.copytree(HERE / "node", self.root, dirs_exist_ok=True)
            command(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], "npm ci", cwd=self.root)
            shutil.copy(lock, installed)
        shutil.copy(HERE / "node" / "serve.js", self.root)
        node = command(["node", "--version"], "node").strip().lstrip("v")
        package = json.loads((self.root / "node_modules/@durable-streams/server/package.json").read_text())
        return f"npm @durable-streams/server {package['version']}, Node {node}"

    def start(self, running, load):
        process = running.start("node", ["node", self.root / "serve.js", str(running.port)], env={**os.environ, "NODE_ENV": "production"})
        running.wait_for(lambda: listens(running.port), "node")
        return [process.pid]


def redis_benchmark(running, event_bytes, events):
    """XADDs a second that Redis itself takes, 32 at a time on each of 50 connections, into 200 streams."""
    port = Server.start_redis(None, running)
    arguments = ["-p", str(port), "-P", "32", "-n", str(events), "-r", "200", "--csv"]
    out = command(["redis-benchmark", *arguments, "XADD", "s:__rand_int__", "*", "e", "x" * event_bytes], "redis-benchmark")
    return float(out.splitlines()[-1].split('","')[1])
