# Everything a newcomer needs: `make demo` runs the product, `make test` proves it.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo install test lint lock rehearse screenshots messages chromium gettext bench bench-quick bench-page

demo: install
	@exec $(BIN)/python manage.py up --demo

install: .venv/.installed

.venv/.installed: requirements.lock
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing the pinned packages into .venv"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	@touch $@

# Several processes, each with servers of its own (tests/conftest.py says how many); a file's tests stay together.
test: install chromium gettext
	$(BIN)/python -m pytest --numprocesses=auto --maxprocesses=8 --dist=loadfile --no-loadscope-reorder

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python manage.py makemigrations --check --dry-run

# Browser tests drive a Chromium: the one that is named, else one on the path, else Debian's, installed where that
# is allowed; they are skipped without.
chromium:
	-@test -n "$$TASTEMAKER_CHROMIUM" || command -v chromium >/dev/null || command -v google-chrome >/dev/null || { \
		echo "Installing Chromium from Debian's packages"; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null; }

# Debian's gettext reads catalogs out of the code and compiles them; tests that need it are skipped without.
gettext:
	-@command -v msgfmt >/dev/null || { \
		echo "Installing gettext from Debian's packages"; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq gettext >/dev/null; }

rehearse: install
	$(BIN)/python manage.py rehearse

# Every page, into docs/screenshots: about ten minutes.
screenshots: install chromium
	$(BIN)/python docs/take_screenshots.py

# Brings the catalogs under locale/ up to the sentences of the code, and compiles them: docs/languages.md.
messages: install gettext
	$(BIN)/python manage.py makemessages --all --no-obsolete --no-wrap --add-location file --ignore '.venv*' --ignore var --ignore tests
	$(BIN)/python manage.py compilemessages --ignore '.venv*' --ignore var

# Rewrites requirements.lock from what is installed: names and versions alone.
lock:
	$(BIN)/python -m pip freeze --exclude-editable | grep -v -E '^(pip|setuptools|wheel)==' | sed -E 's/\+cpu$$//' > requirements.lock

# Ours beside the peer's, in one run: docs/performance.md. Quick is under ten minutes.
bench: install .venv-bench/.installed
	$(BIN)/python -m benchmarks

bench-quick: install .venv-bench/.installed
	$(BIN)/python -m benchmarks --quick

# The annotator's page in Chromium; beside Label Studio's where .venv-label-studio has it.
bench-page: install chromium
	@$(BIN)/python -m benchmarks.page

BENCH_EXTRA = $(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["bench"])'

# The peer's environment: its newest release on our versions of torch and transformers, and beside it the files
# of the last release that had PPO.
.venv-bench/.installed: requirements.lock pyproject.toml | install
	@test -x .venv-bench/bin/python || $(PYTHON) -m venv .venv-bench
	@echo "Installing the peer into .venv-bench"
	@.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock $$($(BENCH_EXTRA))
	@.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target .venv-bench/trl-1.12.0 trl==1.12.0
	@touch $@
