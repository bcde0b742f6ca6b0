# make serve: build the site and serve it. make test: every check. Both install what they need into .venv, once.
PYTHON ?= python3
BIN := .venv/bin
SOURCES := $(shell find catalog reference_impl docs tools -type f -not -path '*/__pycache__/*') mkdocs.yml
export SOURCE_DATE_EPOCH := $(shell git log -1 --format=%ct 2>/dev/null || echo 0)

.PHONY: serve site test bench clean

serve: site
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory site $(or $(PORT),8000)

site: site/index.html

site/index.html: .venv/ready $(SOURCES)
	$(BIN)/python -m tools build

test: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m tools check
	$(BIN)/python -m pytest --numprocesses=2 --dist=worksteal

bench: .venv/ready
	$(BIN)/python -m tools bench

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt "pip>=25.1"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable . --group dev
	touch $@

clean:
	rm -rf .venv build site
