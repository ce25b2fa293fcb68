# The whole interface: make run | test | check | bench. Each sets up what it needs.
# For whoever trains models, there are workshop (the extra, torch: large, and its tests)
# and models: every shipped bundle anew, from DATA=the folder of the data sets; english
# is the trunk of most of them, and makes them with it. soak is a week in minutes.
# For whoever ships it: deb (ARCH=amd64 or arm64), system (that package in a container under
# systemd), arm64 (that package, emulated, against amd64's), lock (the libraries inside).
# slm-agent and its tools live in .venv; nothing else is touched, but for Debian's
# packages python3-venv, mosquitto (tests), debhelper (deb), mmdebstrap and
# systemd-container (system, arm64), qemu-user-static and binfmt-support (arm64),
# installed if they are missing.

PYTHON ?= python3
BIN := .venv/bin
SUDO := $(shell [ "$$(id -u)" = 0 ] || command -v sudo)
APT := $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq

.PHONY: all run test map long workshop models check bench soak deb lock system arm64 clean
all: check test

run: .venv/.run
	$(BIN)/slm-agent demo

test: .venv/.dev
	@{ command -v mosquitto >/dev/null || [ -x /usr/sbin/mosquitto ]; } && command -v openssl >/dev/null \
		|| { $(SUDO) apt-get update -qq && $(APT) --no-install-recommends mosquitto openssl; }
	$(BIN)/python -m pytest -n auto --dist loadfile -m "not long" $(TESTS)

# The structure in figures: modules, imports, the longest chain, what is long.
map:
	$(PYTHON) -m harness.architecture

# What takes minutes: 5,000 messages while everything breaks again and again. With
# CHAOS=bench/results/chaos-$$(uname -m).json its figures go to that file.
long: .venv/.dev
	SLM_CHAOS_OUT="$(CHAOS)" $(BIN)/python -m pytest -m long

workshop: .venv/.workshop
	$(BIN)/python -m pytest tests/workshop

# Two at a time, one core each, is faster here than one on two cores: OMP_NUM_THREADS=1
# make -j2 models DATA=...
BUNDLES := english maintenance privacy
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
	$(BIN)/python bench/outage.py --out bench/results/outage-$(shell uname -m).json

# 200,000 messages while everything breaks: ten minutes on an idle machine, exit status 1
# if anything grows.
soak: .venv/.dev
	$(BIN)/python bench/soak.py --out bench/results/soak-$(shell uname -m).json

ARCH ?= $(shell dpkg --print-architecture)
deb: .venv/.run
	@command -v dh >/dev/null || { $(SUDO) apt-get update -qq && $(APT) --no-install-recommends debhelper; }
	packaging/build-deb $(ARCH) $(BIN)/python

# What the package carries, to the hash: after a change of the dependencies, and now and
# then for their repairs.
lock: .venv/.run
	$(BIN)/pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --upgrade \
		--override packaging/leave-out.txt --custom-compile-command "make lock" \
		--output-file packaging/requirements.txt pyproject.toml

system: .venv/.dev deb
	@command -v mmdebstrap >/dev/null && command -v systemd-nspawn >/dev/null \
		|| { $(SUDO) apt-get update -qq && $(APT) --no-install-recommends mmdebstrap systemd-container; }
	SLM_DEB=$$(ls -t dist/slm-agent_*_$(ARCH).deb | head -1) $(BIN)/python -m pytest tests/system

# Emulation needs root, and the kernel's binfmt_misc.
arm64: .venv/.dev
	$(MAKE) deb ARCH=amd64
	$(MAKE) deb ARCH=arm64
	@command -v arch-test >/dev/null && command -v mmdebstrap >/dev/null && command -v systemd-nspawn >/dev/null \
		|| { $(SUDO) apt-get update -qq && $(APT) --no-install-recommends \
			mmdebstrap systemd-container qemu-user-static binfmt-support arch-test; }
	mountpoint -q /proc/sys/fs/binfmt_misc || $(SUDO) mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
	$(SUDO) update-binfmts --enable qemu-aarch64
	$(SUDO) $(BIN)/python tests/system/arm64.py $$(ls -t dist/slm-agent_*_arm64.deb | head -1) \
		$$(ls -t dist/slm-agent_*_amd64.deb | head -1) bench/results/arm64.json

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
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache
