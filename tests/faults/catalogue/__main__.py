"""Print the tests of rows of the fault table, one a line: ``python -m tests.faults.catalogue P3 S7``; none: all."""

from __future__ import annotations

import sys
from typing import List

from tests.faults.catalogue import faults


def main(wanted: List[str]) -> int:
    rows = {fault.id: fault for fault in faults()}
    unknown = [name for name in wanted if name not in rows]
    if unknown:
        print("no such fault: %s; there are %s" % (", ".join(unknown), ", ".join(rows)), file=sys.stderr)
        return 2
    chosen = [rows[name] for name in wanted] or list(rows.values())
    print("\n".join(dict.fromkeys(test for fault in chosen for test in fault.tests + fault.controls)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
