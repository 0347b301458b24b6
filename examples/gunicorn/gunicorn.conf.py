"""One coordinator in every worker process, never in the arbiter; drained when a worker ends or is recycled.

The same file serves ``--preload``, sync and gthread workers, and ``--max-requests``.
"""

bind = "127.0.0.1:8000"
workers = 2
worker_class = "gthread"
threads = 4
# Both above stop_timeout (25 s by default): after graceful_timeout a worker told to end is killed, after timeout one
# that drains at the end of its max_requests. What was killed is done again elsewhere, once its lease has run out.
graceful_timeout = 30
timeout = 30
max_requests = 10000
max_requests_jitter = 1000


def post_fork(server, worker):
    # Imported here: at the top it would be loaded in the arbiter, and a reload would not see new code.
    from work import elk

    elk()


def worker_exit(server, worker):
    from work import elk

    elk.stop()
