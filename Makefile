# Needs python3 and make; everything else goes into $(VENV).
PYTHON ?= python3
VENV   ?= .venv
ARGS   ?=
BIN     = $(VENV)/bin
OLDEST ?= $(firstword $(wildcard $(HOME)/.pyenv/versions/3.8.*/bin/python3.8) $(shell command -v python3.8 2>/dev/null))
NEWEST ?= $(firstword $(foreach v,13 12 11 10,$(wildcard $(HOME)/.pyenv/versions/3.$(v).*/bin/python3.$(v)) $(shell command -v python3.$(v) 2>/dev/null)) $(PYTHON))
BACKEND_TESTS = tests/contract tests/integration

EXAMPLES = quickstart.py database_batch/main.py django_site/main.py flask_app/main.py sqlalchemy_backfill/main.py \
           gunicorn/main.py message_queue/main.py monitoring/main.py

.DELETE_ON_ERROR:
.PHONY: help demo examples test test-long fault faults chaos soak mutants bench bench-peers lint lint-deploy test-debian test-oldest \
        test-frameworks test-databases test-monitoring look formal clean

help:  ## show this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/make \1  -  \2/p' Makefile

demo: $(VENV)/.demo  ## a table, four workers, one killed, one frozen; ARGS="--rows 20000"
	$(BIN)/elk demo $(ARGS)

examples: $(VENV)/.examples  ## every example, one after the other, each with its proof
	@set -e; for each in $(EXAMPLES); do echo "== examples/$$each"; $(BIN)/python examples/$$each; done

test: $(VENV)/.test  ## the whole suite; ARGS="-k lease"
	$(BIN)/python -m pytest $(ARGS)

test-long: $(VENV)/.test  ## what make test leaves out because of its length
	$(BIN)/python -m pytest -m long $(ARGS)

fault: $(VENV)/.test  ## the tests of rows of the fault table in docs/guarantees.rst, with their numbers; F="P3 S7"
	$(BIN)/python -m tests.faults.catalogue $(F) >$(VENV)/faults.txt
	$(BIN)/python -m pytest -m "" -rP $$(cat $(VENV)/faults.txt) $(ARGS)

faults: $(VENV)/.test  ## the whole fault table; writes its numbers to build/faults.json and draws docs/fault-table.rst
	mkdir -p build
	$(BIN)/python -m pytest -m "" tests/faults --fault-report build/faults.json $(ARGS); passed=$$?; \
	$(BIN)/python -m tests.faults.document --numbers build/faults.json && exit $$passed

mutants: $(VENV)/.test  ## switch each guard off in turn: some test must miss it; build/mutants.json; ARGS="-k report"
	$(BIN)/python -m tests.mutants.runner $(ARGS)
chaos: $(VENV)/.look  ## ten minutes of all faults at once over a fleet, audited; table and picture in build/chaos; ARGS="--strategy simple"
	$(BIN)/python -m tests.chaos --seconds 600 $(ARGS)

soak: $(VENV)/.look  ## the same for as long as you like, from a seed that replays it; SECONDS=7200 SEED=7
	$(BIN)/python -m tests.chaos --seconds $(or $(SECONDS),7200) $(if $(SEED),--seed $(SEED)) --out build/soak $(ARGS)

bench-peers: .venv-peers/.peers  ## this library beside Celery, RQ, Dramatiq, Huey, taskiq; build/bench-peers; ARGS="--recovery"
	.venv-peers/bin/python -m benchmarks.peers $(ARGS)
bench: $(VENV)/.look  ## what is reached, beside its limits and goals; build/bench; ARGS="--full", "--only drain,memory", "--docs"
	$(BIN)/python -m benchmarks $(ARGS)

lint: $(VENV)/.dev  ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/mypy

lint-deploy: $(VENV)/.dev  ## the Dockerfile, the Kubernetes manifests and the systemd unit, by the tools of each
	$(BIN)/hadolint Dockerfile
	$(BIN)/kubernetes-validate --strict --quiet deploy/kubernetes/*.yaml
	@if command -v systemd-analyze >/dev/null; then tests/contrib/verify_unit.sh deploy/systemd/elk-worker@.service; \
	else echo "systemd-analyze is not here: the unit was not verified"; fi

test-debian: $(VENV)/.test  ## what of contract and integration tests needs a server, on the redis-server found on PATH
	ELK_TEST_SERVER=path $(BIN)/python -m pytest $(BACKEND_TESTS) -k "not fakeredis and not memory" $(ARGS)

test-oldest:  ## contract and integration tests on Python 3.8, from pyenv or PATH
	@test -n "$(OLDEST)" || { echo "Python 3.8 was found neither in ~/.pyenv/versions nor on PATH" >&2; exit 1; }
	$(MAKE) test PYTHON="$(OLDEST)" VENV=.venv-3.8 ARGS="$(BACKEND_TESTS) $(ARGS)"

test-databases: $(VENV)/.test-databases  ## planners and guards on real servers: apt-get install postgresql mariadb-server
	$(BIN)/python -m pytest tests/databases $(ARGS)

test-frameworks:  ## tests/contrib on Python 3.8 with the oldest frameworks, and on the newest Python with the newest
	@test -n "$(OLDEST)" || { echo "Python 3.8 was found neither in ~/.pyenv/versions nor on PATH" >&2; exit 1; }
	PIP_CONSTRAINT=tests/contrib/oldest.txt $(MAKE) test PYTHON="$(OLDEST)" VENV=.venv-oldest ARGS="tests/contrib $(ARGS)"
	PIP_UPGRADE=1 $(MAKE) test PYTHON="$(NEWEST)" VENV=.venv-newest ARGS="tests/contrib $(ARGS)"

test-monitoring: $(VENV)/.test  ## a real Prometheus watches a fleet; needs prometheus and prometheus-alertmanager, of Debian
	$(BIN)/python -m pytest tests/monitoring tests/monitoring_live $(ARGS)

look: $(VENV)/.look  ## faults, their alerts, and the pictures in docs/images; five minutes; needs prometheus
	$(BIN)/python -m monitoring.live.look $(ARGS)

formal:  ## the model of the protocol and its mutants; needs spin and gcc; ARGS="work/M_NO_SEQUENCE"
	$(PYTHON) formal/run.py $(ARGS)

clean:  ## remove what the other targets made
	rm -rf .venv* build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: $(VENV)/.demo says that the extra "demo" is installed, as setup.cfg now asks for it.
$(VENV)/.%: setup.cfg | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@

# The peers have an environment of their own, so that nothing of the library can come to need one of them.
.venv-peers/.peers: benchmarks/peers/requirements.txt setup.cfg
	$(MAKE) VENV=.venv-peers .venv-peers/.demo
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) was not found; on Debian or Ubuntu: sudo apt-get install -y python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 8))' || { echo "Python 3.8 or newer is needed: make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "Python's venv module is missing; on Debian or Ubuntu: sudo apt-get install -y $$($(PYTHON) -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'pip>=21.3'
