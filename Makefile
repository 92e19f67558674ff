# Everything that builds, runs, checks and measures the project. Needs Python >= 3.11 with its headers and venv,
# gcc and make; whatever else is needed is installed into .venv.
#
#   make run     parallel tree search over real chess positions
#   make test    C tests (plain, ASan+UBSan, TSan), C coverage, Python tests with coverage
#   make smoke   every benchmark at tiny size, each row beside its peers; figures mean nothing
#   make browser pictures of search trees in a real browser; as root on Debian it installs chromium if it is missing
#   make crash   the proof: kills, power loss, faults, hostile bytes, models, and seeded bugs that each must find;
#                make crash SEED=n makes the choices of that seed
#   make instructions   instruction counts of the hottest operations beside their record; make instructions-record REASON="..."
#   make soak    the same again and again: make soak HOURS=8
#   make bench   the measurements, each beside its peers and its floor; files and plots in build/bench
#   make check   ruff, mypy --strict, clang-format; changes nothing (`make format` does)
#   make clean   removes what was built, and .venv

PYTHON ?= python3
JOBS ?= $(shell nproc)
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check -q

C_SOURCES := $(sort $(wildcard csrc/hs_*.c))
C_HEADERS := $(sort $(wildcard csrc/*.h))
C_TESTS := $(patsubst tests/c/%.c,%,$(sort $(wildcard tests/c/test_*.c)))
C_PYTHON := $(sort $(wildcard csrc/python/*.[ch]))
C_FORMATTED := $(C_SOURCES) $(C_HEADERS) $(C_PYTHON) $(sort $(wildcard tests/c/*.[ch] tests/memory_order/*.[ch] tests/crash/*.[ch] tests/fuzz/*.[ch] tests/instructions/*.[ch] bench/*.c))
NATIVE_STAMP := build/native.stamp
C_COVERAGE_MIN := 90
C_TEST_SECONDS_MAX := 300

.DELETE_ON_ERROR:
HOURS ?= 1
.PHONY: all run test smoke browser crash soak bench check format clean native test-c coverage-c test-python instructions instructions-record
all: native

# --- the virtual environment: one stamp for each set of extras, so that `make run` fetches no test tools ---

$(VENV)/created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "helios_shm needs Python >= 3.11; this is $$($(PYTHON) --version). Set PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))' || \
		{ echo "Python.h is missing: the C core cannot be built. On Debian: apt-get install python3-dev" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install 'setuptools>=77' 'cffi>=1.16'
	@touch $@

# Installed in place; the compiled module is then kept up to date by $(NATIVE_STAMP).
INSTALL = $(PIP) install --no-build-isolation -e '.[$(1)]' && touch $@ $(NATIVE_STAMP)

$(VENV)/installed-%: $(VENV)/created pyproject.toml setup.py
	@mkdir -p build
	$(call INSTALL,$(subst -,$(comma),$*))

comma := ,
RUN_VENV := $(VENV)/installed-run
TEST_VENV := $(VENV)/installed-run-test
BENCH_VENV := $(VENV)/installed-run-bench
CHECK_VENV := $(VENV)/installed-run-test-check
BROWSER_VENV := $(VENV)/installed-run-test-browser

# --- the compiled module ---

$(NATIVE_STAMP): $(C_SOURCES) $(C_HEADERS) $(C_PYTHON) helios_shm/_ffi_build.py setup.py | $(VENV)/created
	@mkdir -p build
	$(PY) setup.py -q build_ext --inplace
	@touch $@

native: $(NATIVE_STAMP)

run: $(RUN_VENV) $(NATIVE_STAMP)
	$(PY) -m examples.chess_mates

bench: $(BENCH_VENV) $(NATIVE_STAMP)
	$(PY) -m bench

# --- C tests: every tests/c/test_*.c with all of csrc, in four flavours under build/c/<flavour>/ ---

FLAVOURS := plain pic asan tsan coverage
C_FLAGS := -std=gnu11 -Wall -Wextra -Wconversion -Werror -fvisibility=hidden -pthread -Icsrc -Itests/c -MMD -MP -g
C_FLAGS_plain := -O2
C_FLAGS_pic := -O2 -fPIC
C_FLAGS_asan := -O1 -fPIC -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all
C_FLAGS_tsan := -O1 -fsanitize=thread -Wno-tsan
C_FLAGS_coverage := -O0 --coverage -fprofile-update=atomic
# gcc 12's TSan cannot place its shadow when the kernel randomises addresses by more than 28 bits.
C_RUN_tsan = $(shell setarch -R true 2>/dev/null && echo setarch -R)

define FLAVOUR
build/c/$(1)/csrc/%.o: csrc/%.c
	@mkdir -p $$(@D)
	$(CC) $(C_FLAGS) $(C_FLAGS_$(1)) -c -o $$@ $$<
build/c/$(1)/tests/%.o: tests/c/%.c
	@mkdir -p $$(@D)
	$(CC) $(C_FLAGS) $(C_FLAGS_$(1)) -c -o $$@ $$<
build/c/$(1)/libhelios_shm.a: $(C_SOURCES:%.c=build/c/$(1)/%.o)
	@rm -f $$@
	$(AR) rcs $$@ $$^
build/c/$(1)/test_%: build/c/$(1)/tests/test_%.o build/c/$(1)/libhelios_shm.a
	$(CC) $(C_FLAGS_$(1)) -pthread -o $$@ $$^ -lrt -lm
.PHONY: test-c-$(1) $(C_TESTS:%=run-$(1)-%)
test-c-$(1): $(C_TESTS:%=run-$(1)-%)
$(C_TESTS:%=run-$(1)-%): run-$(1)-%: build/c/$(1)/%
	$$(C_RUN_$(1)) timeout $(C_TEST_SECONDS_MAX) $$<
.PHONY: flags-$(1)
flags-$(1):
	@echo $$(filter-out -MMD -MP,$$(C_FLAGS)) $$(C_FLAGS_$(1))
-include $(wildcard build/c/$(1)/*/*.d)
endef
$(foreach flavour,$(FLAVOURS),$(eval $(call FLAVOUR,$(flavour))))
.SECONDARY:

test-c:
	$(MAKE) --no-print-directory -j$(JOBS) test-c-plain test-c-asan test-c-tsan

# Counters of earlier runs are dropped first: a line counts only if the tests of today reach it.
coverage-c:
	@find build/c/coverage -name '*.gcda' -delete 2>/dev/null || true
	$(MAKE) --no-print-directory -j$(JOBS) test-c-coverage
	$(PYTHON) tests/meta/coverage_floor.py c $(C_COVERAGE_MIN) build/c/coverage/csrc

# --- Python tests: last, so that pytest's closing line ends the output ---

test-python: $(TEST_VENV) $(NATIVE_STAMP)
	@rm -rf build/coverage && mkdir -p build/coverage
	$(PY) -m pytest -q -x -n $(JOBS) --dist worksteal --durations=10 --cov --cov-report=term --cov-report=json:build/coverage/python.json
	$(PY) tests/meta/coverage_floor.py python 90 build/coverage/python.json

test: test-c coverage-c test-python

# --- does every benchmark run, and print what it promises? ---

smoke: $(TEST_VENV) $(NATIVE_STAMP)
	$(PY) -m pytest -q -x -n $(JOBS) --dist worksteal -m smoke tests/unit/test_bench_smoke.py

# --- what people look at, in a browser: Debian's chromium ---

browser: $(BROWSER_VENV) $(NATIVE_STAMP)
	$(PY) -m pytest -q -x -m browser tests/mcts

# --- the proof: tests/crash/__main__.py ---

crash: $(TEST_VENV) $(NATIVE_STAMP)
	$(PY) -m tests.crash $(if $(SEED),--seed $(SEED))

soak: $(TEST_VENV) $(NATIVE_STAMP)
	$(PY) -m tests.crash --hours $(HOURS)

# --- instruction counts: tests/instructions/README.md; STRICT=1 fails in another environment than the recorded one ---

instructions: $(TEST_VENV) $(NATIVE_STAMP)
	$(PY) -m tests.instructions $(if $(STRICT),--strict)

instructions-record: export RECORD_REASON = $(REASON)
instructions-record: $(TEST_VENV) $(NATIVE_STAMP)
	$(PY) -m tests.instructions --record "$$RECORD_REASON"

# --- style and types ---

check: $(CHECK_VENV) $(NATIVE_STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(VENV)/bin/clang-format --dry-run -Werror $(C_FORMATTED)

format: $(CHECK_VENV)
	$(PY) -m ruff check --fix-only -q . ; $(PY) -m ruff format -q .
	$(VENV)/bin/clang-format -i $(C_FORMATTED)

clean:
	rm -rf build dist .venv *.egg-info helios_shm/_native*.so helios_shm/_native.c
	find . -name __pycache__ -prune -exec rm -rf {} +

# --- fuzzing: every tests/fuzz/*.c against the C core, by clang's libFuzzer; tests/fuzz/README.md ---

CLANG ?= clang-14
FUZZ_SECONDS ?= 60
FUZZ_TARGETS := $(patsubst tests/fuzz/%.c,%,$(sort $(wildcard tests/fuzz/*.c)))
FUZZ_FLAGS := -std=gnu11 -O1 -g -fno-omit-frame-pointer -fvisibility=hidden -pthread -Icsrc -Itests/c -Itests/fuzz \
	-fsanitize=address,undefined -fno-sanitize-recover=all -fno-sanitize-coverage=trace-cmp
# Its mappings stand between pages that nobody may touch.
FUZZ_LINK_segment := -Wl,--wrap=mmap,--wrap=munmap

build/c/fuzz/csrc/%.o: csrc/%.c
	@mkdir -p $(@D)
	$(CLANG) $(FUZZ_FLAGS) -fsanitize=fuzzer-no-link -MMD -MP -c -o $@ $<
build/c/fuzz/libhelios_shm.a: $(C_SOURCES:%.c=build/c/fuzz/%.o)
	@rm -f $@
	$(AR) rcs $@ $^
build/c/fuzz/%: tests/fuzz/%.c tests/fuzz/hs_fuzz.h tests/c/hs_nodes.h build/c/fuzz/libhelios_shm.a
	$(CLANG) $(FUZZ_FLAGS) -fsanitize=fuzzer $(FUZZ_LINK_$*) -o $@ $< build/c/fuzz/libhelios_shm.a -lrt -lm
-include $(wildcard build/c/fuzz/csrc/*.d)

.PHONY: fuzz fuzz-programs
fuzz-programs: $(FUZZ_TARGETS:%=build/c/fuzz/%)
fuzz: $(TEST_VENV) $(NATIVE_STAMP)
	$(PY) -m tests.fuzz.run --seconds $(FUZZ_SECONDS)
