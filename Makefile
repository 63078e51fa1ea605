PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test slow app bench lint clean

# The environment makes itself, and again whenever the pins change.
$(STAMP): pyproject.toml constraints.txt
	test -x $(RUN)/python || $(PYTHON) -m venv $(VENV)
	$(RUN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(RUN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,dev]'
	touch $@

demo: $(STAMP)
	OMP_NUM_THREADS=1 $(RUN)/python -m benchmarks.demo  # more threads wait for each other as soon as the machine is busy

test: $(STAMP)
	$(RUN)/python tests/browser.py
	$(RUN)/python -m tests.compiler
	OMP_NUM_THREADS=1 $(RUN)/pytest -m "not slow" -n auto --dist loadgroup

slow: $(STAMP)
	OMP_NUM_THREADS=1 $(RUN)/pytest -m slow -n auto --dist loadgroup

app: $(STAMP)
	$(RUN)/metazoo app --zoo demo/zoo

bench: $(STAMP)
	for script in $(filter-out %/harness.py %/populating.py %/demo.py %/gpu.py,$(wildcard benchmarks/*.py)); do $(RUN)/python $$script || exit 1; done

lint: $(STAMP)
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy

clean:
	rm -rf $(VENV) demo build *.egg-info
