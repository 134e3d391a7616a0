"""`scripts/versus http`: contestants, cases and what they must reach. One nginx of its own serves all of them."""

import json
import os
import pathlib
import re
from typing import NamedTuple

from paired import Figure, Target
from running import PROGRAMS, Bench, Case, Failure, Process, Section, free_port, tare_result

EPILOG = """\
Cases (default: all):
  closed-1  closed-64  closed-1000  as fast as that many connections allow: tare --wait block against wrk, hey, h2load,
                        ab and oha, from 64 connections on against gcannon as well, on one nginx. CPU is that of the
                        client's process from start to end, as the kernel accounts it to whoever waits for it (wait4),
                        the same for every tool, over all requests of that time: those of tare's warm-up too. "own" is what tare itself gives, without start and warm-up.
                        req/CPU-s is requests per second of the client's CPU time. Latencies are as each prints
                        them (tare: service). In flight is Little's law, rate x mean latency as printed: below the number
                        of connections, a tool has let that many rest, or their time does not count. A p99 of so many
                        fewer requests in flight is another load's
  open-1000  open-10000  requests at that rate over 100 connections: tare, spinning, hybrid and blocking; beside it what
                        oha -q and hey -q print of the same. "CPU : uring" is what hybrid waiting on epoll costs beside
                        that on uring
  server-64  server-1000  tare serve against nginx, with wrk as the client of both and bodies of the same length; busy is
                        the share of its CPU

The nginx has one worker, a configuration and a directory of its own, keep-alive without end, and no access log.
hey, oha and gcannon are left out where they are not there; OHA, HEY, WRK, ... name binaries that are not in PATH.
"""
OPEN_CONNECTIONS = 100
WARMUP_S = 0.2


class Page(NamedTuple):
    """What is fetched: from nginx by `path`; from `tare serve` as so many bytes."""

    path: str
    size: int
    what: str


PAGES = {
    "text": Page("/text", 100, "100 B from nginx's configuration"),
    "file": Page("/page.html", 612, "a file of 612 B"),
}
# The temporary paths are named for nginx to keep its hands off the system's. As root it would serve as another user,
# who may not read its directory. Without worker_rlimit_nofile, the limit it was started with holds.
NGINX = """\
daemon off;
{user}
worker_processes 1;
pid {directory}/pid;
error_log stderr warn;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    default_type text/plain;
    sendfile on;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        root {directory}/pages;
        location = {text.path} {{ return 200 "{body}"; }}
    }}
}}
"""
UNITS_US = {"us": 1.0, "ms": 1e3, "s": 1e6, "m": 60e6}


class HttpBench(Bench):
    """Has its nginx from enter to exit."""

    nginx = None

    def __enter__(self):
        directory = self.scratch / "nginx"
        (directory / "pages").mkdir(parents=True)
        page = PAGES["file"]
        (directory / "pages" / page.path[1:]).write_text("p" * (page.size - 1) + "\n")
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}{PAGES[self.options.page].path}"
        user = "user root;" if os.geteuid() == 0 else ""
        text, config = PAGES["text"], directory / "nginx.conf"
        fields = {"user": user, "directory": directory, "port": self.port, "text": text, "body": "t" * text.size}
        config.write_text(NGINX.format(**fields))
        words = [PROGRAMS["nginx"].path(), "-e", "stderr", "-p", directory, "-c", config]
        self.nginx = Process(words, self.server_cpu, self.scratch, "nginx")
        try:
            self.wait_until_bound(self.nginx, self.port, "tcp")
        except BaseException as error:
            self.nginx.end()
            raise Failure(f"{error}: {self.nginx.said()}") if isinstance(error, Failure) else error
        return self

    def __exit__(self, *_):
        self.nginx.end()

    def tool(self, name, *words):
        """Runs it; gives the process and what it printed."""
        client = self.client([PROGRAMS[name].path(), *words])
        return client, client.out.read_text()

    # --- Closed loop --------------------------------------------------------------------------------------------------

    def tare_http(self, backend, flags):
        client = self.client([
            *(self.tare, "http", self.url, "--backend", backend, "--threads", 1, "--cpus", self.client_cpu),
            *("--duration", f"{self.options.tare_seconds * 1e3:.0f}ms", "--warmup", f"{WARMUP_S * 1e3:.0f}ms"),
            *("--format", "json", "--quiet", *flags),
        ])
        result, figures = tare_result(client.out.read_text())
        wrong = {key: result["operations"][key] for key in ("failed", "timed_out") if result["operations"][key]}
        if wrong:
            raise Failure(f"tare: {wrong}, {result['errors']}")
        warmup = (result.get("warmup") or {}).get("operations", {}).get("completed", 0)
        requests = result["operations"]["completed"] + warmup
        return result, figures | cpu(client, requests)

    def tare_closed(self, backend, connections):
        result, figures = self.tare_http(backend, ["-c", connections, "--wait", "block"])
        figures["rate"] = result["rate"]["achieved_per_s"]
        if own_ns := (result["cpu"]["client"] or {}).get("per_operation_ns"):
            figures["own"] = own_ns / 1e3
        service = result["latency"]["service"]
        return figures | quantiles_us("", service) | in_flight(figures["rate"], service["mean_ns"] / 1e3)

    def wrk(self, url, connections):
        """Runs it, and gives its process and its figures. It takes whole seconds."""
        words = ["-t1", f"-c{connections}", f"-d{self.options.seconds}s", "--latency", url]
        client, text = self.tool("wrk", *words)
        errors = re.search(r"Socket errors:.*|Non-2xx.*", text)
        if errors:
            raise Failure(f"wrk: {errors[0]}")
        figures = {"rate": value(r"Requests/sec:\s*([\d.]+)", text)}
        for key in ("50", "99"):
            found = re.search(rf"^\s*{key}%\s+([\d.]+)(us|ms|s|m)\s*$", text, re.M)
            figures[f"p{key}"] = float(found[1]) * UNITS_US[found[2]]
        mean = re.search(r"^\s*Latency\s+([\d.]+)(us|ms|s|m)\s", text, re.M)
        figures |= in_flight(figures["rate"], float(mean[1]) * UNITS_US[mean[2]])
        return client, figures | cpu(client, value(r"(\d+) requests in", text))

    def wrk_closed(self, connections):
        return self.wrk(self.url, connections)[1]

    def hey_closed(self, connections):
        client, text = self.tool("hey", "-z", f"{self.options.seconds}s", "-c", connections, self.url)
        figures, requests = hey_figures(text)
        return figures | cpu(client, requests)

    def h2load_closed(self, connections):
        """It prints no quantile."""
        words = ["--h1", "-t1", f"-c{connections}", "-D", self.options.seconds, self.url]
        client, text = self.tool("h2load", *words)
        if value(r"(\d+) failed", text) or value(r" (\d+) 2xx", text) == 0:
            raise Failure(f"h2load: {text}")
        requests = value(r"(\d+) succeeded", text)
        return {"rate": value(r"finished in .*?, ([\d.]+) req/s", text)} | cpu(client, requests)

    def ab_closed(self, connections):
        """Its -t sets -n, which is to bound nothing: behind it. Its table has whole milliseconds, its file has more."""
        file = self.scratch / "ab.csv"
        words = ["-q", "-k", "-c", connections, "-t", self.options.seconds, "-n", 1_000_000 * self.options.seconds]
        client, text = self.tool("ab", *words, "-e", file, self.url)
        if value(r"Failed requests:\s+(\d+)", text) or "Non-2xx" in text:
            raise Failure(f"ab: {text}")
        figures = {"rate": value(r"Requests per second:\s+([\d.]+)", text)}
        for key in ("50", "99"):
            figures[f"p{key}"] = value(rf"(?m)^{key},([\d.]+)$", file.read_text()) * 1e3
        return figures | cpu(client, value(r"Complete requests:\s+(\d+)", text))

    def oha(self, connections, *flags):
        words = ["--no-tui", "--output-format", "json", "-z", f"{self.options.seconds}s", "-c", connections]
        client, text = self.tool("oha", *words, *flags, self.url)
        result = json.loads(text)
        codes = result["statusCodeDistribution"]
        if list(codes) != ["200"]:
            raise Failure(f"oha: {codes}, {result['errorDistribution']}")
        figures = {"rate": result["summary"]["requestsPerSec"]}
        figures |= {key: result["latencyPercentiles"][key] * 1e6 for key in ("p50", "p99")}
        figures |= in_flight(figures["rate"], result["summary"]["average"] * 1e6)
        return figures | cpu(client, codes["200"])

    def oha_closed(self, connections):
        return self.oha(connections)

    def gcannon_closed(self, connections):
        words = ["-c", connections, "-t", 1, "-d", f"{self.options.seconds}s", "--json"]
        client, text = self.tool("gcannon", self.url, *words)
        result = json.loads(text)
        wrong = {key: n for key, n in (result["status"] | result["errors"]).items() if n and key != "2xx"}
        if wrong:
            raise Failure(f"gcannon: {wrong}")
        latency, figures = result["latency_us"], {"rate": result["rps"]}
        figures |= {key: latency[key] for key in ("p50", "p99")} | in_flight(figures["rate"], latency["avg"])
        return figures | cpu(client, result["responses"])

    # --- Open loop ----------------------------------------------------------------------------------------------------

    def tare_open(self, backend, wait, rate):
        result, figures = self.tare_http(backend, ["-c", OPEN_CONNECTIONS, "-R", rate, "--wait", wait])
        figures["achieved"] = result["rate"]["achieved_per_s"] / result["rate"]["target_per_s"]
        figures |= quantiles_us("late_", result["latency"]["lateness"])
        return figures | quantiles_us("", result["latency"]["response"])

    def hey_open(self, rate):
        """Its rate is per worker."""
        words = ["-z", f"{self.options.seconds}s", "-c", OPEN_CONNECTIONS, "-q", rate / OPEN_CONNECTIONS, self.url]
        client, text = self.tool("hey", *words)
        figures, requests = hey_figures(text)
        return figures | cpu(client, requests) | {"achieved": figures["rate"] / rate}

    def oha_open(self, rate):
        figures = self.oha(OPEN_CONNECTIONS, "-q", rate)
        return figures | {"achieved": figures["rate"] / rate}

    # --- Servers ------------------------------------------------------------------------------------------------------

    def tare_server(self, backend, connections):
        port, size = free_port(), PAGES[self.options.page].size
        words = [self.tare, "serve", "--listen", f"127.0.0.1:{port}", "--backend", backend]
        with self.serving(words, port) as server:
            url = f"http://127.0.0.1:{port}/bytes/{size}"
            return self.loaded([server.child.pid], url, connections)

    def nginx_server(self, connections):
        master = self.nginx.child.pid
        workers = pathlib.Path(f"/proc/{master}/task/{master}/children").read_text().split()
        return self.loaded(workers, self.url, connections)

    def loaded(self, pids, url, connections):
        before_s = sum(map(cpu_so_far_s, pids))
        client, figures = self.wrk(url, connections)
        server_s, requests = sum(map(cpu_so_far_s, pids)) - before_s, figures["requests"]
        seconds = requests / figures["rate"]
        figures |= {"busy": server_s / seconds * 100, "client_busy": client.cpu_s / seconds * 100}
        return figures | {"server_us": server_s / requests * 1e6}


def value(pattern, text):
    found = re.search(pattern, text)
    if not found:
        raise Failure(f"no {pattern!r} in what was printed: {text}")
    return float(found[1])


def hey_figures(text):
    """And the number of requests, from the rate: hey keeps a million results and counts no codes beyond them."""
    codes = set(re.findall(r"^\s*\[(\d+)\]\s+\d+ responses", text, re.M))
    if codes != {"200"} or "Error distribution" in text:
        raise Failure(f"hey: {text}")
    figures = {"rate": value(r"Requests/sec:\s*([\d.]+)", text)}
    figures |= {f"p{key}": value(rf"{key}%+ in ([\d.]+) secs", text) * 1e6 for key in ("50", "99")}
    figures |= in_flight(figures["rate"], value(r"Average:\s*([\d.]+) secs", text) * 1e6)
    return figures, figures["rate"] * value(r"Total:\s*([\d.]+) secs", text)


def in_flight(rate, mean_us):
    """Requests under way at a time, by Little's law."""
    return {"in_flight": rate * mean_us / 1e6}


def cpu(client, requests):
    if not requests:
        raise Failure(f"no request was answered: {client.said()}")
    return {
        "requests": requests,
        "user": client.user_s / requests * 1e6,
        "system": client.system_s / requests * 1e6,
        "cpu_s": client.cpu_s,
        "per_cpu": requests / client.cpu_s,
    }


def quantiles_us(prefix, summary):
    """Without those that the run was too short for."""
    keys = {"p50": "p50_ns", "p99": "p99_ns"}
    return {prefix + key: summary[name] / 1e3 for key, name in keys.items() if summary.get(name) is not None}


def cpu_so_far_s(pid):
    """A running process's; in the kernel's ticks."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# --- The cases and what they must reach -------------------------------------------------------------------------------


def closed_case(connections, uring_least):
    tools = ("hey", "h2load", "ab", "oha", *(("gcannon",) if connections > 1 else ()), "wrk")
    to_wrk, to_oha, to_gcannon = (f"req/CPU-s : {tool}" for tool in ("wrk", "oha", "gcannon"))
    figures = (
        Figure("per_cpu", "req/CPU-s", 0, to_wrk, target=Target(least=uring_least), to="wrk", of="uring"),
        Figure("per_cpu", "", 0, to_wrk, target=Target(least=1.0), to="wrk", of="epoll"),
        Figure("per_cpu", "", 0, to_oha, target=Target(least=1.5), to="oha"),
        Figure("per_cpu", "", 0, to_gcannon, target=Target(least=1.0), to="gcannon"),
        Figure("user", "user µs", 2),
        Figure("system", "system µs", 2),
        Figure("own", "own µs", 2),
        Figure("rate", "req/s", 0, "req/s : wrk", to="wrk"),
        Figure("rate", "", 0, "req/s : gcannon", target=Target(least=1.0), to="gcannon"),
        Figure("p50", "p50 µs", 0),
        Figure("p99", "p99 µs", 0, "p99 : wrk", target=Target(most=1.0), to="wrk"),
        Figure("in_flight", "in flight", 0),
    )
    what = f"closed loop, {connections} connections, CPU per request"
    rivals = tuple((tool, f"{tool}_closed", connections) for tool in tools)
    return Case(what, (("tare", "tare_closed", connections),), rivals, figures)


def open_case(rate, blocking_us):
    late, itself = "lateness p99 µs", {"ratio": False}
    figures = (
        Figure("achieved", "achieved", 4, "achieved", target=Target(0.999, 1.001), **itself),
        Figure("late_p99", "late p99 µs", 1, late, target=Target(most=5), of="spin", **itself),
        Figure("late_p99", "", 1, late, target=Target(most=5), of="hybrid", **itself),
        Figure("late_p99", "", 1, late, target=Target(most=blocking_us), of="block", **itself),
        Figure("p50", "p50 µs", 1, "p50 µs", target=Target(most=60), of="hybrid", **itself),
        Figure("p99", "p99 µs", 1),
        Figure("user", "user µs", 1),
        Figure("system", "system µs", 1),
        Figure("cpu_s", "CPU s", 3, "CPU : uring", target=Target(most=1.1), to="hybrid-uring", of="hybrid-epoll"),
    )
    waits = tuple((wait, "tare_open", wait, rate) for wait in ("spin", "hybrid", "block"))
    rivals = tuple((tool, f"{tool}_open", rate) for tool in ("oha", "hey"))
    return Case(f"{rate} requests/s over {OPEN_CONNECTIONS} connections, response time", waits, rivals, figures)


def server_case(connections):
    figures = (
        Figure("rate", "req/s", 0, "req/s", target=Target(least=1.0)),
        Figure("busy", "busy %", 0),
        Figure("server_us", "CPU µs", 2, "CPU per request"),
        Figure("p50", "p50 µs", 0),
        Figure("p99", "p99 µs", 0),
        Figure("client_busy", "wrk busy %", 0),
    )
    tare = (("tare", "tare_server", connections),)
    rivals = (("nginx", "nginx_server", connections),)
    return Case(f"servers under wrk -c{connections}", tare, rivals, figures)


SECTION = Section(
    what="HTTP requests: wrk, hey, h2load, ab, oha and gcannon; nginx as the server",
    epilog=EPILOG,
    bench=HttpBench,
    cases={
        "closed-1": closed_case(1, uring_least=1.0),
        "closed-64": closed_case(64, uring_least=1.15),
        "closed-1000": closed_case(1000, uring_least=1.15),
        "open-1000": open_case(1000, blocking_us=100),
        "open-10000": open_case(10_000, blocking_us=250),
        "server-64": server_case(64),
        "server-1000": server_case(1000),
    },
    rounds=8,
    seconds=2,
    brief_rounds=1,
    needs=("nginx", "wrk"),
)
