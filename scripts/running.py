"""What scripts/versus and its sections share: programs, cases, processes that are pinned and accounted for, free ports."""

import argparse
import contextlib
import ctypes
import dataclasses
import json
import os
import pathlib
import re
import select
import shutil
import signal
import socket
import subprocess
import time


class Failure(Exception):
    """Why something could not be measured."""


# --- What is compared -------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Program:
    """A rival's: its Debian package, whether the comparison goes on without it, and how it tells its version. Its name
    in capitals is the environment variable that says where else it is."""

    name: str
    package: str
    optional: bool = False
    version: str | None = "--version"

    def path(self):
        """Servers are where only root has its PATH."""
        name, path = os.environ.get(self.name.upper()) or self.name, os.environ.get("PATH", os.defpath)
        return shutil.which(name, path=f"{path}:/usr/sbin:/sbin")

    def version_line(self):
        if self.version:
            return first_line(self.path(), self.version)
        with contextlib.suppress(FileNotFoundError):
            found = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", self.package], capture_output=True, text=True)
            if found.returncode == 0:
                return f"{self.name} {found.stdout}"
        return f"{self.name} (tells no version)"


PROGRAMS = {
    program.name: program
    for program in (
        Program("sockperf", "sockperf"),
        Program("qperf", "qperf"),
        Program("iperf3", "iperf3"),
        Program("netperf", "netperf (non-free; netserver beside it)", optional=True, version="-V"),
        Program("tcp_crr", "(none: build github.com/google/neper)", optional=True, version=None),
        Program("nginx", "nginx", version="-v"),
        Program("wrk", "wrk"),
        Program("h2load", "nghttp2-client"),
        Program("ab", "apache2-utils", version="-V"),
        Program("hey", "hey", optional=True, version=None),
        Program("oha", "oha", optional=True),
        Program("gcannon", "(none: build github.com/MDA2AV/gcannon)", optional=True, version=None),
    )
}


@dataclasses.dataclass(frozen=True)
class Case:
    """Contestants as (name, function, words...), the rivals by the names of their programs; each function is one of the
    section's bench, by name; those of `tare` take the backend as the first word and have it in their name."""

    what: str
    tare: tuple
    rivals: tuple
    figures: tuple


@dataclasses.dataclass(frozen=True)
class Section:
    """A subcommand: its bench, its cases, the defaults of its runs, and programs that it needs besides the rivals."""

    what: str
    epilog: str
    bench: type
    cases: dict
    rounds: int
    seconds: int = 1
    brief_rounds: int = 2
    needs: tuple = ()

    def programs(self, cases):
        rivals = [rival[0] for case in cases for rival in self.cases[case].rivals]
        return [PROGRAMS[name] for name in dict.fromkeys([*self.needs, *rivals])]


# --- One run: a server, a client, their output and CPU ----------------------------------------------------------------


LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1
LINES_MAX = 20


class Process:
    """A process pinned to one CPU, its output in files, and the CPU time that it and its ended children took. It is
    asked to end when this script is killed, too."""

    def __init__(self, words, cpu, scratch, role):
        self.words, self.out, self.err = words, scratch / f"{role}.out", scratch / f"{role}.err"
        with self.out.open("w") as out, self.err.open("w") as err:
            self.child = subprocess.Popen(
                list(map(str, words)),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                preexec_fn=lambda: self.prepare(cpu),
                start_new_session=True,
            )
        self.user_s, self.system_s, self.code = None, None, None

    @staticmethod
    def prepare(cpu):
        os.sched_setaffinity(0, {cpu})
        LIBC.prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))

    @property
    def cpu_s(self):
        return self.user_s + self.system_s

    def poll(self):
        if self.code is None:
            pid, status, usage = os.wait4(self.child.pid, os.WNOHANG)
            if pid:
                self.code = self.child.returncode = os.waitstatus_to_exitcode(status)
                self.user_s, self.system_s = usage.ru_utime, usage.ru_stime
        return self.code is not None

    def wait(self, limit_s):
        """Sleeps meanwhile: whoever polls takes CPU time from those that are measured."""
        if not self.poll():
            with open(os.pidfd_open(self.child.pid)) as pidfd:
                select.select([pidfd], [], [], limit_s)
        return self.poll()

    def end(self, patience_s=0.0):
        """Leaves it that long to end by itself, then asks, then insists."""
        if self.wait(patience_s):
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            os.killpg(self.child.pid, number)
            if self.wait(2):
                return

    def said(self):
        """Its words, and the first lines of what it printed."""
        lines = [line for file in (self.out, self.err) for line in file.read_text(errors="replace").strip().splitlines()]
        more = [f"(and {len(lines) - LINES_MAX} lines more)"] if len(lines) > LINES_MAX else []
        return "\n".join([" ".join(map(str, self.words)), *lines[:LINES_MAX], *more])


def free_port():
    """A port that is free, as is the next, for TCP and UDP: qperf takes a second one for its data."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        try:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                for number in (port, port + 1):
                    with socket.socket(socket.AF_INET, kind) as probe:
                        probe.bind(("", number))
            return port
        except (OSError, OverflowError):
            continue


def is_bound(port, protocol):
    for version in ("", "6"):
        with contextlib.suppress(FileNotFoundError):
            lines = pathlib.Path(f"/proc/net/{protocol}{version}").read_text().splitlines()[1:]
            if any(line.split()[1].endswith(f":{port:04X}") for line in lines):
                return True
    return False


class Bench:
    """Runs one server and one client at a time. Entered before the first run and left after the last."""

    def __init__(self, options, tare, scratch):
        self.options, self.tare, self.scratch = options, tare, scratch
        self.client_cpu, self.server_cpu = options.cpus

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    @contextlib.contextmanager
    def serving(self, words, port, protocol="tcp", ends_itself=False):
        """While the server is up; it has ended, and its CPU time is known, after that."""
        server = Process(words, self.server_cpu, self.scratch, "server")
        patience_s = 0
        try:
            self.wait_until_bound(server, port, protocol)
            yield server
            patience_s = 2 if ends_itself else 0
        except Failure as failure:
            raise Failure(f"{failure}\nits server: {server.said()}") from None
        finally:
            server.end(patience_s)

    def client(self, words):
        """Runs it to its end, which must be a good one."""
        client = Process(words, self.client_cpu, self.scratch, "client")
        try:
            if not client.wait(self.options.seconds + 20) or client.code:
                code = "no end" if client.code is None else f"exit code {client.code}"
                raise Failure(f"{code}: {client.said()}")
        finally:
            client.end()
        return client

    def run(self, port, words, client, protocol="tcp", ends_itself=False):
        """What the client printed, and the CPU time of both."""
        with self.serving(words, port, protocol, ends_itself) as server:
            client = self.client(client)
        return client.out.read_text(), client.cpu_s + server.cpu_s

    @staticmethod
    def wait_until_bound(server, port, protocol):
        end = time.monotonic() + 5
        while not is_bound(port, protocol):
            if server.poll() or time.monotonic() > end:
                raise Failure("the server did not come up")
            time.sleep(0.02)


def tare_result(text):
    """Its one result, and whether it calls itself disturbed, at either end."""
    result = json.loads(text)["results"][0]
    ends = [end for end in result["instrument"].values() if end]
    return result, {"disturbed": any(end["disturbed"] or end["saturated"] for end in ends)}


# --- The command line -------------------------------------------------------------------------------------------------


def positive(text):
    if not re.fullmatch(r"[1-9]\d*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def two_cpus(text):
    match = re.fullmatch(r"(\d+),(\d+)", text)
    if not match or match[1] == match[2]:
        raise argparse.ArgumentTypeError(f"{text!r} is not two CPUs; for example 0,1")
    return [int(match[1]), int(match[2])]


def first_line(*words):
    """Of what it prints on stdout, else on stderr."""
    done = subprocess.run(words, capture_output=True, text=True)
    line = (done.stdout.strip() or done.stderr.strip()).partition("\n")[0]
    return re.sub(r"^This is | Copyright.*| <.*|,", "", line)
