# make demo   meta-train on embedded data, evaluate, write a report        (about two minutes after installing)
# make test   the whole test suite                                         (under ten minutes on two cores)
# make check  ruff and pyright
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check clean

demo: .venv/installed
	rm -rf runs/demo
	$(BIN)/metaloop train protonet-glyphs --out runs/demo

test: .venv/installed-test
	$(BIN)/python -m pytest -n 2
	$(BIN)/ruff check .
	$(BIN)/pyright

check: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/pyright

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	touch $@

.venv/installed-test: .venv/installed
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[test]'
	touch $@

clean:
	rm -rf .venv build *.egg-info
