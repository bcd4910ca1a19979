"""Runs in the guest (e2e/guest): attacks a storage node over soft-RoCE. Arguments choose tests by a part of their names."""

import sys
import time
import unittest

from case import World
import test_deaths
import test_headers
import test_rules
import test_windows


def chosen(suite, parts):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from chosen(test, parts)
        elif not parts or any(part in test.id() for part in parts):
            yield test


class Told(unittest.TextTestResult):
    """Names what failed as the runner of all suites looks for it."""

    def addError(self, test, err):
        super().addError(test, err)
        self.name(test)

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self.name(test)

    def name(self, test):
        self.stream.writeln(f"FAILED {test.id()}")


def main():
    begun = time.monotonic()
    loader = unittest.defaultTestLoader
    suite = unittest.TestSuite()
    for module in test_rules, test_headers, test_windows, test_deaths:
        suite.addTests(chosen(loader.loadTestsFromModule(module), sys.argv[1:]))
    World.begin()
    outcome = unittest.TextTestRunner(verbosity=2, resultclass=Told, stream=sys.stdout).run(suite)
    failed = len(outcome.failures) + len(outcome.errors)
    try:
        status = World.end()
        if status != 0:
            raise AssertionError(f"the storage node ended with status {status}")
    except AssertionError as error:
        print(f"FAILED the end: {error}")
        failed += 1
    if failed:
        print("--- the storage node's log, last lines", *World.node.log().splitlines()[-30:], sep="\n")
    print(f"{failed} failed, {outcome.testsRun - len(outcome.failures) - len(outcome.errors)} passed in {time.monotonic() - begun:.1f}s", flush=True)
    return 1 if failed or not outcome.testsRun else 0


if __name__ == "__main__":
    sys.exit(main())
