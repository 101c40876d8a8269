# Everything a newcomer types. `make install` needs Python 3.11-3.13 and nothing else.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PY := .venv/bin/python
export UV_PYTHON_DOWNLOADS := never
export UV_NO_PROGRESS := 1
# With it every `ipa` that is started compiles the package anew; tests start hundreds.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install images test test-live faults fuzz attack soak test-cluster test-images first-hour demo demo-seldon demo-deployments bench bench-planner bench-simulate page-speed pictures bench-api bench-dataplane bench-live scorecard data tables lint lint-style lint-types lock advisories sbom wheel clean validate reference agreement experiment architecture sample-prose test-fast mutants

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

install: .venv/.installed ## .venv with all that demo and tests need

.venv/.installed: requirements/all.txt pyproject.toml tools/install.sh
	@tools/install.sh

# Some wait for processes and databases: on two cores a third worker fills the time.
test: install ## all tests that do not depend on the machine's speed (WORKERS=3; DURATIONS=40: the longest)
	@tools/system.sh
	$(PY) -m pytest tests -m "not live" -n $(or $(WORKERS),3) --dist loadgroup $(if $(DURATIONS),--durations $(DURATIONS))

test-live: install ## the tests that need real time, real load or a quiet machine; a failed one is run once more, alone
	@tools/system.sh
	$(PY) -m tools.live_tests $(if $(DURATIONS),--durations $(DURATIONS))

test-fast: install ## the quick tests of the pure rooms, within a minute on two cores
	@time $(PY) -m pytest $$($(PY) -m tools.pure_tests) -m "not live" -n 2 --dist loadgroup

# Installed beside the lock: nothing else needs the two packages.
mutants: install ## random changes of the pure rooms, each with the tests that reach it (COUNT=200, SEED=15, WORKERS=2, ONLY=policies/, CPU=400, REUSE=1, AGAIN=1, RESUME=1)
	@$(PY) -c "import cosmic_ray, pytest_cov" 2>/dev/null || .venv/bin/uv pip install --quiet --python $(PY) --no-build-isolation -e '.[mutants]'
	$(PY) -m tools.mutants $(if $(COUNT),--count $(COUNT)) $(if $(SEED),--seed $(SEED)) $(if $(WORKERS),--workers $(WORKERS)) \
	  $(if $(CPU),--cpu $(CPU)) $(if $(ONLY),--only $(ONLY)) $(if $(REUSE),--reuse) $(if $(AGAIN),--again) $(if $(RESUME),--resume)

faults: install ## every fault case with its figure, as a table (also runs/faults/table.md)
	IPA_FAULT_SEEDS=1000 IPA_FAULT_KILLS=30 IPA_FAULT_EXAMPLES=1000 IPA_FAULT_HOURS=1 $(PY) -m pytest tests/faults -n 2 --dist loadgroup --faults-table runs/faults

fuzz: install ## ten thousand made-up requests against the whole API, about four minutes (EXAMPLES=130, SEED=1)
	$(PY) -m experiments.fuzz $(if $(EXAMPLES),--examples $(EXAMPLES)) $(if $(SEED),--seed $(SEED))

attack: install ## attacks on the real service, its record and its data plane, with figures; ten to twelve minutes (ONLY=viewer, QUICK=1)
	@tools/system.sh
	$(PY) -m experiments.attack $(ONLY) $(if $(QUICK),--quick)

soak: install ## 72 h of virtual time under random faults, about 4 minutes (TICKS=2000, SEED=1)
	$(PY) -m experiments.soak $(if $(TICKS),--ticks $(TICKS)) $(if $(SEED),--seed $(SEED))

test-cluster: install ## the contract suite and the stories on the cluster that IPA_TEST_KUBECONFIG names
	$(PY) -m pytest tests/contract -m cluster -rs

first-hour: install ## the docs' commands one after another, as five kinds of user type them, each step timed (KIND=newcomer, owner, adopter, researcher or platform)
	$(PY) -m tools.first_hour $(KIND)

demo: install ## the main job on real models, about five minutes (BUSY=1: beside a busy loop; SCREENSHOT=file for a picture of the page)
	@tools/system.sh
	$(PY) -m experiments.demo $(if $(BUSY),--busy $(BUSY)) $(if $(SCREENSHOT),--screenshot $(SCREENSHOT))

demo-seldon: install ## the same pipeline on Seldon on this machine in both shapes, and one of seldon-core microservices, about eight minutes (PIPELINES=digits,text: others; STEADY=2: that rate for half an hour each)
	@tools/system.sh
	$(PY) -m experiments.demo_seldon $(if $(PIPELINES),--pipelines $(PIPELINES)) $(if $(SHAPES),--shapes $(SHAPES)) $(if $(STEADY),--steady $(STEADY))

demo-deployments: install ## the same on plain Deployments, without Seldon, about three minutes
	@tools/system.sh
	$(PY) -m experiments.demo_seldon --pipelines $(or $(PIPELINES),ocr) --shapes deployments $(if $(STEADY),--steady $(STEADY))

bench: install ## all benchmarks, side by side (QUICK=1: do they work)
	$(PY) -m experiments.bench $(if $(QUICK),--quick)

bench-planner: install ## the planner's engines and what each shortcut saves; about 10 minutes (QUICK=1: one)
	$(PY) -m experiments.bench planner without $(if $(QUICK),--quick)

bench-simulate: install ## the simulator's speed beside SimPy, about a minute (QUICK=1: does it work)
	$(PY) -m experiments.bench_simulate $(if $(QUICK),--quick)

page-speed: install ## how long each view of the page takes to open, and its figures to move on, in Chromium
	$(PY) -m experiments.page_speed

pictures: install ## every view of the page, desk and phone, light and dark, quiet, in an incident and empty, into runs/pictures (DEMO=1: those of the docs)
	$(PY) -m tools.pictures $(if $(DEMO),--demo)

bench-dataplane: install ## what router and queue add to MLServer alone, CPU time and latency, about two minutes (RATES=100,500; QUICK=1: does it work)
	$(PY) -m experiments.bench_dataplane $(if $(RATES),--rates $(RATES)) $(if $(QUICK),--quick)

bench-api: install ## the API and a thousand loops under load, about two minutes (QUICK=1: does it work)
	$(PY) -m experiments.bench_api $(if $(QUICK),--quick)

scorecard: install ## what plans predict beside what real processes do, 30 configurations a pipeline; 30 minutes (PIPELINES=text PLACES=quiet,split; QUICK=1: does it work; WRITE=1: into measured.md, unless worse than the last release)
	$(PY) -m experiments.scorecard $(if $(PIPELINES),--pipelines $(PIPELINES)) $(if $(PLACES),--places $(PLACES)) \
	  $(if $(QUICK),--quick) $(if $(WRITE),--write)

bench-live: install ## policies on real processes, quiet and beside two busy loops, 25 minutes (PIPELINES=text POLICIES=ours,ipa,experiments.compass:compass WORLDS=quiet TIMES=2; RATES=capacities.json: loads of an earlier run; QUICK=1: does it work)
	$(PY) -m experiments.live $(if $(PIPELINES),--pipelines $(PIPELINES)) $(if $(POLICIES),--policies $(POLICIES)) \
	  $(if $(WORLDS),--worlds $(WORLDS)) $(if $(TIMES),--times $(TIMES)) $(if $(RATES),--rates $(RATES)) $(if $(QUICK),--quick)

data: install ## the authors' published loads and capacities, by version and digest, converted into data/ (TO=folder, CHECK=1: what is there)
	@$(PY) -m experiments.data $(if $(TO),--to $(TO)) $(if $(CHECK),--check)

# Slow ones last: each needs minutes, beating an hour.
TABLES := published reproduction rivals beating
tables: install ## the docs' tables that need the published data, on the terminal, with the data they used (WRITE=1: into the docs; ONLY=published)
	@for each in $(or $(ONLY),$(TABLES)); do $(PY) -m experiments.$$each $(if $(WRITE),--write) || exit 1; done

agreement: install ## the planner's engines against each other and enumeration, over INSTANCES=2000 random problems
	$(PY) -m experiments.agreement $(if $(INSTANCES),--instances $(INSTANCES))

# All of them in their quick form, or the one that is named, whole.
EXPERIMENTS := ipa-paper ipa-tight infadapter fan-out forecast scale what-if
experiment: install ## the quick form of all experiments, about five minutes (or one: NAME=ipa-paper, QUICK=1; FRESH=1)
	.venv/bin/ipa experiment run $(or $(NAME),$(EXPERIMENTS)) $(if $(or $(QUICK),$(if $(NAME),,1)),--quick) \
	  $(if $(FRESH),--fresh)

# Two parts, since types take as long as all else: `make -j2 lint` does both at once.
lint: lint-style lint-types ## style, types, layers

lint-style: install
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/lint-imports

lint-types: install
	.venv/bin/mypy

validate: install ## every pipeline and profile file
	.venv/bin/ipa validate

LOCK := .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --override requirements/overrides.txt --custom-compile-command "make lock"

lock: install ## requirements/*.txt anew from pyproject.toml: all, and of the same versions what each image has
	$(LOCK) --extra local --extra demo --extra simulate --extra experiments --extra postgres --extra opentelemetry --extra keda --extra dev \
	  -o requirements/all.txt pyproject.toml
	$(LOCK) -c requirements/all.txt --extra postgres --extra simulate --extra opentelemetry --extra keda -o requirements/service.txt pyproject.toml
	$(LOCK) -c requirements/all.txt -o requirements/build.txt requirements/build.in
	$(LOCK) -c requirements/all.txt -o requirements/dataplane.txt requirements/dataplane.in
	$(LOCK) -c requirements/all.txt -o requirements/stage.txt requirements/stage.in
	@$(MAKE) --no-print-directory sbom

advisories: install ## every lock against known advisories; without the index's service by a dated copy (DATABASE=a clone of the PyPA advisory database: the copy anew)
	$(PY) -m tools.advisories $(if $(DATABASE),--copy $(DATABASE))

sbom: install ## requirements/*.cdx.json anew from the locks: what is in each image
	$(PY) tools/sbom.py

wheel: install ## dist/*.whl of the last commit, the same bytes wherever it is built
	@tools/wheel.sh

images: install ## the chart, and the images of deploy/docker on Debian, as root, into build/images (PIPELINE=ocr; BASE_IMAGE=...@sha256:...; DOCS=1)
	@tools/images.sh $(PIPELINE)
	@[ -z "$(DOCS)" ] || $(PY) -m tools.image_report build/images --write

test-images: install ## every image of build/images as a restricted pod that answers, as root, about three minutes
	@[ "$$(id -u)" -eq 0 ] || { echo "containers are started by root: sudo make test-images" >&2; exit 1; }
	IPA_TEST_LAYOUT=$(CURDIR)/build/images unshare --net $(PY) -m pytest tests/deploy/test_images_run.py -rs -v

architecture: install ## the rooms of ipa/ in figures; budgets by room, lowered to them
	$(PY) -m tools.architecture

sample-prose: install ## forty docstrings and forty hold messages at random, to judge their language (COUNT=40 SEED=15)
	$(PY) -m tools.sample_prose $(or $(COUNT),40) $(or $(SEED),15)

reference: install ## docs/reference anew from the code
	$(PY) -m tools.reference
	$(PY) tools/openapi.py
	$(PY) -m tools.monitoring

clean: ## remove what the commands above made
	rm -rf .venv runs .mypy_cache .ruff_cache .hypothesis .import_linter_cache build dist *.egg-info
