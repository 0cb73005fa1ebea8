"""Measures what importing costs: ``python -m tests.benchmarks.imports httpx bucketeer_async``, in that order."""

import json
import sys
import time


def main() -> None:
    """Import each module, and print the milliseconds of CPU that each one took."""
    sys.stdin.readline()
    figures = {}
    for name in sys.argv[1:]:
        began = time.process_time()
        __import__(name)
        figures[name] = (time.process_time() - began) * 1e3
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
