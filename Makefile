# The environment, the demo, the tests and the linters; `make` alone lists the targets.

PYTHON ?= python3
ROS_DISTRO ?= kilted
RECORDING ?=
TOPIC ?=
PYTEST_ARGS ?=

# A ROS 2 installation is used where one is sourced; elsewhere ROS 2 comes from wheels, one
# distribution per environment.
ROS_INSTALLED := $(if $(AMENT_PREFIX_PATH),$(shell $(PYTHON) -c 'from importlib.util import \
	find_spec as f; print("yes" * (bool(f("rclpy")) and not f("ros_wheels_bootstrapper")))'))
KIND := $(if $(ROS_INSTALLED),installed,wheels)-$(ROS_DISTRO)
VENV := .venv$(if $(filter-out wheels-kilted installed-%,$(KIND)),-$(ROS_DISTRO))
STAMP := $(VENV)/made-for-$(KIND)

.PHONY: help env demo test bench nightly lint clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

env: $(STAMP)  ## make the Python environment: ROS 2 from wheels, unless one is sourced

demo: $(STAMP)  ## segment a rendered street, or RECORDING=path [TOPIC=name], through ROS 2; a page in demo/
	$(VENV)/bin/python -m featshare_ros.demo \
		$(if $(RECORDING),--recording '$(RECORDING)') $(if $(TOPIC),--topic '$(TOPIC)')

test: $(STAMP)  ## run every test; more for pytest in PYTEST_ARGS
	$(VENV)/bin/pytest test -n 2 --dist loadfile --no-loadscope-reorder \
		--durations=10 $(PYTEST_ARGS)

bench: $(STAMP)  ## measure what this device can run, in about ten minutes; results in bench/
	$(VENV)/bin/python benchmarks/bench.py

nightly: $(STAMP)  ## fuzz messages, parameters, pictures, calibrations, recordings and texts, 10,000 examples each
	FUZZ_EXAMPLES=10000 $(VENV)/bin/pytest test/test_fuzz*.py --timeout=3600 $(PYTEST_ARGS)

lint: $(STAMP)  ## ruff, mypy, and checks of package.xml, launch and config files
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/pytest test/test_package.py -q

clean:  ## remove what the other targets made, except the environments (rm -r .venv*)
	rm -rf build install log demo bench *.egg-info .mypy_cache .ruff_cache .pytest_cache
	find featshare_core featshare_ros launch test -name __pycache__ -prune -exec rm -r {} +

$(STAMP): $(wildcard requirements/*) setup.py setup.cfg
	requirements/make_env.sh $(VENV) $(PYTHON) $(KIND)
