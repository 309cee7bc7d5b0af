# One command each on a machine that has Python 3.11 to 3.13 (with venv) and make:
#   make demo                              synthetic cells → TFRecords → basic_cnn → test-set table
#   make demo SOURCE=path/to/cell_images.zip    the same on real cells
#   make test                              the test suite
#   make test-slow                         the long tests: kills, flipped bits, trainings, hosts, every quoted command
#   make clusters                          Flink, Spark and Prism for make test-clusters; needs java, mvn and go
#   make test-clusters                     the job on these and on Dask: equal bytes, killed workers
#   make extras                            what exports and JAX need; without it their tests are skipped
#   make coverage                          the test suite, and the lines and branches that it does not reach
#   make bench SOURCE=path/to/cell_images.zip    every benchmark, one after the other, into bench/
#   make bench-gpu [SOURCE=path/to/cell_images.zip]    what a GPU does with each input, in ten minutes, into bench/gpu.*
#   make results SOURCE=path/to/cell_images.zip    the table of the three models: trains all recipes, for hours
#   make peers                             the libraries whose loaders benchmarks.input_throughput compares with

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
PEERS := .venv-peers
CLUSTERS := .venv-clusters

SOURCE ?=
EPOCHS ?= 8
# The shell's basename, because make's functions split a path at its spaces.
DEMO := demo/$(if $(SOURCE),$(shell basename "$(SOURCE)" .zip),synthetic)
CELLS := $(if $(SOURCE),$(SOURCE),$(DEMO)/cell_images.zip)

.PHONY: demo test test-slow clusters test-clusters extras coverage lint format bench bench-gpu results peers clean

demo: $(INSTALLED)
	@mkdir -p "$(DEMO)"
ifeq ($(SOURCE),)
	@test -e $(CELLS) || $(BIN)/python -m pipeline.synthetic --output=$(CELLS)
endif
	@$(BIN)/python -m pipeline.preprocess --source="$(CELLS)" --data_dir="$(DEMO)/data"
	@$(BIN)/python -m trainers.basic_cnn --flagfile=trainers/flagfiles/basic_cnn.flags --epochs=$(EPOCHS) \
	  --data_dir="$(DEMO)/data" --run_dir="$(DEMO)/runs/basic_cnn"
	@$(BIN)/python -m trainers.evaluate --data_dir="$(DEMO)/data" --run_dirs="$(DEMO)/runs/basic_cnn" \
	  --output_dir="$(DEMO)/report"
	@echo "data set, run and report are in $(DEMO): data, runs/basic_cnn, report"

# Each file's tests in one process, so that what they share is made once. One process per logical CPU: `auto` would
# count the cores, and a virtual machine with two CPUs may have only one.
PYTEST := $(BIN)/python -m pytest --numprocesses=logical --dist=loadfile --no-loadscope-reorder

test: $(INSTALLED)
	@$(PYTEST)

test-slow: $(INSTALLED)
	@$(PYTEST) -m slow

coverage: $(INSTALLED)
	@$(PYTEST) --cov

extras: $(INSTALLED)
	@$(PIP) -c constraints.txt -e '.[export,jax]'

lint: $(INSTALLED)
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

format: $(INSTALLED)
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

$(INSTALLED): pyproject.toml requirements.txt constraints.txt
	@command -v $(PYTHON) >/dev/null || \
	  { echo "error: there is no $(PYTHON); expected Python 3.11 to 3.13: make PYTHON=python3.11 …" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	  { echo "error: $(PYTHON) is $$($(PYTHON) --version); expected Python 3.11 to 3.13: make PYTHON=python3.11 …" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "error: $(PYTHON) has no venv; on Debian or Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "installing the requirements into $(VENV) (some minutes, once)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) -r requirements.txt
	@touch $@

# What it measures is quoted in README.md and benchmarks/README.md.
BENCH := bench
BENCH_CELLS ?= 27000
BENCH_REPEATS ?= 3
BENCH_BATCH_SIZES ?= 64
bench: export TMPDIR = $(shell mkdir -p "$(BENCH)" && cd "$(BENCH)" && pwd)
bench: $(INSTALLED)
	@test -n "$(SOURCE)" || { echo "error: give the cells: make bench SOURCE=path/to/cell_images.zip" >&2; exit 1; }
	@$(BIN)/python -m benchmarks.preprocess_throughput --source="$(SOURCE)" --output=$(BENCH)/preprocess.json \
	  --num_cells=$(BENCH_CELLS) --repeats=$(BENCH_REPEATS)
	@test -e $(BENCH)/cells || $(BIN)/python -m benchmarks.repeated_cells --source="$(SOURCE)" \
	  --output_dir=$(BENCH)/cells --num_cells=$(BENCH_CELLS)
	@$(BIN)/python -m pipeline.preprocess --source=$(BENCH)/cells --data_dir=$(BENCH)/data
	@$(BIN)/python -m benchmarks.input_throughput --data_dir=$(BENCH)/data --output=$(BENCH)/input.json \
	  --batch_sizes=$(BENCH_BATCH_SIZES) --repeats=$(BENCH_REPEATS) \
	  $(if $(wildcard $(PEERS)/bin/python),--peers=all)
	@$(BIN)/python -m benchmarks.train_throughput --data_dir=$(BENCH)/data --output=$(BENCH)/train.json \
	  --repeats=$(BENCH_REPEATS)
	@$(BIN)/python -m benchmarks.train_throughput --data_dir=$(BENCH)/data --output=$(BENCH)/frozen.json \
	  --model=vgg_frozen --split='train[:512]' --steps=8 --repeats=$(BENCH_REPEATS) --input=resident --host_steps=0

# On the backend that sees the GPU: KERAS_BACKEND=jax make bench-gpu where TensorFlow does not.
bench-gpu: $(INSTALLED)
	@mkdir -p $(BENCH)
ifneq ($(SOURCE),)
	@$(BIN)/python -m pipeline.preprocess --source="$(SOURCE)" --data_dir=$(BENCH)/gpu_data
endif
	@$(BIN)/python -m benchmarks.gpu_throughput --output=$(BENCH)/gpu.json \
	  $(if $(SOURCE),--data_dir=$(BENCH)/gpu_data)

# Both recipes of the three models with each seed. If it is stopped, the same command continues.
RESULTS := results
MODELS ?= basic_cnn vgg_frozen vgg_ft
SEEDS ?= 1 2 3
VGG_WEIGHTS ?= imagenet
DISPUTED ?=
RESULT_RUNS = $(foreach model,$(MODELS),$(foreach recipe,$(model)_original $(model),$(SEEDS:%=$(RESULTS)/runs/$(recipe)-%)))
define TRAIN_RESULT
	@$(BIN)/python -m trainers.$(1) --flagfile=trainers/flagfiles/$(2).flags --seed=$(3) --data_dir=$(RESULTS)/data \
	  $(if $(filter vgg_%,$(1)),--vgg_weights="$(VGG_WEIGHTS)") --run_dir=$(RESULTS)/runs/$(2)-$(3)

endef
space := $(subst ,, )
comma := ,
results: $(INSTALLED)
	@test -n "$(SOURCE)" || { echo "error: give the cells: make results SOURCE=path/to/cell_images.zip" >&2; exit 1; }
	@test -z "$(DISPUTED)" || test -e "$(DISPUTED)" || { echo "error: DISPUTED=$(DISPUTED) does not exist" >&2; exit 1; }
	@$(BIN)/python -m pipeline.preprocess --source="$(SOURCE)" --data_dir=$(RESULTS)/data
	$(foreach model,$(MODELS),$(foreach recipe,$(model)_original $(model),$(foreach seed,$(SEEDS),$(call \
	  TRAIN_RESULT,$(model),$(recipe),$(seed)))))
	@$(BIN)/python -m trainers.evaluate --data_dir=$(RESULTS)/data --output_dir=$(RESULTS)/report \
	  --run_dirs=$(subst $(space),$(comma),$(RESULT_RUNS)) $(if $(DISPUTED),--disputed_labels="$(DISPUTED)")
	@$(BIN)/python -m benchmarks.results --folder=$(RESULTS)

# Each library by itself: one that cannot be installed is named, and the benchmark reports it as such.
peers:
	@pkg-config --exists opencv4 libturbojpeg 2>/dev/null || \
	  echo "FFCV needs system packages that are missing: apt-get install libopencv-dev libturbojpeg0-dev pkg-config" >&2
	@test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	@sed -e 's/ *#.*//' -e '/^$$/d' benchmarks/requirements-peers.txt | while read -r library; do \
	  echo "installing $$library"; \
	  $(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check "$$library" </dev/null || \
	    echo "not installed: $$library" >&2; \
	done

# Maven Central lacks the job servers' own jars, but has the runners, up to 2.62 with all that they depend on.
clusters: $(INSTALLED)
	@test -x $(CLUSTERS)/bin/python || $(BIN)/python -m venv $(CLUSTERS)
	@$(CLUSTERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r tests/clusters/requirements.txt
	@test -e $(CLUSTERS)/flink-1.20 || $(CLUSTERS)/bin/python -m pip install --quiet --disable-pip-version-check \
	  --no-deps --target=$(CLUSTERS)/flink-1.20 apache-flink-libraries==1.20.1  # for an error's test
	@for engine in flink:beam-runners-flink-1.19 spark:beam-runners-spark-3; do \
	  mvn --quiet --batch-mode -f tests/clusters/pom.xml dependency:copy-dependencies -Drunner=$${engine#*:} \
	    -DincludeScope=runtime -DoutputDirectory="$(CURDIR)/$(CLUSTERS)/$${engine%:*}-job-server" || \
	    echo "not installed: $$engine" >&2; \
	done
	@rm -f $(CLUSTERS)/spark-job-server/slf4j-api-*.jar  # Spark has one of another version
	@GOBIN="$(CURDIR)/$(CLUSTERS)/bin" go install github.com/apache/beam/sdks/v2/go/cmd/prism@v2.77.0 || \
	  echo "not installed: prism" >&2

test-clusters: $(INSTALLED)
	@$(BIN)/python -m pytest -m clusters tests/clusters

clean:
	rm -rf demo bench results
