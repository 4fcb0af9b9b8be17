# A fresh machine needs Python 3.11 or later and make; everything else is set up here, in .venv and .caasm.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --quiet

# Of two that set up the same clone at the same time one waits for the other. The lock goes with the command that it is for.
ALONE := mkdir -p .caasm && $(PYTHON) -c 'import fcntl, os, sys; f = os.open(".caasm/setup.lock", os.O_RDWR | os.O_CREAT); os.set_inheritable(f, True); \
  fcntl.flock(f, fcntl.LOCK_EX); os.execvp(sys.argv[1], sys.argv[1:])'

# In as many processes as there are cores, at most four, a file of tests in one of them; PYTEST=".venv/bin/python -m pytest" for one process.
PYTEST = $(PY) -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

KERNEL := native/kernel.so
SANITIZED := $(CURDIR)/.caasm/sanitized.so

SIZES ?= 10000 100000 1000000

.PHONY: run test bench sanitize lint types infra package solution check generate serve lock clean
.DEFAULT_GOAL := run

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or later is needed, this is $$($(PYTHON) --version 2>&1): make PYTHON=/path/to/python3.12"; exit 1; }
	@echo "Setting up $(VENV) …"
	@$(ALONE) sh -c '$(PY) -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv $(VENV)'

$(VENV)/.local: local/requirements.txt | $(PY)
	@echo "Installing the app and its local parts …"
	@$(ALONE) $(PIP) install -r local/requirements.txt
	@touch $@

$(VENV)/.tests: tests/requirements.txt $(VENV)/.local
	@echo "Installing the test tools …"
	@$(ALONE) $(PIP) install -r tests/requirements.txt
	@touch $@

# Without a compiler everything goes on without it, and says so.
$(KERNEL): $(wildcard native/*.c native/*.h) native/__init__.py native/build.py | $(PY)
	@$(ALONE) $(PY) -m native.build --optional

run: $(VENV)/.local $(KERNEL)   ## a synthetic load of all three products, and what a SOC would ask of it
	@$(PY) -m local run --source all --assets 5000 --findings 5000 --ask

serve: $(VENV)/.local $(KERNEL) ## keep everything up and print the URLs
	@$(PY) -m local serve

test: $(VENV)/.tests $(KERNEL)  ## every test
	@$(PYTEST)

bench: $(VENV)/.local $(KERNEL) ## measure it, and write bench/results.json; SIZES="10000 100000" for less
	@$(PY) -m bench --sizes $(SIZES)

# libasan has to be there before Python; Python's and Arrow's memory is the C library's, so that it is watched byte by byte.
sanitize: $(VENV)/.tests   ## the kernel's tests under the sanitizers for addresses and undefined behaviour; needs gcc with libasan
	@$(PY) -m native.build --sanitize --out $(SANITIZED)
	@export NATIVE_KERNEL=$(SANITIZED) LD_PRELOAD=$$($(CC) -print-file-name=libasan.so) ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
	  PYTHONMALLOC=malloc ARROW_DEFAULT_MEMORY_POOL=system; \
	  $(PY) -c 'import native, sys; library, state = native.loaded(); sys.exit(None if library else state)' && \
	  $(PY) -m pytest -q --capture=sys tests/native --ignore tests/native/test_native_build.py

lint: $(VENV)/.tests
	@$(PY) -m ruff check . && $(PY) -m ruff format --check .

types: $(VENV)/.tests
	@$(PY) -m mypy *.py activities bench doctor infra local native orchestrator sentinel sources transforms

infra: $(VENV)/.local      ## the templates with every parameter file, offline (skipped where bicepcheck is not at hand)
	@$(PY) -m infra.check

package: $(VENV)/.local    ## build/app.zip, what is deployed; PROVIDER=scheduler for the Durable Task Scheduler, NATIVE_KERNEL=off without the kernel
	@$(PY) -m infra.package --provider $(or $(PROVIDER),storage)

check: lint types infra test  ## what has to be green before a commit

solution: $(VENV)/.local   ## build/solution, the Sentinel content as a solution package and for Sentinel Repositories
	@$(PY) -m infra.solution

generate: $(VENV)/.local   ## what is made from the table contract
	@$(PY) -m sentinel.reference
	@$(PY) infra/products.py

lock: $(VENV)/.tests       ## resolve the requirements anew from pyproject.toml
	@$(PIP) install uv
	@for extras in ":requirements.txt" "--extra local -c requirements.txt:local/requirements.txt" \
	  "--extra local --extra dev -c requirements.txt:tests/requirements.txt"; do \
	  $(PY) -m uv pip compile pyproject.toml $${extras%%:*} --universal --python-version 3.11 --no-header --no-emit-index-url \
	    --quiet --output-file $${extras##*:}; done

clean:
	@rm -rf $(VENV) .caasm build $(KERNEL)
