"""A reading client in a process of its own: reads as planned, tells what it had, and stands still to be killed."""

import json
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from history.readers import Attendance, Plan

if __name__ == "__main__":
    port, target, form, query, cut, records, skip, end, secure = sys.argv[1:]
    had = []
    plan = Plan(form, query, cut, int(records), int(skip), end, secure=bool(secure))
    try:
        attendance = Attendance(
            int(port), target, plan, lambda name, place: had.append((*name, place, time.monotonic()))
        )
    except OSError:
        sys.exit()  # no listener just now
    attendance.read()
    if end == "half-close kill":
        attendance.client.half_close()
    print(json.dumps([attendance.incoming.status, had]), flush=True)
    signal.pause()
