"""Fixtures of the tests for contrib. Importing the first ones sets Django up, before any test imports a model."""

from __future__ import annotations

from tests.contrib.djsite.fixtures import configure, database, migrated  # noqa: F401
