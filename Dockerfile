# syntax=docker/dockerfile:1
# A worker in a container: `elk run` as process 1, which hears SIGTERM itself, drains and ends with 0 (no init needed).
#
#   docker build -t elk-coordinator .
#   docker run --rm -e ELK_REDIS_URL=redis://redis:6379/0 -e ELK_NAMESPACE=orders -v "$PWD/work:/app:ro" \
#     --stop-timeout 40 elk-coordinator run work:Reindex work:Orders
#
# An image of your own: FROM elk-coordinator, COPY your modules into /app, pip install what they need (as root, before
# USER), CMD ["run", "work:Reindex", "work:Orders"]. Keep the exec form: under a shell, SIGTERM ends at the shell.
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
WORKDIR /src
RUN python -m venv /opt/elk
COPY setup.py setup.cfg pyproject.toml MANIFEST.in README.rst LICENSE ./
COPY elk_coordinator ./elk_coordinator
RUN /opt/elk/bin/pip install --no-cache-dir --disable-pip-version-check '.[hiredis]'

FROM python:${PYTHON}-slim
# A number, so that Kubernetes can see that it is not root (runAsNonRoot).
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin elk
COPY --from=build /opt/elk /opt/elk
# All interfaces, one fixed port: a container has its own network. The names in the Host header are checked on loopback
# addresses only, so here whoever reaches the port may read; writing needs ELK_ADMIN_TOKEN.
ENV PATH=/opt/elk/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    ELK_METRICS_ADDR=0.0.0.0:9464
# What stands here can be named as module:Name.
WORKDIR /app
USER 10001:10001
EXPOSE 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:9464/health', timeout=2)"]
ENTRYPOINT ["elk"]
CMD ["run", "--help"]
