# make demo and make test do their whole set-up; they need Python 3.11 or later and a Rust toolchain.
PYTHON ?= python3
BIN := .venv/bin
SOURCES := $(shell find rust python Cargo.toml Cargo.lock pyproject.toml -type f -not -name '*.so' -not -name '*.pyc')

.PHONY: bench bench-runs demo test test-frameworks test-tensorflow test-torch docs lint build openapi wheel
build: .venv/.built

.venv/.built: $(SOURCES) constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is missing: set PYTHON=…" >&2; exit 1; }
	@command -v cargo >/dev/null || { echo "a Rust toolchain is missing: see https://rustup.rs" >&2; exit 1; }
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test]'
	@touch $@

demo: build
	$(BIN)/python docs/examples/demo.py

test: build
	cargo test --workspace --quiet
	$(BIN)/python -m pytest -q

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

bench: build
	$(BIN)/python benches/add.py
	cargo install --quiet b3sum --root target/peers
	$(BIN)/python benches/hash.py
	$(BIN)/python benches/memory.py
	$(BIN)/python benches/server_metrics.py
	$(BIN)/python benches/packs.py
	cargo run --quiet --release -p em-core --example bench_cdc
	cargo run --quiet --release -p em-core --example bench_codecs

# Runs beside other trackers, which get an environment of their own (400 MB).
bench-runs: build
	test -d .venv-peers || $(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet -r constraints-peers.txt
	$(BIN)/python benches/import_time.py
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
