# make run and make test do everything on a fresh Debian or Ubuntu with Python >= 3.11.
# Set-up asks dpkg what is missing, calls apt only for that, and goes on without what it cannot get.

VENV := .venv
BIN := $(VENV)/bin

# ktop itself: without python3-bpfcc it runs on /proc alone.
RUN_PACKAGES := python3-bpfcc
# What tests drive: terminals, system calls, namespaces, users.
TEST_PACKAGES := tmux strace iproute2 iptables procps fio util-linux
# What reads the man page and the completions.
TEST_PACKAGES += man-db mandoc zsh fish
# Its package starts a service: only where nobody lives.
TEST_PACKAGES += $(if $(CI),openssh-server)
# The peers of bench/. A missing one is a `-` in the table.
BENCH_PACKAGES := htop btop libbpf-tools bpftrace
# Their packages start services: only where nobody lives.
BENCH_PACKAGES += $(if $(CI),atop postgresql)
# From SVG to PNG.
SHOT_PACKAGES := librsvg2-bin fonts-dejavu-core

# What boots other kernels: an emulator, and what its first process is made of.
KERNEL_PACKAGES := qemu-system-x86 qemu-system-common kmod busybox-static xz-utils zstd lz4
# What makes trouble there.
KERNEL_PACKAGES += dmsetup e2fsprogs iproute2 iptables

ARGS ?=
NOW = $$(cat pyproject.toml Makefile | cksum; pwd)

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev setup-bench run test check faults kernels insults fuzz soak bench screenshots man dist clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1|\2/p' Makefile \
	  | while IFS='|' read -r name what; do printf '%-16s %s\n' "$$name" "$$what"; done

setup:  ## what ktop needs: distribution packages, .venv, .venv/bin/ktop
	@$(call packages,$(RUN_PACKAGES),without it ktop runs on /proc alone: no run queue histogram)
	@$(call venv,.)

setup-dev:  ## the same, and what the tests need
	@$(call packages,$(RUN_PACKAGES),without it ktop runs on /proc alone: no run queue histogram)
	@$(call packages,$(TEST_PACKAGES),tests that need it are skipped)
	@$(call venv,.[dev])

setup-bench: setup-dev
	@$(call packages,$(BENCH_PACKAGES),its rows in the table stay empty)
	@$(call packages,linux-perf,the ping-pong stands for perf bench)

run: setup  ## start ktop live; ARGS="..." for its options
	@if [ "$$(id -u)" = 0 ]; then exec $(BIN)/ktop $(ARGS); fi; \
	if command -v sudo >/dev/null && sudo -v; then exec sudo $(BIN)/ktop $(ARGS); fi; \
	echo "make: not root: without BPF. For all of it, as root: $(CURDIR)/$(BIN)/ktop" >&2; \
	exec $(BIN)/ktop $(ARGS)

test: setup-dev  ## the whole test suite; live tests want root; ARGS="..." for pytest
	@$(BIN)/python -m pytest $(ARGS)

check: setup-dev  ## ruff, mypy, import rules
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

faults: setup-dev  ## real trouble on this kernel, and what diagnosis says; ARGS="--runs 3", "loss"
	@$(BIN)/python -m tests.faults $(ARGS)

man: setup-dev  ## ktop.1 and completions of bash, zsh and fish, from parser and keys
	@$(BIN)/python -m ktop.manual

dist: setup-dev  ## sdist and wheel into dist/, installed and tried in an empty place
	@$(BIN)/python -m tests.dist

kernels: setup-dev  ## boot 5.10, 6.1, 6.12 and the newest kernel, check every probe; ARGS="6.1"
	@$(call packages,$(KERNEL_PACKAGES),no other kernel can be booted)
	@$(BIN)/python -m tests.kernels $(or $(ARGS),--write --own-bcc)

insults: setup-dev  ## processes killed, stopped, starved; clocks, disks, links, probes, crowds
	@$(BIN)/python -m pytest tests/test_insults*.py $(ARGS)

fuzz: setup-dev  ## keys, frames, names nobody expects; ARGS="--minutes 10", "--seed N"
	@$(BIN)/python -m tests.fuzz $(ARGS)

soak: setup-dev  ## does anything grow? bench/soak.json, soak.svg; ARGS="--minutes 60"
	@$(BIN)/python -m bench.soak $(ARGS)

screenshots: setup-dev  ## pictures of each pane from the recorded session
	@$(call packages,$(SHOT_PACKAGES),there are SVGs only)
	@$(BIN)/python -m screenshots.make

bench: setup-bench  ## every figure of the README; ARGS="--quick", ARGS="start hooks"
	@$(BIN)/python -m bench $(ARGS)

clean:  ## .venv and every cache
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -rf .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# packages(names, what is lost without them)
define packages
missing=""; \
if ! command -v dpkg-query >/dev/null; then \
  [ -x $(BIN)/ktop ] || echo "make: no dpkg here. Install what your distribution calls: $(1)" >&2; \
  exit 0; \
fi; \
for p in $(1); do \
  [ "$$(dpkg-query -W -f '$${db:Status-Status}' $$p 2>/dev/null)" = installed ] \
    || missing="$$missing $$p"; \
done; \
[ -n "$$missing" ] || exit 0; \
$(call apt,$$missing) || echo "make: going on without$$missing: $(2)" >&2
endef

# apt(names): as root, or by sudo where it can ask or needs not to. Fails with the exact command.
define apt
( command="apt-get install -y --no-install-recommends"; root=""; \
  if [ "$$(id -u)" != 0 ]; then \
    if command -v sudo >/dev/null && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then root=sudo; \
    else \
      echo "make: not installed:$(1). As root: apt-get update && $$command$(1)" >&2; exit 1; \
    fi; \
  fi; \
  echo "make: installing$(1)"; \
  { $$root env DEBIAN_FRONTEND=noninteractive apt-get update -qq; \
    $$root env DEBIAN_FRONTEND=noninteractive $$command$(1); } </dev/null >$(LOG) 2>&1 \
  || { tail -5 $(LOG) >&2; \
       echo "make: apt failed. As root: apt-get update && $$command$(1)" >&2; exit 1; } )
endef
LOG = $${TMPDIR:-/tmp}/ktop-apt-$$(id -u).log

# venv(what to install): made again when pyproject.toml, this file or the place has changed.
define venv
stamp=$(VENV)/.made-$(if $(findstring dev,$(1)),dev,run); \
if [ -x $(BIN)/ktop ] && [ "$$(cat $$stamp 2>/dev/null)" = "$(NOW)" ]; then exit 0; fi; \
python=""; \
for p in python3 python3.14 python3.13 python3.12 python3.11; do \
  if $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
    python=$$p; break; fi; \
done; \
if [ -z "$$python" ]; then \
  echo "make: ktop needs Python 3.11 or newer, here is" \
    "$$(python3 --version 2>/dev/null || echo none). As root:" \
    "apt-get install python3.12 python3.12-venv (or 3.11, 3.13: what your release has)" >&2; \
  exit 1; \
fi; \
if ! $(BIN)/python -c 'import pip' 2>/dev/null; then \
  if ! $$python -c 'import ensurepip' 2>/dev/null; then \
    need=" $$($$python -c 'import sys; print("python3.%d-venv" % sys.version_info[1])')"; \
    $(call apt,$$need) || exit 1; \
  fi; \
  rm -rf $(VENV) && $$python -m venv $(VENV) || exit 1; \
fi; \
echo "make: installing ktop into $(VENV)"; \
$(BIN)/python -m pip install -q --disable-pip-version-check -e '$(1)' || { \
  echo "make: pip failed. It needs a package index; the command is:" \
    "$(BIN)/python -m pip install -e '$(1)'" >&2; exit 1; }; \
printf '%s\n' "$(NOW)" | tee $$stamp > $(VENV)/.made-run
endef
