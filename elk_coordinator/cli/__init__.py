"""The ``elk`` command: one small module per command, listed in :mod:`elk_coordinator.cli.main`."""
