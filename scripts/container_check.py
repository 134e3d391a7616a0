"""Of `scripts/container-lab check`: reads what was measured, prints a line per arm, and fails where one is not as it
must be. Arguments: the directory of the reports, and the arms."""

import json
import pathlib
import sys

place, arms = pathlib.Path(sys.argv[1]), sys.argv[2:]
reports = {path.stem: json.loads(path.read_text()) for path in place.glob("*.json") if path.stem != "daemon"}
wrong = []


def must(arm, holds, what):
    if not holds:
        wrong.append(f"{arm}: {what}")


instance = {}
for arm in arms:
    report = reports[arm]
    result = report["results"][0]
    client, server = result["instrument"]["client"], result["instrument"]["server"]
    far = report["environment"]["servers"]
    near_container = report["environment"]["client"]["container"]
    container, backend, reason = far[0]["container"], server["backend"], server["backend_reason"]
    instance[arm] = result["instances"]
    p50 = result["latency"]["service"]["p50_ns"]
    print(f"{arm:10} {p50 / 1e3:7.1f} µs  {client['backend']}/{backend:6} {container or '-':7} "
          f"{instance[arm][0]}  {report['plan']['target']}")
    must(arm, result["operations"]["completed"] == 1000, f"completed {result['operations']}")
    must(arm, len(instance[arm]) == 1 and len(far) == 1, f"instances {instance[arm]}")
    must(arm, reason and client["backend_reason"], "no reason for a backend")
    denied = "EPERM" in reason
    if arm == "host":
        must(arm, container == near_container, f"in {container}, the client in {near_container}")
        must(arm, backend == client["backend"], f"{backend}, the client {client['backend']}")
    elif arm == "gvisor":
        must(arm, container == "gvisor", f"container {container}")
        must(arm, backend == "epoll" and ("EINVAL" in reason or "ENOSYS" in reason), f"{backend}: {reason}")
    else:
        must(arm, container == "docker", f"container {container}")
        if arm == "seccomp":
            must(arm, backend == "epoll" and denied, f"{backend}: {reason}")
        else:
            # Docker's default profile: it denies io_uring since version 25.
            must(arm, backend == client["backend"] or (backend == "epoll" and denied), f"{backend}: {reason}")
    if backend != client["backend"]:
        print(f"{'':10} {reason}")
same = [instance[arm] for arm in ("runc", "published", "proxy") if arm in instance]
must("published", all(one == same[0] for one in same), f"not the same server: {same}")
others = [tuple(instance[arm]) for arm in arms if arm not in ("published", "proxy")]
must("all", len(set(others)) == len(others), f"servers that should differ: {instance}")
if "compared" in reports:
    comparison = reports["compared"]["comparison"]
    ends = reports["compared"]["results"]
    used = {end["backend"] for one in ends for end in one["instrument"].values() if end}
    print(f"host against seccomp: {comparison['backend']} at both ends of each: {comparison['backend_reason']}")
    must("seccomp", comparison["backend"] == "epoll" and used == {"epoll"}, f"compared by {used}")
if "throttled" in reports:
    server = reports["throttled"]["results"][0]["instrument"]["server"]
    periods, nanoseconds = server["throttled_periods"], server["throttled_ns"]
    quota = (place / "quota").read_text().strip()
    print(f"limited to {quota} CPU, used up by a neighbour: throttled in {periods} periods, "
          f"{(nanoseconds or 0) / 1e6:.0f} ms in all")
    must("limited", periods and nanoseconds, "no throttling reported")
for line in wrong:
    print(f"container-lab: {line}", file=sys.stderr)
sys.exit(1 if wrong else 0)
