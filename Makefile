# `make demo` and `make test` work from a bare clone: they build .venv on first use.
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

.PHONY: conformance demo lint test

test: lint .venv/deepspeed .venv/lmms_eval .venv/vlmeval
	$(BIN)/pytest -m "" --numprocesses auto --maxprocesses 4 --dist loadfile

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# the oldest and the newest transformers, and vLLM's; about ten minutes
conformance: $(INSTALLED)
	$(BIN)/python tests/conformance.py

demo: $(INSTALLED)
	. $(BIN)/activate && python examples/demo.py

$(INSTALLED): setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed.")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-deps --retries 2 $(TORCH)
	$(BIN)/pip install --quiet --editable '.[dev,nano]'
# without its bounds: it asks for an older Pillow than the recordings in tests/golden were made with
	$(BIN)/pip install --quiet --no-deps 'gradio>=6,<7' gradio_client hf-gradio
# apart: where it is installed, transformers imports it every time, and it says what it can't load
	$(BIN)/pip install --quiet --no-deps --target .venv/torchao torchao
	touch $@

# apart for the same reason, and built from source, which only its tests need
.venv/deepspeed: | $(INSTALLED)
	$(BIN)/pip install --quiet --no-deps --target $@ --no-build-isolation \
		deepspeed einops hjson msgpack ninja py-cpuinfo

# apart, since they ask for packages that don't work here: torchvision, OpenCV and others
.venv/lmms_eval: | $(INSTALLED)
	$(BIN)/pip install --quiet --no-deps --target $@ lmms-eval aiohappyeyeballs aiohttp aiosignal attrs chardet \
		colorama dataproperty evaluate 'filelock<4' frozenlist loguru lxml mbstrdecoder multidict pathvalidate \
		portalocker propcache pytablewriter requests sacrebleu tabledata tabulate tcolorpy tenacity typepy urllib3 yarl

.venv/vlmeval: | $(INSTALLED)
	$(BIN)/pip install --quiet --no-deps --target $@ ms-vlmeval sty tabulate validators
