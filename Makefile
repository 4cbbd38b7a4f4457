# Everything from nothing: each target makes .venv if needed and installs what it runs.
PYTHON ?= python3
PYTHON_3_10 ?= $(lastword python3.10 $(wildcard $(HOME)/.pyenv/versions/3.10.*/bin/python3.10))
BIN := .venv/bin

.PHONY: toy docs docs-pages test test-fast hooks canary dist release-check slow command-line oracle faults soak test-processors test-gpu test-flower oldest bench bench-deployment bench-peers ecosystem install clean

toy: .venv/installed
	$(BIN)/python examples/toy.py

# The documentation site, into docs/_build/html: without a network, with every notebook executed, warnings as errors
docs: .docs/installed
	.docs/bin/python -m sphinx --builder html --fail-on-warning --keep-going --nitpicky --jobs auto --quiet docs docs/_build/html

.docs/installed: pyproject.toml constraints.txt constraints-docs.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "The site needs Python 3.11 or newer; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .docs
	.docs/bin/python -m pip install --quiet --constraint constraints.txt --constraint constraints-docs.txt \
		--editable '.[examples,privacy,secure]' sphinx furo myst-nb sphinx-copybutton sphinx-design
	@touch $@

# The pages that are written from the source: the API, errors from A to Z, hooks
docs-pages: .venv/installed
	$(BIN)/python docs/_api.py
	$(BIN)/python docs/_errors.py
	$(BIN)/python docs/_hooks.py

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/pytest --numprocesses auto --dist loadfile

# A first answer while one writes: the rules of the house, and the arithmetic of a round in numbers that are computed by
# hand. Left out is whatever trains many rounds, draws many samples or goes through the command line: `make test` has it.
FAST := tests/core tests/aggregation/test_mean.py tests/selection/test_availability.py tests/wire/test_layout.py \
	tests/secure/test_ring.py tests/secure/test_shamir.py tests/privacy/test_mechanisms.py tests/test_house.py

test-fast: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/pytest --numprocesses auto $(FAST)

# What checks each commit before it is made; the hooks are the tools of .venv, and nothing is downloaded for them
hooks: .venv/installed
	$(BIN)/pre-commit install

# What takes minutes and is left out of `make test`
slow: .venv/installed
	$(BIN)/pytest --numprocesses auto -m slow

# What completion and the schema of configs say about options: made anew when an option changes
command-line: .venv/installed
	$(BIN)/python -m lightning_fed.cli.shipped

# Every algorithm with every promise and every kind of module, on every engine
oracle: .venv/installed
	$(BIN)/pytest --numprocesses auto -m slow tests/engines/test_oracle.py

# Every kind of bad worker with every engine, compiled too, and in processes of their own
faults: .venv/installed
	$(BIN)/pytest --numprocesses auto -m 'slow or not slow' tests/engines/test_bad_workers.py

# Processes killed at random moments, full disks, checkpoints of every moment: each run ends as if nothing had been
soak: .venv/installed
	$(BIN)/pytest -m slow tests/test_soak.py tests/server/checkpoint/test_moments.py

# The whole suite as it comes out on other processors: with torch's other kernels, and with two threads
test-processors: .venv/installed
	ATEN_CPU_CAPABILITY=avx2 $(BIN)/pytest --numprocesses auto
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 $(BIN)/pytest --numprocesses auto
	OMP_NUM_THREADS=2 $(BIN)/pytest

# What only a GPU can show. The installation takes the torch of constraints.txt: one with CUDA, where the index has it
test-gpu: .venv/installed
	$(BIN)/pytest --numprocesses auto tests/gpu

# Nodes with processes of their own, over Flower on this machine, with TLS and keys. Flower wants another protobuf and rich
# than constraints.txt, so it has an environment of its own
test-flower: .flower/installed
	.flower/bin/python -m pytest tests/flower -m 'slow or not slow'

.flower/installed: pyproject.toml constraints-flower.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Flower needs Python 3.11 or newer; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .flower
	.flower/bin/python -m pip install --quiet --constraint constraints-flower.txt --editable '.[examples,flower,privacy]' pytest
	@touch $@

# The whole suite with the oldest versions that pyproject.toml allows, among them Python 3.10. From PyPI, torch 2.4 brings
# 3 GB of CUDA with it; an index of CPU builds, named in PIP_EXTRA_INDEX_URL, has a small one
oldest: .oldest/installed
	.oldest/bin/pytest --numprocesses auto

.oldest/installed: pyproject.toml constraints-oldest.txt
	@$(PYTHON_3_10) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 10))' || \
		{ echo "make oldest needs Python 3.10; say where it is: make PYTHON_3_10=/usr/bin/python3.10 oldest"; exit 1; }
	$(PYTHON_3_10) -m venv .oldest
	.oldest/bin/python -m pip install --quiet --constraint constraints-oldest.txt --editable '.[dev]'
	@touch $@

# The suite with the newest torch, Lightning and torchmetrics that there are, also beyond what pyproject.toml allows: what
# breaks here is seen before users meet it
canary: .canary/installed
	.canary/bin/python -m pip install --quiet --upgrade --pre --no-deps torch pytorch-lightning lightning torchmetrics
	.canary/bin/pytest --numprocesses auto

.canary/installed: pyproject.toml
	$(PYTHON) -m venv .canary
	.canary/bin/python -m pip install --quiet --editable '.[dev]'
	@touch $@

# The wheel and the source archive of a release
dist: .venv/installed
	rm -rf dist
	$(BIN)/python -m build --no-isolation

# Before a release: `make release-check TAG=v0.1.0` compares the tag with the package and with CHANGELOG.md
release-check: .venv/installed
	@version=$$($(BIN)/python -c 'import lightning_fed; print(lightning_fed.__version__)'); \
		test "$(TAG)" = "v$$version" || { echo "the tag $(TAG) is not v$$version of lightning_fed/__init__.py"; exit 1; }; \
		grep -q "^## \[$$version\] - [0-9]\{4\}-[0-9][0-9]-[0-9][0-9]$$" CHANGELOG.md || \
		{ echo "CHANGELOG.md has no dated heading of $$version"; exit 1; }

bench: .venv/installed
	$(BIN)/python benchmarks/rounds.py

# What a round over Flower costs, beside Flower's own strategy: SuperLink and nodes run on this machine
bench-deployment: .flower/installed
	.flower/bin/python benchmarks/deployment.py

bench-peers: .venv/installed .peers/pfl/installed .peers/flower/installed .peers/fedjax/installed
	$(BIN)/python benchmarks/rounds.py --peers

# Each in an environment of its own, so that none decides another's versions
.peers/%/installed: benchmarks/peers/%.txt
	$(PYTHON) -m venv .peers/$*
	.peers/$*/bin/python -m pip install --quiet --requirement $<
	@touch $@

# Published libraries, those that install together in one environment, and each of them in a process of its own: the
# first that is imported decides between pytorch_lightning and lightning.pytorch. `make ecosystem-graphs` runs one.
LIBRARIES := $(patsubst tests/ecosystem/%/requirements.txt,%,$(wildcard tests/ecosystem/*/requirements.txt))

ecosystem: $(LIBRARIES:%=ecosystem-%)

ecosystem-%: .ecosystem/%/installed
	set -e; for test in tests/ecosystem/$*/test_*.py; do \
		OMP_NUM_THREADS=1 .ecosystem/$*/bin/python -m pytest -c tests/ecosystem/pytest.ini $$test; done

# Every package is named there, so nothing is resolved and nothing brings another torch
.PRECIOUS: .ecosystem/%/installed
.ecosystem/%/installed: tests/ecosystem/%/requirements.txt
	$(PYTHON) -m venv .ecosystem/$*
	.ecosystem/$*/bin/python -m pip install --quiet --no-deps --requirement $<
	.ecosystem/$*/bin/python -m pip install --quiet --no-deps --editable .
	@touch $@

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "lightning_fed needs Python 3.10 or newer; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

clean:
	rm -rf .venv .oldest .flower .docs docs/_build docs/start/toy.ipynb .canary dist build .mypy_cache .pytest_cache .ruff_cache .hypothesis
