# make notebooks runs the course; make test checks it. Both set up .venv by themselves, once.
PYTHON ?= python3
PROFILE ?= full
JOBS ?= $(shell $(PYTHON) -c "import os; print(os.cpu_count() or 1)")
VENV := .venv
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
RUN := $(BIN)/gan-tutorial run --profile $(PROFILE) --jobs $(JOBS)
INSTALLED := $(VENV)/.installed

.PHONY: help notebooks test full figures refresh gans lab site bench clean

help:
	@echo "make notebooks [PROFILE=quick]  run the course; results in build/notebooks and build/figures"
	@echo "make test                       check the code and the notebooks"
	@echo "make full                       run the course on all of MNIST and compare every output with the stored one"
	@echo "make figures [NAMES=...]        like notebooks, then lists the figures; or only makes those named again"
	@echo "make refresh                    run the course and put the outputs into notebooks/, to be committed"
	@echo "make lab                        open JupyterLab in notebooks/"
	@echo "make site                       README and notebooks as a web site in build/site"
	@echo "make bench                      time the course beside what else one would use; benchmarks/*.csv, docs/pictures"
	@echo "make clean                      remove build/ and .venv"

# pyproject.toml or constraints.txt newer than the stamp: install again. The stamp is written last, so a broken
# installation is not taken for a finished one.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
	  { echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) --version). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "Setting up $(VENV): a few minutes, once."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[tools,test]"
	@touch $@

notebooks: $(INSTALLED)
	@$(RUN)

# Into an empty folder, so that nothing of an earlier run can pass for this one's.
full: $(INSTALLED)
	@rm -rf build/full
	@$(BIN)/gan-tutorial run --data folder --jobs $(JOBS) --output build/full
	@$(BIN)/python tests/compare_outputs.py build/full/notebooks

figures: $(if $(NAMES),$(INSTALLED),notebooks)
	@$(BIN)/gan-tutorial figures $(if $(NAMES),--profile $(PROFILE) --jobs $(JOBS) $(NAMES))

# Both profiles, because notebooks and README state both times. With the results at hand, the last line does without runs.
refresh: $(INSTALLED)
	@$(BIN)/gan-tutorial run --profile quick --jobs $(JOBS) --output build/quick
	@$(BIN)/gan-tutorial run --profile full --jobs $(JOBS)
	@$(BIN)/python docs/refresh.py build/quick build

# Every GAN of the course with three seeds, into gan_tutorial/results/gans.csv; a run of the same seed takes the place of the old one.
gans: $(INSTALLED)
	@for seed in 0 1 2; do $(BIN)/gan-tutorial run 23 24 26 27 --profile full --jobs $(JOBS) --output build/gans-$$seed \
	  -p seed $$seed -p record true || exit 1; done

lab: $(INSTALLED)
	@$(BIN)/jupyter lab --notebook-dir=notebooks

site: $(INSTALLED)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[site]"
	@$(BIN)/python -m sphinx -q -W -c docs . build/site
	@echo "Open build/site/index.html"

# nbval executes every notebook once, in profile quick on the offline sample, and compares the cells that are tagged for it.
test: $(INSTALLED)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile tests
	@OMP_NUM_THREADS=1 GAN_TUTORIAL_PROFILE=quick GAN_TUTORIAL_DATA=sample $(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile \
	  --nbval-lax --nbval-current-env --nbval-cell-timeout=120 --timeout=600 notebooks

# torch is named again, so that no framework brings another build of it. fastai takes part where it is installed.
$(VENV)/.bench: $(INSTALLED) benchmarks/constraints.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -c benchmarks/constraints.txt \
	  "$$(grep ^torch== constraints.txt)" -e ".[bench]"
	@touch $@

bench: $(VENV)/.bench
	@$(BIN)/python -m pytest -q -p no:xdist -p no:cacheprovider --benchmark-disable-gc --benchmark-columns=median,iqr,rounds benchmarks
	@$(BIN)/python -m benchmarks.growth
	@$(BIN)/python -m benchmarks.rows

clean:
	rm -rf build $(VENV)
