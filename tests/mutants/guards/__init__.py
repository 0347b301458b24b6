"""The guards of the house, area by area."""

from __future__ import annotations

from typing import Dict, List

from tests.mutants.guard import Guard
from tests.mutants.guards import data, documents, doors, leaders, life, plan_scripts, worker_scripts, workers

AREAS: Dict[str, List[Guard]] = {
    "scripts of workers": worker_scripts.GUARDS,
    "scripts of plan, archive, commands and locks": plan_scripts.GUARDS,
    "SIMPLE and the store in memory": documents.GUARDS,
    "workers": workers.GUARDS,
    "leader": leaders.GUARDS,
    "threads and processes": life.GUARDS,
    "doors": doors.GUARDS,
    "archive, purge, SQL": data.GUARDS,
}
