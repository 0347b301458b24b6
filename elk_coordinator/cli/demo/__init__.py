"""``elk demo``: real processes, a real table and a real server, faults on purpose, and a proof at the end.

:mod:`settings` what the processes agree on; :mod:`database` the table, SQLite or PostgreSQL; :mod:`fence` the range
fence; :mod:`worker` a worker process; :mod:`crew` the worker processes as their parent sees them; :mod:`scenes` the
faults; :mod:`progress` the progress line; :mod:`proof` the checks at the end; :mod:`report` what is said of
them; :mod:`story` all of it in order; :mod:`server` where the store comes from; :mod:`command` the command line.
"""
