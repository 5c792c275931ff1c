# The two commands of the README are `make demo` and `make test`; each sets up what it needs.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet
ARGS   ?=

# Images of Python set it; then each of the hundreds of processes of the tests compiles trainvitals.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint types contracts unit bench bench-overhead docs clean

help: ## Say what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

$(VENV)/.installed: pyproject.toml constraints.txt hatch_build.py $(wildcard hooks/trainvitals/capture/backends/*.[ch]) $(wildcard dashboard/board/*.* dashboard/board/src/*)
	@echo "Setting up $(VENV): trainvitals, PyTorch (CPU) and what the collector and dashboard need. Once, a minute or two."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install --upgrade pip
	@$(PIP) install --constraint constraints.txt --editable '.[all]'
	@touch $@

$(VENV)/.developing: $(VENV)/.installed
	@echo "Adding the tools for tests, lint and types."
	@$(PIP) install --constraint constraints.txt --group dev
	@touch $@

demo: $(VENV)/.installed ## Train healthy and sick networks, show each diagnosis, open the dashboard (ARGS=--exit ends by itself)
	@$(BIN)/trainvitals demo $(ARGS)

test: lint types contracts unit ## Lint, types, import contracts and every test but the slow ones

lint: $(VENV)/.developing ## Style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.developing ## mypy, strict
	$(BIN)/mypy

contracts: $(VENV)/.developing ## Who may import whom
	$(BIN)/lint-imports

# Decision 0021: what failed beside other tests runs once more alone, and must pass then.
unit: $(VENV)/.developing
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 4 --dist loadfile --no-loadscope-reorder --durations 20 -m "not slow" $(ARGS) \
	|| { echo "The tests that failed run once more, alone."; \
	     OMP_NUM_THREADS=1 $(BIN)/pytest --last-failed --last-failed-no-failures none --maxfail 1 -m "not slow"; }

$(VENV)/.fastai: $(VENV)/.developing tests/fastai.txt
	@$(PIP) install --no-deps -r tests/fastai.txt
	@touch $@

test-all: lint types contracts $(VENV)/.developing $(VENV)/.fastai ## Everything, the slow tests too
	OMP_NUM_THREADS=1 $(BIN)/pytest $(ARGS)

bench: bench-overhead ## Every benchmark

bench-overhead: $(VENV)/.installed ## What watching costs, as a ratio of step times
	$(BIN)/python benchmarks/overhead.py $(ARGS)

bench: bench-detection
.PHONY: bench-detection
bench-detection: $(VENV)/.installed ## What the diagnosis finds, names and flags falsely (ARGS='--seeds 5 --jobs 2')
	OMP_NUM_THREADS=1 PYTHONPATH=benchmarks $(BIN)/python -m detection $(ARGS)

bench: bench-healthy
.PHONY: bench-healthy
bench-healthy: $(VENV)/.installed ## Healthy programs that the diagnosis flags (ARGS='--jobs 2 --json result.json')
	OMP_NUM_THREADS=1 PYTHONPATH=benchmarks $(BIN)/python -m healthy $(ARGS)

bench: bench-post-training
.PHONY: bench-post-training
bench-post-training: $(VENV)/.installed ## Faults of policy gradients: found, and healthy runs flagged (ARGS='--seeds 5')
	OMP_NUM_THREADS=1 PYTHONPATH=benchmarks $(BIN)/python -m post_training $(ARGS)

bench: bench-recorder
.PHONY: bench-recorder
bench-recorder: $(VENV)/.installed ## What the flight recorder costs beside watching (ARGS='--seconds 60')
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/recorder.py $(ARGS)

bench: bench-diagnosis
.PHONY: bench-diagnosis
bench-diagnosis: $(VENV)/.installed ## CPU and memory of the diagnosis, in training and in the collector (ARGS='--parts engine')
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/diagnosis_cost.py $(ARGS)

bench: bench-replay
.PHONY: bench-replay
bench-replay: $(VENV)/.installed ## How often a replayed step names a planted bad sample first (ARGS='--seeds 10')
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/planted_rows.py $(ARGS)

bench: bench-store
.PHONY: bench-store
bench-store: $(VENV)/.installed ## CPU, bytes and reading times of the collector (ARGS='--database postgres')
	$(BIN)/python benchmarks/store.py $(ARGS)

.PHONY: bench-tabs
bench-tabs: $(VENV)/.installed ## Memory of the dashboard and the collector with 20 tabs on live runs (ARGS='--minutes 10')
	$(BIN)/python benchmarks/fleet_tabs.py $(ARGS)

.PHONY: bench-pages
bench-pages: $(VENV)/.installed ## Times and bytes of each page in Chromium, with 1,000 runs and 10 million points
	$(BIN)/python benchmarks/pages.py $(ARGS)

.PHONY: bench-cuda
bench-cuda: $(VENV)/.installed ## What watching costs on a CUDA device, where there is one
	$(BIN)/python benchmarks/cuda_overhead.py $(ARGS)

docs: $(VENV)/.developing ## Write the generated pages anew (rules, metrics, guarantees)
	$(BIN)/python docs/generate.py

.PHONY: docs-site
docs-site: $(VENV)/.documenting ## Build the site of the documents in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict $(ARGS)
	@echo "To read it: $(BIN)/python -m http.server --bind 127.0.0.1 --directory build/site"

$(VENV)/.documenting: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install --upgrade pip
	@$(PIP) install --constraint constraints.txt --group docs
	@touch $@

.PHONY: guides
guides: $(VENV)/.installed ## Draw the figures of the guides anew (ARGS='weights_signal loss_speed' for some)
	OMP_NUM_THREADS=1 $(BIN)/python docs/guides/figures.py $(ARGS)

.PHONY: notebooks
notebooks: $(VENV)/.developing ## Execute the notebooks and store their outputs
	OMP_NUM_THREADS=1 $(BIN)/python docs/notebooks.py

clean: ## Remove the environment and caches
	rm -rf $(VENV) .demo .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
