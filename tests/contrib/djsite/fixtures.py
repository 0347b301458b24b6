"""django.setup() for this process, and fixtures: an empty database in a file, and the settings of one test."""

from __future__ import annotations

import os
import pathlib
from typing import Any, Callable, Iterator

import pytest

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.contrib.djsite.settings")

import django

django.setup()

from django.conf import settings  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import connections  # noqa: E402
from django.test.utils import override_settings  # noqa: E402


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return a database file with all tables, made once."""
    path = tmp_path_factory.mktemp("site") / "empty.db"
    connections.settings["default"]["NAME"] = str(path)
    call_command("migrate", run_syncdb=True, verbosity=0)
    connections.close_all()
    return path.read_bytes()


@pytest.fixture
def database(migrated: bytes, tmp_path: pathlib.Path) -> Iterator[str]:
    """Give this test a database of its own; return its path."""
    path = tmp_path / "site.db"
    path.write_bytes(migrated)
    connections.close_all()
    for wrapper in connections.all():
        wrapper.settings_dict["NAME"] = str(path)
    connections.settings["default"]["NAME"] = str(path)
    yield str(path)
    connections.close_all()


@pytest.fixture
def configure() -> Iterator[Callable[..., None]]:
    """Return a function that sets keys of ELK_COORDINATOR["default"] for this test; one set to None is removed."""
    overrides = []

    def change(**keys: Any) -> None:
        values = dict(settings.ELK_COORDINATOR["default"], **keys)
        entry = {key: value for key, value in values.items() if value is not None}
        override = override_settings(ELK_COORDINATOR=dict(settings.ELK_COORDINATOR, default=entry))
        override.enable()
        overrides.append(override)

    yield change
    while overrides:
        overrides.pop().disable()
