# Everything a contributor runs. A fresh clone needs Python 3.11 and make; `make demo` and `make test` do the rest.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# torch at the pinned version. Where pip brings a CUDA build and a CPU build is wanted: make setup TORCH='torch==2.13.0 --index-url …'.
# GPU machines: CONTRIBUTING.md.
TORCH ?= torch==2.13.0
TEST_PROCESSES ?= 2

.PHONY: setup demo up check format test test-gpu chaos fuzz fuzz-files bench bench-path bench-queue bench-burst bench-accept bench-posts bench-growth bench-retention bench-engine bench-quality bench-composing bench-intake bench-tenants bench-outpaint bench-product bench-studio bench-codecs bench-gpu race load studio clean

# Shells of containers often set this; every start of a worker would then compile Outfill's modules anew.
unexport PYTHONDONTWRITEBYTECODE

# pip compiles ten thousand modules one after the other, for a minute; compileall takes all processors. PyTorch's own tests have syntax of later Pythons,
# and of the models of transformers few are used.
setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt scripts/fetch_weights.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check $(TORCH)
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt --editable '.[local,dev]'
	$(BIN)/python -m compileall -q -j 0 -x '/torch/testing/|/transformers/models/' $(VENV)/lib
	$(BIN)/python scripts/fetch_weights.py
	touch $@

demo: setup
	$(BIN)/outfill demo

up: setup
	$(BIN)/outfill up $(ARGS)

check: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --num-workers auto
	$(BIN)/lint-imports
	$(BIN)/python -m scripts.check_containers

format: setup
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# A file's tests run in one process, files in TEST_PROCESSES; each process has a stack of its own.
test: check
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

# Those that need a GPU; without one they are skipped.
test-gpu: setup
	$(BIN)/python -m pytest tests/gpu -m gpu

# Kills, stops and outages at named points while hundreds of jobs run; `make test` has a short form. About ten minutes, and
# build/bench/chaos.json.
chaos: setup
	$(BIN)/python -m tests.chaos $(ARGS)

# 20,000 requests drawn from the OpenAPI document (tests/fuzz; `make test` has a short form), and the properties of masks, sizes and
# options at length. About fifteen minutes, and build/bench/fuzz.json.
fuzz: setup
	$(BIN)/python -W ignore -m tests.fuzz $(ARGS)
	$(BIN)/python -m pytest tests/flow/test_properties.py --hypothesis-profile long --timeout 3600

# 200,000 files at random (tests/fuzz/files.py; `make test` has a short form) against the readers of the API and of the worker, each with a bound on CPU
# and memory, and 2,000 of them through a running service. Half an hour on two cores, and build/bench/fuzz-files.json.
fuzz-files: setup
	$(BIN)/python -W ignore -m tests.fuzz.file_campaign $(ARGS)

bench: bench-path bench-engine bench-studio

# Outfill beside its peers, from photo to photo: a bare loop of the stock pipeline, FastAPI with a lock, LitServe with batches, RQ's SimpleWorker.
# An hour or two; the peers get an environment of their own (build/peers, 2 GB). ARGS="--rounds 1 --pictures 16 --sides 256 --arrivals" is a glance.
race: setup
	$(BIN)/python -m loadtests.peers.race $(ARGS)

# What the path costs around the model, and the CPU of each part of a job, per megapixel; build/bench/path.json. Four minutes.
bench-path: setup
	$(BIN)/python -m scripts.bench_path

# What 100,000 queued jobs cost a claim, an acceptance and Redis's memory: about five minutes.
bench-queue: setup
	$(BIN)/python -m scripts.bench_queue

# How evenly two idle workers share a burst of eight.
bench-burst: setup
	$(BIN)/python -m scripts.bench_burst

# What a caller waits for a 202, with fifty at once, against a bare route.
bench-accept: setup
	$(BIN)/python -m scripts.bench_accept

# What 200 callers wait for who post at once, as one tenant and as 200, against a bare route; and how many of them are refused.
bench-posts: setup
	$(BIN)/python -m scripts.bench_posts

# What 100,000 requests of one tenant leave in Redis: about twenty-five minutes on two busy cores.
bench-growth: setup
	$(BIN)/python -m scripts.bench_growth

# How fast ended jobs are deleted from an object store that is 30 ms away.
bench-retention: setup
	$(BIN)/python -m scripts.bench_retention

# What continuous batching and the CPU profile are worth, against the stock diffusers pipeline: about ten minutes on two cores.
bench-engine: setup
	$(BIN)/python -W ignore -m scripts.bench_engine

# How fast the model that ships with Outfill answers through the API.
bench-studio: setup
	$(BIN)/python -W ignore -m scripts.bench_studio

# What a GPU says, against the stock diffusers pipelines, with weights of true size, in about twelve minutes: build/bench/gpu.json and, line
# by line as it comes, build/bench/gpu-facts.jsonl. Without a GPU: a rehearsal. scripts/gpu_facts/README.md tells of rented machines.
bench-gpu: setup
	$(BIN)/python -W ignore -m scripts.gpu_facts bench

# Planted painters, whose right answer and whose error are known, on real photos; then the same edits by Outfill, by the stock diffusers pipeline
# and by OpenCV: tables and a contact sheet. MODEL is a diffusers inpainting directory; ARGS='--only planted' ends after the painters.
MODEL ?= worker/embedded/studio
bench-quality: setup
	$(BIN)/python -W ignore -m scripts.bench_quality --model $(MODEL) $(ARGS)

# How much longer than another commit this one composes: AGAINST is a worktree of the other.
bench-composing: setup
	$(BIN)/python -W ignore -m scripts.bench_composing --against $(AGAINST)

# How much longer than another commit this one takes to check and decode the odd-files corpus: AGAINST is a worktree of the other.
bench-intake: setup
	$(BIN)/python -W ignore -m scripts.bench_intake --against $(AGAINST) $(ARGS)

# What one tenant can do to another with the worst files, eight at a time for a minute: B's waiting and the memory of the API and the worker.
bench-tenants: setup
	$(BIN)/python -m scripts.bench_tenants $(ARGS)

# Photos extended to 4:5 and 16:9 without a prompt, and copies of their products planted there to be found. PHOTOS is a folder of photos; without
# one, scikit-image's samples.
bench-outpaint: setup
	$(BIN)/python -m scripts.bench_outpaint $(if $(PHOTOS),--photos $(PHOTOS))

# Products found in photos, against outlines drawn by hand (scripts/product_masks). PHOTOS: folders parted by colons; SEGMENTER: a directory to compare;
# OBJECTS and GROUNDS: folders for composites, on which the confidence is measured.
bench-product: setup
	$(BIN)/python -m scripts.bench_product $(if $(PHOTOS),--photos $(PHOTOS)) $(if $(SEGMENTER),--segmenter $(SEGMENTER)) $(if $(OBJECTS),--objects $(OBJECTS)) $(if $(GROUNDS),--grounds $(GROUNDS))

# Files of 24 megapixels: what decoders and encoders cost.
bench-codecs: setup
	$(BIN)/python -m scripts.bench_codecs

# Needs a running stack: URL and KEY as `make up` prints them.
load: setup
	$(BIN)/locust -f loadtests/locustfile.py --headless -u 8 -r 4 -t 30s --host $(URL)

# Trains the Studio model on this machine's CPU: many hours, in checkpoints; run it again to go on.
studio: setup
	nice -n 19 $(BIN)/python -W ignore -m training.studio all --work build/studio --threads 2 $(ARGS)

clean:
	rm -rf build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
