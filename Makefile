# Everything a newcomer needs: `make demo` runs the product, `make test` proves it.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo install test lint lock rehearse screenshots chromium

demo: install
	@exec $(BIN)/python manage.py up --demo

install: .venv/.installed

.venv/.installed: requirements.lock
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing the pinned packages into .venv"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	@touch $@

test: install chromium
	$(BIN)/python -m pytest

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python manage.py makemigrations --check --dry-run

# Browser tests drive Debian's Chromium.
chromium:
	@command -v chromium >/dev/null || { \
		echo "Installing Chromium from Debian's packages"; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null; }

rehearse: install
	$(BIN)/python manage.py rehearse

screenshots: install chromium
	$(BIN)/python docs/take_screenshots.py

# Rewrites requirements.lock from what is installed: names and versions alone.
lock:
	$(BIN)/python -m pip freeze --exclude-editable | grep -v -E '^(pip|setuptools|wheel)==' | sed -E 's/\+cpu$$//' > requirements.lock
