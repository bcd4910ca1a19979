"""Time, processor time, medians, and how rows look."""

import os
import statistics
import subprocess
import time

GIB = 1 << 30
RUNS = 5
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


def taking_turns(contestants, runs=RUNS):
    """Runs every contestant's work `runs` times, one after the other and again, so that what else the machine does meets
    all of them. `contestants`: name to (work, pid); work(number of the run) returns the amount done. Gives name to
    Measured."""
    speeds, costs = {name: [] for name in contestants}, {name: [] for name in contestants}
    for number in range(runs):
        for name, (work, pid) in contestants.items():
            before, start = cpu_seconds(pid), time.monotonic()
            amount = work(number)
            speeds[name].append(amount / (time.monotonic() - start))
            costs[name].append((cpu_seconds(pid) - before) / amount)
    return {name: Measured(speeds[name], costs[name]) for name in contestants}


class Measured:
    """The runs of one contestant: amount per second, and processor seconds per amount."""

    def __init__(self, speeds, costs):
        self.speed, self.cost = statistics.median(speeds), statistics.median(costs)
        self.slowest, self.fastest = min(speeds), max(speeds)

    def __str__(self):
        return f"{self.slowest:,.2f} to {self.fastest:,.2f}"


def against(name, unit, results, *, gib_per_unit=1.0, goals=None, note="", runs=RUNS):
    """One row per peer; the first of `results` is ours."""
    (_, ours), *others = results.items()
    for peer, theirs in others:
        spread = f"ours {ours}, theirs {theirs}"
        yield row(name, unit, round(ours.speed, 3), peer, round(theirs.speed, 3), goal=(goals or {}).get(peer), runs=runs,
                  cpu_ours=round(ours.cost / gib_per_unit, 3), cpu_peer=round(theirs.cost / gib_per_unit, 3),
                  note=f"{note}; {spread}" if note else spread)


def shell(command, **options):
    """Runs a command; its output is in the error when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))} failed: {done.stderr[-2000:]}{done.stdout[-2000:]}")
    return done.stdout
