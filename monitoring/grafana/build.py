"""Write the dashboards as JSON, one file per dashboard and language.

python -m monitoring.grafana.build            # write them
python -m monitoring.grafana.build --check    # only say which differ from what is written; exit 1 then
"""

from __future__ import annotations

import json
import pathlib
import sys
from typing import Dict, List

from monitoring.grafana import fleet, leader, slo, worker
from monitoring.grafana.model import LANGUAGES, Dashboard

FOLDER = pathlib.Path(__file__).resolve().parent / "dashboards"
DASHBOARDS: List[Dashboard] = [fleet.DASHBOARD, leader.DASHBOARD, worker.DASHBOARD, slo.DASHBOARD]


def files() -> Dict[pathlib.Path, str]:
    """Return path -> text of every file."""
    return {
        FOLDER / language / (dashboard.name + ".json"): json.dumps(
            dashboard.to_json(language), indent=2, ensure_ascii=False
        )
        + "\n"
        for dashboard in DASHBOARDS
        for language in LANGUAGES
    }


def main(check: bool) -> int:
    """Write, or compare."""
    wrong = 0
    for path, text in files().items():
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        wrong += 1
        print("%s %s" % ("differs:" if check else "written:", path.relative_to(FOLDER)))
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return 1 if check and wrong else 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
