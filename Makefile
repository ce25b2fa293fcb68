# The whole interface: make run | test | check | bench. Each sets up what it needs.
# For whoever trains models, there are workshop (the extra, torch: large, and its tests)
# and models: every shipped bundle anew, from DATA=the folder of the data sets.
# slm-agent and its tools live in .venv; nothing else is touched, but for Debian's
# packages python3-venv and mosquitto (tests), installed if they are missing.

PYTHON ?= python3
BIN := .venv/bin
SUDO := $(shell [ "$$(id -u)" = 0 ] || command -v sudo)
APT := $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq

.PHONY: all run test workshop models check bench clean
all: check test

run: .venv/.run
	$(BIN)/slm-agent demo

test: .venv/.dev
	@{ command -v mosquitto >/dev/null || [ -x /usr/sbin/mosquitto ]; } && command -v openssl >/dev/null \
		|| { $(SUDO) apt-get update -qq && $(APT) --no-install-recommends mosquitto openssl; }
	$(BIN)/python -m pytest $(TESTS)

workshop: .venv/.workshop
	$(BIN)/python -m pytest tests/workshop

# Two at a time, one core each, is faster here than one on two cores: OMP_NUM_THREADS=1
# make -j2 models DATA=...
BUNDLES := $(patsubst agent/workshop/recipes/%.toml,%,$(wildcard agent/workshop/recipes/*.toml))
.PHONY: $(BUNDLES:%=models/%)
models: $(BUNDLES:%=models/%)

$(BUNDLES:%=models/%): models/%: .venv/.workshop
	@[ -d "$(DATA)" ] || { echo "make models DATA=folder of the data sets"; exit 2; }
	$(BIN)/slm-agent train $* --data "$(DATA)"

check: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy agent
	$(BIN)/slm-agent check

bench: .venv/.workshop
	$(BIN)/slm-agent bench --out bench/results/$(shell uname -m).json
	$(BIN)/python bench/peers.py --out bench/results/peers-$(shell uname -m).json

.venv/pyvenv.cfg:
	$(PYTHON) -m venv .venv \
		|| { rm -rf .venv; $(SUDO) apt-get update -qq && $(APT) python3-venv && $(PYTHON) -m venv .venv; }

.venv/.run: .venv/pyvenv.cfg pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[demo]'
	@touch $@

.venv/.dev: .venv/pyvenv.cfg pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@ .venv/.run

.venv/.workshop: .venv/.dev
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[workshop]'
	@touch $@

clean:
	rm -rf .venv dist .mypy_cache .ruff_cache .pytest_cache
