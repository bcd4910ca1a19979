"""Time, processor time and medians."""

import os
import statistics
import subprocess
import time

GIB = 1 << 30
TICK = os.sysconf("SC_CLK_TCK")


def row(name, unit, ours, peer_name, peer, *, goal=None, cpu_ours=None, cpu_peer=None, runs=1, note="", less=False):
    """One result. The ratio is above 1 when we are better, also where less is better (`less`)."""
    ratio = None
    if ours and peer:
        ratio = round(peer / ours if less else ours / peer, 3)
    return {
        "row": name, "unit": unit, "ours": ours, "peer_name": peer_name, "peer": peer, "ratio": ratio, "goal": goal,
        "cpu_s_per_gib_ours": cpu_ours, "cpu_s_per_gib_peer": cpu_peer, "runs": runs, "note": note,
    }


def cpu_seconds(pid):
    """Processor time of a process and its children so far, in seconds."""
    pids, seconds = [pid], 0.0
    while pids:
        current = pids.pop()
        try:
            with open(f"/proc/{current}/stat", encoding="utf-8") as stat:
                fields = stat.read().rsplit(")", 1)[1].split()
            with open(f"/proc/{current}/task/{current}/children", encoding="utf-8") as children:
                pids += [int(child) for child in children.read().split()]
        except OSError:
            continue
        # utime stime cutime cstime: fields 14 to 17 of proc_pid_stat(5)
        seconds += sum(int(ticks) for ticks in fields[11:15]) / TICK
    return seconds


def rates(work, amount, pid, runs=3):
    """Median of amount per second, and processor seconds of `pid` per unit of amount."""
    speeds, costs = [], []
    for _ in range(runs):
        before, start = cpu_seconds(pid), time.monotonic()
        done = work()
        seconds = time.monotonic() - start
        units = amount if done is None else done
        speeds.append(units / seconds)
        costs.append((cpu_seconds(pid) - before) / units)
    return statistics.median(speeds), statistics.median(costs)


def shell(command, **options):
    """Runs a command; its output is in the error when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))} failed: {done.stderr[-2000:]}{done.stdout[-2000:]}")
    return done.stdout
