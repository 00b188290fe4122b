# make demo       meta-train on embedded data, evaluate, write a report        (under two minutes after installing)
# make test       the whole test suite                                         (five minutes on two cores)
# make learner NAME=protonet    what is about one learner: paper test, laws, planted bugs, shapes, page
# make check      ruff and pyright
# make bench      the meta-gradient's speed beside other libraries, which are installed in an environment of their own
# make bench-gpu  the same on a GPU
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test learner check bench bench-gpu clean

demo: .venv/installed
	rm -rf runs/demo
	$(BIN)/metaloop train protonet-glyphs --out runs/demo

test: .venv/installed-test
	$(BIN)/python -m pytest -n 2 --durations=20
	$(BIN)/ruff check .
	$(BIN)/pyright

learner: .venv/installed-test
	$(BIN)/python -m pytest -n 2 --durations=5 --learner $(NAME)

check: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/pyright

bench: .venv-bench/installed
	.venv-bench/bin/python benchmarks/bench.py --out results/bench-cpu.json

bench-gpu: .venv-bench/installed
	.venv-bench/bin/python benchmarks/bench.py --device cuda --out results/bench-gpu.json

.venv-bench/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install -q -c constraints.txt -e .
	-.venv-bench/bin/python -m pip install -q -c constraints.txt higher==0.2.1
	-.venv-bench/bin/python -m pip install -q -c constraints.txt torchopt==0.7.3
	-.venv-bench/bin/python -m pip install -q --no-deps easyfsl==1.5.0
	-.venv-bench/bin/python -m pip install -q -c constraints.txt learn2learn==0.2.0
	touch $@

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	touch $@

.venv/installed-test: .venv/installed
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[test]'
	touch $@

clean:
	rm -rf .venv .venv-bench build *.egg-info
