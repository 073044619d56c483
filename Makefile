# Everything runs in $(ROOT)/.venv and from $(ROOT), wherever make is called.
ROOT := $(patsubst %/,%,$(dir $(abspath $(lastword $(MAKEFILE_LIST)))))
VENV := $(ROOT)/.venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PYTHON ?= python3

.PHONY: help install quickstart test test-all test-stress check format docs pictures clean

help:
	@echo "make install      install ablate and its tools into .venv"
	@echo "make quickstart   train a small study on this machine and write its report"
	@echo "make check        check formatting, lint and types, then run the tests"
	@echo "make format       let ruff rewrite what it can"
	@echo "make test         run the tests, under 7 minutes on 2 cores"
	@echo "make test-all     run the long tests too"
	@echo "make test-stress  run COUNT studies (default: 200), each with a fault at a random moment"
	@echo "make docs         build the documentation site into site/"
	@echo "make pictures     make the pictures of the documents again (needs Chromium)"
	@echo "make clean        remove .venv, runs/, site/ and build files"

install: $(INSTALLED)

$(INSTALLED): $(ROOT)/pyproject.toml $(ROOT)/constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	cd $(ROOT) && $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,docs]'
	touch $@

quickstart: $(INSTALLED)
	cd $(ROOT) && $(BIN)/ablate run experiments/quickstart.yaml
	cd $(ROOT) && $(BIN)/ablate report experiments/quickstart.yaml

test: $(INSTALLED)
	cd $(ROOT) && $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -q

test-stress: COUNT ?= 200
test-stress: $(INSTALLED)
	cd $(ROOT) && ABLATE_STRESS_COUNT=$(COUNT) $(BIN)/pytest -q -m '' tests/execution/test_stress.py

test-all: $(INSTALLED)
	$(ROOT)/.ci/services $(VENV)
	cd $(ROOT) && $(BIN)/pytest -n 2 --dist worksteal -q -m 'not gpu'

check: $(INSTALLED)
	cd $(ROOT) && $(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy
	$(MAKE) -f $(ROOT)/Makefile test

format: $(INSTALLED)
	cd $(ROOT) && $(BIN)/ruff format . && $(BIN)/ruff check --fix .

docs: export NO_MKDOCS_2_WARNING = 1
docs: $(INSTALLED)
	cd $(ROOT) && $(BIN)/python -m mkdocs build --strict --quiet --site-dir site

pictures: quickstart
	cd $(ROOT) && $(BIN)/python docs/site/terminal.py
	cd $(ROOT) && $(BIN)/python docs/site/pages.py
	cd $(ROOT) && $(BIN)/python docs/site/tracking.py

clean:
	rm -rf $(VENV) $(ROOT)/runs $(ROOT)/site $(ROOT)/*.egg-info $(ROOT)/build
