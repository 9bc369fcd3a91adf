# `make demo` and `make test` set up everything they need in .venv, once.
PYTHON ?= python3
BIN := .venv/bin
DEMO_BUDGET ?= 40%
DEMO_LINK ?= 250MB/s
DEMO_STEPS ?= 6

.PHONY: demo test gpu-check gpu-bench library paper notebooks outputs pictures setup clean

demo: .venv/demo.stamp
	mkdir -p demo
	$(BIN)/plan profile unet3d -o demo/unet3d.profile.json.gz
	$(BIN)/plan solve demo/unet3d.profile.json.gz --budget $(DEMO_BUDGET) --d2h-bandwidth $(DEMO_LINK) \
		-o demo/unet3d.plan.json
	$(BIN)/plan show demo/unet3d.plan.json --png demo/unet3d.png
	$(BIN)/plan run demo/unet3d.plan.json --steps $(DEMO_STEPS)

test: .venv/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 --dist loadfile

# What only a GPU can show, with gpu-bench at its end; without a GPU both say so and do nothing.
gpu-check: .venv/test.stamp
	CUBLAS_WORKSPACE_CONFIG=:4096:8 $(BIN)/python -m tests.gpu.check

# The same budget for a plan, for three baselines and for nothing.
gpu-bench: .venv/test.stamp
	$(BIN)/python -m tests.benchmarks.bench_gpu

# Estimates the profiles that are shipped in profiles/library again; takes some minutes.
library: .venv/demo.stamp
	$(BIN)/python -m profiles.library.make

# Plans the experiments of notebooks/paper again; takes an hour.
paper: .venv/demo.stamp
	cd notebooks && ../$(BIN)/python -m paper.make

# Opens the notebooks in a browser.
notebooks: .venv/notebooks.stamp
	$(BIN)/jupyter lab --notebook-dir=notebooks

# Runs the notebooks and keeps in them what they show; some minutes.
outputs: .venv/notebooks.stamp
	PYTHONPATH=notebooks $(BIN)/python -m analysis.store_outputs

# Draws the pictures of README.md again; less than two minutes.
pictures: .venv/demo.stamp
	mkdir -p notebooks/pictures
	PYTHONPATH=notebooks $(BIN)/python -m analysis.readme_pictures \
		profiles/library/unet3d-144-v100-16gb.profile.json.gz notebooks/pictures

setup: .venv/test.stamp

clean:
	rm -rf .venv demo build dist *.egg-info

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/demo.stamp: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install -c constraints.txt -e '.[plan,models]'
	touch $@

.venv/notebooks.stamp: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install -c constraints.txt -e '.[plan,models,notebooks]'
	touch $@ .venv/demo.stamp

.venv/test.stamp: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install -c constraints.txt -e '.[plan,models,dev]'
	touch $@ .venv/demo.stamp
