# `make demo` and `make test` need Python 3.11 and nothing else; the README has the plain pip lines beside them.

PYTHON     ?= $(shell command -v python3.11 || command -v python3)
VENV       ?= .venv
BIN        := $(VENV)/bin
PIP        := $(BIN)/pip install -qq -c constraints.txt
DEMO       ?= build/demo
# Where the acceptance data are (the recordings of real engines, other people's graphs); not part of the repository.
export RESNEXT_CONVERT_SHARED ?= ../shared

# Two processes of one thread each are quicker on two cores than two of two.
PYTEST     := OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

# Test files that need torch, or the tools of the extra [dev]. All others run on other Pythons too, where there is neither;
# tests/test_architecture.py holds this list against what the files import.
NEED_TORCH := test_acceptance_caffe_goldens test_acceptance_caffe_releases test_acceptance_caffe_trained \
              test_acceptance_classify test_acceptance_gluoncv test_acceptance_names test_acceptance_recordings \
              test_acceptance_releases test_breaks test_breaks_caffe test_calibrated_caffe test_checkpoint \
              test_checkpoint_load test_classify test_cli test_cli_outputs test_edge_cases test_fold test_hub \
              test_inspection_results test_match test_match_branches test_match_caffe_forms test_module \
              test_operators test_operators_windows test_oracle_mxnet test_oracle_opencv test_other_converters \
              test_output test_pipeline test_pipeline_alone test_pipeline_targets test_release_commands \
              test_releases test_remarks test_rounding test_runner test_sources test_stock_models test_targets \
              test_torch_checkpoint test_torch_zip test_torchvision
NEED_DEV   := test_architecture test_docs test_packaging
DEV_FREE   := $(filter-out $(NEED_DEV:%=tests/%.py),$(sort $(wildcard tests/test_*.py)))
TORCH_FREE := $(filter-out $(NEED_TORCH:%=tests/%.py),$(DEV_FREE))

.PHONY: help demo test lint oracle peers gluoncv acceptance releases mutations fixtures-check schema-check dist tests-without-dev tests-without-torch clean FORCE

help:
	@echo "make demo            convert the tiny release in fixtures/ and print the proof"
	@echo "make test            run the tests"
	@echo "make lint            formatting, lint, types, import rules"
	@echo "make oracle          install MXNet 1.9.1 and OpenCV and run the tests that need them"
	@echo "make peers           install torchvision and timm and run the tests that need them"
	@echo "make gluoncv         install GluonCV and gluoncv2 apart and run the tests that ask them"
	@echo "make acceptance      run the acceptance suite on the data in RESNEXT_CONVERT_SHARED ($(RESNEXT_CONVERT_SHARED))"
	@echo "make releases        take every release by name to every target, full size"
	@echo "make mutations       read 100 000 damaged files of each kind"
	@echo "make fixtures-check  make the fixtures anew and compare every byte"
	@echo "make schema-check    generate schemas/caffe_pb2.py anew and compare it"
	@echo "make dist            build the sdist and the wheel into dist/"

demo: $(VENV)/.product
	mkdir -p $(DEMO)
	$(BIN)/resnext-convert mxnet fixtures/resnext-tiny $(DEMO)/resnext-tiny.pth --overwrite

test: $(VENV)/.dev
	$(PYTEST)

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy tests fixtures benchmarks .ci/requirements.py
	$(BIN)/lint-imports --no-cache

oracle: $(VENV)/.mxnet
	$(PYTEST) -m "(mxnet or opencv) and not acceptance"

peers: $(VENV)/.peers
	$(PYTEST) -m "peers and not acceptance"

# Full-size networks as GluonCV and gluoncv2 build them. `make gluoncv GLUONCV="resnext50 or senet"` asks about some.
GLUONCV    ?=
gluoncv: $(VENV)/.dev $(VENV)/.gluoncv
	RESNEXT_CONVERT_GLUONCV=$(VENV)/gluoncv/bin/python $(BIN)/pytest -m gluoncv -k "$(GLUONCV)"

# Full-size networks, some of them timed: one after the other, with all cores.
acceptance: $(VENV)/.mxnet $(VENV)/.peers
	@test -d $(RESNEXT_CONVERT_SHARED)/golden || { \
	  echo "The acceptance data are not at $(RESNEXT_CONVERT_SHARED) (set RESNEXT_CONVERT_SHARED): nothing was run." >&2; exit 1; }
	$(BIN)/pytest -m "acceptance and not gluoncv and not releases"

# Every release with a graph, by name, to every target: half an hour. `make releases RELEASES="M1- or C9-"` takes some.
RELEASES   ?=
releases: $(VENV)/.mxnet $(VENV)/.peers
	$(BIN)/pytest -m releases -k "$(RELEASES)"

# 100 000 damaged files of each kind (COUNT), two kinds at a time: ten minutes and more.
COUNT ?= 100000
KINDS := params symbol prototxt caffemodel hdf5
mutations: $(VENV)/.dev
	echo $(KINDS) | xargs -n 1 -P 2 sh -c '$(BIN)/python tests/fuzz_$$0.py --count $(COUNT) > $(VENV)/fuzz_$$0.log'
	@tail -qn 1 $(KINDS:%=$(VENV)/fuzz_%.log)

fixtures-check: $(VENV)/.mxnet
	$(BIN)/python fixtures/make_fixtures.py --check

# protoc 4.25: every protobuf runtime from 4.25 on accepts the code that it makes. It wants an old protobuf, so it has an
# environment of its own.
schema-check: $(VENV)/protoc/.installed
	mkdir -p $(VENV)/protoc/generated
	$(VENV)/protoc/bin/python -m grpc_tools.protoc -I . --python_out=$(VENV)/protoc/generated \
	  --pyi_out=$(VENV)/protoc/generated schemas/caffe.proto
	cmp schemas/caffe_pb2.py $(VENV)/protoc/generated/schemas/caffe_pb2.py
	cmp schemas/caffe_pb2.pyi $(VENV)/protoc/generated/schemas/caffe_pb2.pyi

dist: $(VENV)/.dev
	$(BIN)/python -m build --no-isolation --outdir dist

tests-without-dev:
	@echo $(DEV_FREE)

tests-without-torch:
	@echo $(TORCH_FREE)

clean:
	rm -rf build dist $(VENV) *.egg-info

# --- environments ---------------------------------------------------------------------------------------------
# (`--config-settings` in full: pip 23.0, which Debian 12 brings, does not know `-C` yet.)
# An editable install in strict mode is a tree of links, so a new, moved or deleted module needs a new install: this
# file changes when the list of modules does, and everything below depends on it.
MODULES := $(sort $(wildcard *.py py.typed converter/*.py converter/*/*.py schemas/*))

$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/modules: $(VENV)/bin/pip FORCE
	@echo $(MODULES) | cmp -s - $@ || echo $(MODULES) > $@

$(VENV)/.product: $(VENV)/modules pyproject.toml constraints.txt
	$(PIP) -e . --config-settings editable_mode=strict
	@touch $@

$(VENV)/.dev: $(VENV)/.product
	$(PIP) -e '.[dev]' --config-settings editable_mode=strict
	@touch $@

# MXNet's wheel pins numpy<2 although it runs with newer ones (docs/architecture.md, "The oracle"), hence --no-deps.
$(VENV)/.mxnet: $(VENV)/.dev
	$(PIP) -e '.[dev,mxnet,opencv]' --config-settings editable_mode=strict
	$(PIP) --no-deps mxnet
	@touch $@

$(VENV)/protoc/.installed: constraints.txt
	$(PYTHON) -m venv $(VENV)/protoc
	$(VENV)/protoc/bin/pip install -qq grpcio-tools==1.62.3 protobuf==4.25.9 'setuptools<81'
	@touch $@

$(VENV)/.peers: $(VENV)/.dev
	$(PIP) -e '.[dev,peers]' --config-settings editable_mode=strict
	$(PIP) --no-deps torchvision timm
	@touch $@

# GluonCV will not be imported beside torch 2, and asks for packages that its networks do not need: an environment of its
# own, with what they do need. This package is there for the shim that lets MXNet run on today's NumPy.
$(VENV)/.gluoncv: $(VENV)/modules constraints.txt
	$(PYTHON) -m venv $(VENV)/gluoncv
	$(VENV)/gluoncv/bin/pip install -qq -c constraints.txt graphviz numpy pillow portalocker requests scipy tqdm yacs
	$(VENV)/gluoncv/bin/pip install -qq -c constraints.txt --no-deps mxnet gluoncv gluoncv2
	$(VENV)/gluoncv/bin/pip install -qq --no-deps -e . --config-settings editable_mode=strict
	@touch $@
