# For users and developers, each target sets up what it needs:
#   make run | test | check | bench    try it, test it, lint it, measure it
#   make map | screenshots             the structure of the code, in figures; docs/images
#   make long | soak                   tests of minutes: everything killed; a week compressed
#   make fuzz                          100,000 inputs for each parser of what others choose
# To train models (extra `workshop`: torch, large):
#   make workshop                      its tests
#   make models DATA=DIR               every shipped bundle again, from the data sets in DIR;
#                                      `english` is the trunk of four, and makes them with it
# To build and test the package:
#   make deb [ARCH=arm64] [DEBIAN=13]  dist/slm-agent_<version>_<arch>.deb
#   make system [DEBIAN=13]            the package in a container under systemd
#   make arm64                         the arm64 package, emulated, against the amd64 one
#   make reproduce                     build it twice, and compare the bytes
#   make lock                          pin the libraries inside, by hash
# slm-agent and its tools live in .venv; nothing else is changed, except that missing Debian
# packages are installed: python3-venv, mosquitto and openssl (test), debhelper (deb),
# mmdebstrap and systemd-container (system, arm64), qemu-user-static and binfmt-support
# (arm64).

PYTHON ?= python3
BIN := .venv/bin
SUDO := $(shell [ "$$(id -u)" = 0 ] || command -v sudo)
APT := $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq

.PHONY: all run test map screenshots fuzz long workshop models check bench soak deb reproduce lock system arm64 clean
all: check test

run: .venv/.run
	$(BIN)/slm-agent demo

test: .venv/.dev
	@{ command -v mosquitto >/dev/null || [ -x /usr/sbin/mosquitto ]; } && command -v openssl >/dev/null \
		|| { $(SUDO) apt-get update -qq && $(APT) --no-install-recommends mosquitto openssl; }
	$(BIN)/python -m pytest -n 6 --dist loadfile --no-loadscope-reorder -m "not long" $(TESTS)

# The structure in figures: modules, imports, the longest chain, what is long.
map:
	$(PYTHON) -m harness.architecture

# What `demo` and `top` look like, as SVG.
screenshots: .venv/.dev
	$(BIN)/python -m harness.screenshots

# RUNS inputs for each parser, or for those of TARGETS=; what is found is kept in
# tests/fuzz/corpus. Half an hour and more; x86-64 only.
RUNS ?= 100000
fuzz: .venv/.dev
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[fuzz]'
	nice $(BIN)/python -m harness.fuzz --runs $(RUNS) $(TARGETS)

# Tests of minutes: 5,000 messages while everything is killed again and again. With
# CHAOS=bench/results/chaos-$$(uname -m).json the figures are written to that file.
long: .venv/.dev
	SLM_CHAOS_OUT="$(CHAOS)" $(BIN)/python -m pytest -m long

workshop: .venv/.workshop
	$(BIN)/python -m pytest tests/workshop

# Two bundles at a time, one core each, are faster than one on two cores:
# OMP_NUM_THREADS=1 make -j2 models DATA=...
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
	$(BIN)/python packaging/audit.py

bench: .venv/.workshop
	$(BIN)/slm-agent bench --out bench/results/$(shell uname -m).json
	$(BIN)/python bench/peers.py --out bench/results/peers-$(shell uname -m).json
	$(BIN)/python bench/outage.py --out bench/results/outage-$(shell uname -m).json

# 200,000 messages with 60 faults: ten minutes on an idle machine; exit status 1 if memory,
# files, threads or disk use grow.
soak: .venv/.dev
	$(BIN)/python bench/soak.py --out bench/results/soak-$(shell uname -m).json

# DEBIAN=13 for Debian 13 (Python 3.13); else Debian 12 (3.11).
DEBIAN ?= 12
SUITE = $(if $(filter 13,$(DEBIAN)),trixie,bookworm)
ARCH ?= $(shell dpkg --print-architecture)
deb: .venv/.run
	@command -v dh >/dev/null || { $(SUDO) apt-get update -qq && $(APT) --no-install-recommends debhelper; }
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[package]'
	packaging/build-deb $(ARCH) $(BIN)/python $(DEBIAN)

# Build the package of the last commit twice, in two places, and compare the bytes.
reproduce: .venv/.run
	@command -v dh >/dev/null || { $(SUDO) apt-get update -qq && $(APT) --no-install-recommends debhelper; }
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[package]'
	packaging/reproduce $(ARCH) $(BIN)/python

# Pin the libraries of the package by hash: after a change of the dependencies, and now
# and then for their bug fixes.
lock: .venv/.run
	$(BIN)/pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --upgrade \
		--override packaging/leave-out.txt --custom-compile-command "make lock" \
		--output-file packaging/requirements.txt pyproject.toml

system: .venv/.dev deb
	@command -v mmdebstrap >/dev/null && command -v systemd-nspawn >/dev/null \
		|| { $(SUDO) apt-get update -qq && $(APT) --no-install-recommends mmdebstrap systemd-container; }
	SLM_SUITE=$(SUITE) SLM_DEB=$$(ls -t dist/slm-agent_*_$(ARCH).deb | head -1) $(BIN)/python -m pytest tests/system

# Emulation needs root, and the kernel's binfmt_misc.
arm64: .venv/.dev
	$(MAKE) deb ARCH=amd64
	$(MAKE) deb ARCH=arm64
	@command -v arch-test >/dev/null && command -v mmdebstrap >/dev/null && command -v systemd-nspawn >/dev/null \
		&& command -v update-binfmts >/dev/null && command -v qemu-aarch64-static >/dev/null \
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
