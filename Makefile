# Tiny Models. `make book` and `make test` do everything, on a fresh machine too.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
# The script $(BIN)/jupyter-book names the folder in which it was installed, so it can't be moved.
JUPYTER_BOOK := $(BIN)/python -c "from jupyter_book.cli.main import main; main()"
TOOLS := $(BIN)/python book/_ext/tiny_models
SERVE := $(BIN)/python -m http.server --directory _build/html --bind localhost 8000
BOOK_READY := $(VENV)/.requirements
TEST_READY := $(VENV)/.test-requirements
BENCH := .venv-bench
BENCH_READY := $(BENCH)/.requirements

.PHONY: book test bench tangle untangle watch models serve linkcheck anchors clean

book: export SOLUTIONS := $(SOLUTIONS)
book: models  ## build the book into _build/html (SOLUTIONS=0: without those of the exercises)
	$(JUPYTER_BOOK) build . --warningiserror --keep-going

test: models $(TEST_READY)  ## run the tests; those of the pages want `make book` first
	$(BIN)/python -m ruff check
	$(BIN)/python -m pytest --numprocesses auto --dist loadgroup --no-loadscope-reorder

bench: $(BENCH_READY)  ## measure both scripts and their peers (`make bench ARGS="decode prompt"`: only these)
	$(BENCH)/bin/python tests/bench $(ARGS)

tangle: $(BOOK_READY)  ## write src/ from the chapters (CHECK=1: only compare; FORCE=1: discard hand edits)
	$(TOOLS) $(if $(CHECK),check,tangle $(if $(FORCE),--force))

untangle: $(BOOK_READY)  ## carry edits made in src/ back into the chapters
	$(TOOLS) untangle

watch: book $(TEST_READY)  ## build whenever a chapter is saved, and show the book on http://localhost:8000
	$(SERVE) & trap "kill $$!" EXIT; $(BIN)/python -m watchfiles "$(MAKE) book" book _toc.yml _config.yml

models: $(BOOK_READY)  ## prepare the weights that need no account
	$(BIN)/python book/models/prepare.py

serve: book  ## build, then serve the book on http://localhost:8000
	$(SERVE)

linkcheck: models  ## see whether all links that lead out of the book still lead somewhere
	$(JUPYTER_BOOK) build . --builder linkcheck

anchors: $(BOOK_READY)  ## add the addresses of the built book to those that have to stay valid (book/anchors.txt)
	$(TOOLS) anchors

clean:  ## remove all that was built, but not the environment and the weights
	rm -rf _build

$(BOOK_READY): requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	touch $@

$(TEST_READY): $(BOOK_READY) tests/requirements.txt
	$(BIN)/python -m pip install --quiet --requirement tests/requirements.txt
	touch $@

# llama.cpp is compiled here, which needs a C++ compiler, for the processor at hand.
$(BENCH_READY): tests/bench/requirements.txt
	$(PYTHON) -m venv $(BENCH)
	CMAKE_ARGS="-DGGML_NATIVE=ON" $(BENCH)/bin/python -m pip install --quiet --requirement tests/bench/requirements.txt
	touch $@
