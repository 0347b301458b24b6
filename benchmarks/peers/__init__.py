"""The same jobs drained by this library and by task queues over Redis, on one server in one run: ``make bench-peers``.

A module ``with_<name>.py`` per contestant. Each has

``NAME``, ``PACKAGES``
    for the report; packages are those whose version is printed.
``SETTINGS``, ``KILLED``
    in words: what it runs with here, and what it promises about jobs of a killed process. With the pages that say so.
``enqueue(url, count, seconds)``
    put so many jobs there, each of which calls ``tally.job(seconds)``.
``work(url, width, defaults)``
    be a worker until killed, with up to *width* jobs at once; *defaults*: as it comes, for the recovery measurement.
``outstanding(client)``
    jobs not yet reported, by its own books on the server. None: it keeps no such books.
"""
