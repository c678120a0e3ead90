"""How much of the machine others used while something was measured.

    with Others([server_pid]) as others:
        measure()
    print(f"{others.share:.0%} of all cores")

Counts from /proc: what all processes used, less this process, its finished children and the
processes named. Time stolen by the host of a virtual machine counts as used by others.
"""

import os
import time

TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


def machine_seconds():
    with open("/proc/stat") as file:
        user, nice, system, _, _, irq, softirq, steal = map(int, file.readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / TICKS_A_SECOND


def process_seconds(pid):
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_A_SECOND


class Others:
    def __init__(self, pids=()):
        self.pids = [os.getpid(), *pids]
        self.share = 0.0

    def __enter__(self):
        self.own, self.all, self.start = self.own_seconds(), machine_seconds(), time.monotonic()
        return self

    def __exit__(self, *error):
        used = machine_seconds() - self.all - (self.own_seconds() - self.own)
        wall = time.monotonic() - self.start
        self.share = max(0.0, used / (wall * os.cpu_count()))

    def own_seconds(self):
        children = os.times()
        finished = children.children_user + children.children_system
        return finished + sum(process_seconds(pid) for pid in self.pids)
