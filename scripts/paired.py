#!/usr/bin/env python3
"""The arithmetic of scripts/versus-lat: reads what each tool prints, and pairs the rounds.

paired.py tare|qperf|sockperf  < a tool's output      prints p50 and mean round trip, µs, tab-separated
paired.py table                < lines of figures     prints the tables of ratios
paired.py free-port                                   prints a port; it and the next are free
"""

import json
import math
import re
import socket
import statistics
import sys

# What tare must reach, as a ratio to the rival: (case, statistic) -> at most.
TARGETS = {("tcp-spin", "p50"): 1.10, ("tcp-block", "mean"): 1.05}


def tare(text):
    service = json.loads(text)["results"][0]["latency"]["service"]
    return service["p50_ns"] / 1e3, service["mean_ns"] / 1e3


def qperf(text):
    """With --unify_units it prints nanoseconds. A mean of half a round trip, and no percentile."""
    latency = re.search(r"^\s*latency\s*=\s*([\d.,]+)\s*(ns|us|ms|sec)\s*$", text, re.M)
    if not latency:
        raise ValueError("no latency in qperf's output")
    scale = {"ns": 1e-3, "us": 1.0, "ms": 1e3, "sec": 1e6}[latency[2]]
    return math.nan, 2 * float(latency[1].replace(",", "")) * scale


def sockperf(text):
    """Half a round trip, µs, between colour codes. Its exit code is 0 even when nothing answered."""
    text = re.sub(r"\x1b\[[\d;]*m", "", text)
    mean = re.search(r"avg-latency=\s*([\d.]+)", text)
    p50 = re.search(r"percentile 50\.0+\s*=\s*([\d.]+)", text)
    if not mean or not p50:
        raise ValueError("no latency in sockperf's output")
    return 2 * float(p50[1]), 2 * float(mean[1])


def median_interval(values):
    """The narrowest order-statistic interval of the median with at least 95 %, and its coverage: the
    number of values below the median is binomial, whatever their distribution. None below six."""
    values, n, best = sorted(values), len(values), None
    for rank in range(n // 2):
        outside = 2 * sum(math.comb(n, i) for i in range(rank + 1)) / 2**n
        if outside > 0.05:
            break
        best = values[rank], values[n - 1 - rank], 1 - outside
    return best


def table(lines):
    cases = {}
    for line in lines:
        case, round_, name, p50, mean = line.split("\t")
        runs = cases.setdefault(case, {}).setdefault(name, {})
        runs[int(round_)] = {"p50": float(p50), "mean": float(mean)}
    for case, contestants in cases.items():
        rival_name, rival = list(contestants.items())[-1]
        print(f"\n{case}: full round trips, µs, medians over the rounds; ratios to {rival_name}, paired by round")
        print(f"{'':14}{'p50':>9}{'mean':>9}   {'ratio':<5}{'median':>8}  interval")
        for name, runs in contestants.items():
            middle = {s: statistics.median(r[s] for r in runs.values()) for s in ("p50", "mean")}
            shown = "".join(f"{'–' if math.isnan(v) else format(v, '.2f'):>9}" for v in middle.values())
            rows = [] if runs is rival else ratio_rows(case, runs, rival)
            print("\n".join([f"{name:14}{shown}" + (rows[0] if rows else "")] + [" " * 32 + r for r in rows[1:]]))


def ratio_rows(case, runs, rival):
    rows = []
    for statistic in ("p50", "mean"):
        ratios = [runs[r][statistic] / rival[r][statistic] for r in runs if r in rival]
        if not ratios or any(map(math.isnan, ratios)):
            continue
        row = f"   {statistic:<5}{statistics.median(ratios):>8.3f}"
        interval = median_interval(ratios)
        if interval:
            row += f"  [{interval[0]:.3f}, {interval[1]:.3f}] at {interval[2]:.1%}"
        else:
            row += "  none: needs 6 rounds"
        target = TARGETS.get((case, statistic))
        if target:
            row += f"  target ≤ {target:.2f}: {verdict(interval, target)}"
        rows.append(row)
    return rows


def verdict(interval, target):
    if interval and interval[1] <= target:
        return "met"
    if interval and interval[0] > target:
        return "missed"
    return "not decided"


def free_port():
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


def main():
    what = sys.argv[1] if len(sys.argv) == 2 else ""
    parsers = {"tare": tare, "qperf": qperf, "sockperf": sockperf}
    if what in parsers:
        try:
            print("{:.3f}\t{:.3f}".format(*parsers[what](sys.stdin.read())))
        except (ValueError, KeyError, IndexError, TypeError) as error:
            sys.exit(f"paired.py: {type(error).__name__}: {error}")
    elif what == "table":
        table(sys.stdin.read().splitlines())
    elif what == "free-port":
        print(free_port())
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
