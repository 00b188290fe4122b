# make demo       meta-train on embedded data, evaluate, write a report        (about two minutes after installing)
# make test       the whole test suite                                         (about nine minutes on two cores)
# make fuzz       ten thousand command lines, damaged files and arrays, others each time (the suite tries a thousand)
# make fuzz-page  ten thousand bodies and as many questions for the page's server, others each time
# make learner    what is about one learner, as its laws and planted bugs: make learner NAME=protonet
# make check      ruff, pyright, the wheel and the source distribution
# make versions   the core on another Python and torch: make versions PYTHON=python3.13 TORCH=2.13.0
# make bench      the meta-gradient's speed beside other libraries, which are installed in an environment of their own
# make gpu        a prepared quarter of an hour on a GPU, with the Python at hand: make gpu GPU_OPTIONS="--seconds 420 --data DIR"
# make reproduce  the rows that lack steps, one at a time in the background; stop and start it at will
PYTHON ?= python3
BIN := .venv/bin
TORCH ?= 2.13.0
OTHER := .venv-versions
GPU_PYTHON ?= PYTHONPATH=. python3

.PHONY: demo test fuzz fuzz-page learner check package versions bench gpu reproduce clean

demo: .venv/installed
	rm -rf runs/demo
	$(BIN)/metaloop train protonet-glyphs --out runs/demo

test: .venv/installed-test
	$(BIN)/python -m pytest -n 2 --durations=20
	$(BIN)/ruff check .
	$(BIN)/pyright

fuzz: .venv/installed-test
	FUZZ=10000 $(BIN)/python -m pytest -n 2 tests/test_fuzz.py

fuzz-page: .venv/installed-test
	FUZZ=10000 $(BIN)/python -m pytest -n 2 tests/test_page.py -k "no_body or no_question"

learner: .venv/installed-test
	$(BIN)/python -m pytest -n 2 --durations=5 --learner $(NAME)

check: package
	$(BIN)/ruff check .
	$(BIN)/pyright

package: .venv/installed-test
	$(BIN)/python tools/check_package.py --test

# An environment of its own, anew: the core without its extras, and with no other version pinned than torch's.
versions:
	rm -rf $(OTHER) build
	$(PYTHON) -m venv $(OTHER)
	$(OTHER)/bin/python -m pip install -q torch==$(TORCH)
	$(OTHER)/bin/python -m pip install -q .
	cd $(OTHER) && bin/python ../tools/versions.py

bench: .venv-bench/installed
	.venv-bench/bin/python benchmarks/bench.py --out results/bench-cpu.json

gpu:
	$(GPU_PYTHON) benchmarks/gpu.py $(GPU_OPTIONS)

reproduce: .venv/installed
	$(BIN)/python benchmarks/reproduce.py

.venv-bench/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install -q -c constraints.txt -e .
	-.venv-bench/bin/python -m pip install -q -c constraints.txt higher==0.2.1
	-.venv-bench/bin/python -m pip install -q -c constraints.txt torchopt==0.7.3
	-.venv-bench/bin/python -m pip install -q --no-deps easyfsl==1.5.0
	-.venv-bench/bin/python -m pip install -q -c constraints.txt learn2learn==0.2.0
	touch $@

.venv/installed: pyproject.toml constraints.txt
	@echo "Installing torch and what else is needed into .venv, which takes minutes and says nothing."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	touch $@

.venv/installed-test: .venv/installed
	@echo "Installing what the tests need into .venv, which takes minutes and says nothing."
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[test]'
	touch $@

clean:
	rm -rf .venv .venv-bench $(OTHER) build dist *.egg-info
