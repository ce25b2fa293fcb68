# The whole interface: make run | test | check | bench. Each sets up what it needs.
# For whoever trains models, there is workshop: the extra (torch: large) and its tests.
# slm-agent and its tools live in .venv; nothing else is touched, but for Debian's
# packages python3-venv and mosquitto (tests), installed if they are missing.

PYTHON ?= python3
BIN := .venv/bin
SUDO := $(shell [ "$$(id -u)" = 0 ] || command -v sudo)
APT := $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq

.PHONY: all run test workshop check bench clean
all: check test

run: .venv/.run
	$(BIN)/slm-agent demo

test: .venv/.dev
	@{ command -v mosquitto >/dev/null || [ -x /usr/sbin/mosquitto ]; } && command -v openssl >/dev/null \
		|| { $(SUDO) apt-get update -qq && $(APT) --no-install-recommends mosquitto openssl; }
	$(BIN)/python -m pytest $(TESTS)

workshop: .venv/.dev
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[workshop]'
	$(BIN)/python -m pytest tests/workshop

check: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy agent
	$(BIN)/slm-agent check

bench: .venv/.run
	$(BIN)/slm-agent bench --out bench/results/$(shell uname -m).json

.venv/pyvenv.cfg:
	$(PYTHON) -m venv .venv \
		|| { rm -rf .venv; $(SUDO) apt-get update -qq && $(APT) python3-venv && $(PYTHON) -m venv .venv; }

.venv/.run: .venv/pyvenv.cfg pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[demo]'
	@touch $@

.venv/.dev: .venv/pyvenv.cfg pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@ .venv/.run

clean:
	rm -rf .venv dist .mypy_cache .ruff_cache .pytest_cache
