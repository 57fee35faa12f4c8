.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MINISTACK := .venv-ministack
DEPLOY := .venv-deploy
CHECKOV := .venv-checkov
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: help install demo test test-real prove test-containers images lint types bench bench-ingest bench-overload bench-heavy bench-lambda bench-containers screenshots lock openapi settings-docs digest clean

help: ## show what each target does
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/.local ## create .venv with everything one machine needs, from the hashed lock

demo: $(VENV)/.local ## simulate two weeks of a small world, then serve ingest on :8000 and the feed on :8001
	@$(BIN)/pingfeed demo $(DEMO_ARGS)

test: $(VENV)/.dev lint types ## linters, strict types, import rules and every test that needs only Python
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

test-real: $(VENV)/.browser $(MINISTACK)/.installed ## every adapter on real servers, the page in Chromium; REQUIRE_ALL=1 fails if one is missing
	@$(BIN)/python -m pytest -m "real or conformance" $(PYTEST_ARGS)

PROOFS := tests/unit/test_spool_power_cut.py tests/unit/test_spool_damage.py tests/unit/test_ingest_any_body.py tests/faults \
	tests/unit/test_raw_files.py tests/unit/test_as_of.py tests/unit/test_ledger_folding.py tests/unit/test_raw_compaction.py \
	tests/unit/test_learn.py tests/unit/test_forget.py tests/unit/test_accepted_passes.py \
	tests/unit/test_integrity.py tests/unit/test_harmed_lake.py tests/unit/test_feed_degraded.py tests/unit/test_forbidden.py \
	tests/unit/test_imported_history.py tests/unit/test_backup.py tests/unit/test_user_signals_dynamodb.py tests/unit/test_leases.py \
	tests/real/test_forbidden_redis.py tests/real/test_forbidden_dynamodb.py tests/real/test_leases.py tests/real/test_lambda_runtime.py
prove: $(VENV)/.dev ## prove the promises at full counts: power cuts, damage, kills, hostile clients, what is forbidden (1 hour)
	@PROVE_ROUNDS=full $(BIN)/python -m pytest $(PROOFS) -m 'not containers' --timeout 2400 $(PYTEST_ARGS)

test-containers: $(VENV)/.dev ## the images and the composition on a Docker engine; REQUIRE_ALL=1 fails without an engine
	@$(BIN)/python -m pytest tests/containers -m containers $(PYTEST_ARGS)

images: ## build the three images, print their sizes and check what the serving images must not contain
	@docker compose build --quiet ingest feed batch
	@docker images --format 'table {{.Repository}}\t{{.Size}}' --filter reference='pingfeed-*:latest'
	@for name in ingest feed; do \
	  docker run --rm --entrypoint python pingfeed-$$name -c "from importlib.util import find_spec as f; \
	    [print(n) for n in ('pyspark', 'pandas', 'scipy') if f(n)]" | grep . && echo "$$name must not contain these" && exit 1; \
	  echo "$$name contains neither Spark, pandas nor SciPy"; \
	done

lint: $(VENV)/.dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-cache

types: $(VENV)/.dev
	@$(BIN)/mypy

# Offline: neither a region's catalogue nor a guideline is fetched.
.PHONY: lint-template template
lint-template: $(DEPLOY)/.installed $(CHECKOV)/.installed ## cfn-lint, sam validate and checkov on deploy/template.yaml
	@$(DEPLOY)/bin/cfn-lint deploy/template.yaml
	@SAM_CLI_TELEMETRY=0 AWS_DEFAULT_REGION=us-east-1 $(DEPLOY)/bin/sam validate --lint --template deploy/template.yaml
	@$(CHECKOV)/bin/checkov --config-file deploy/checkov.yaml --file deploy/template.yaml

template: $(VENV)/.dev ## regenerate the columns and saved queries in deploy/template.yaml
	@$(BIN)/python -m deploy.template

bench: $(VENV)/.dev ## latency of the services relative to a floor measured in the same run
	@$(BIN)/python -m benchmarks.serving $(BENCH_ARGS)

bench-ingest: $(VENV)/.dev ## durable ingest throughput on one core relative to its floors
	@$(BIN)/python -m benchmarks.ingest $(BENCH_ARGS)

bench-overload: $(VENV)/.dev ## the feed at two and four times its highest rate: latency, 503s, and how soon it recovers
	@$(BIN)/python -m benchmarks.overload $(BENCH_ARGS)

bench-heavy: $(VENV)/.dev ## what one user with 100,000 acts and 10,000 blocks costs that user and all others
	@$(BIN)/python -m benchmarks.heavy_user $(BENCH_ARGS)

bench-lambda: $(VENV)/.dev ## cold and warm functions with the CPU of their memory; MiniStack stands for AWS
	@$(BIN)/python -m benchmarks.lambda_functions $(BENCH_ARGS)

bench-containers: $(VENV)/.dev ## time from `docker compose --profile demo up` to a served feed
	@$(BIN)/python -m benchmarks.composition

.PHONY: bench-capacity
bench-capacity: $(VENV)/.dev ## how many daily users 2 cores of this machine serve, with ticks and nightly jobs beside
	@$(BIN)/python -m benchmarks.capacity $(BENCH_ARGS)

screenshots: $(VENV)/.browser ## regenerate docs/images/page-*.png from a small world
	@$(BIN)/python -m tests.browser.screenshots docs/images

COMPILE := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header
lock: ## resolve the locks again from pyproject.toml (needs uv)
	@for name in local dev browser ingest batch; do \
	  $(COMPILE) --extra $$name $$(case $$name in ingest|batch) echo --extra aws --extra redis;; esac) \
	    $$(case $$name in ingest) echo --extra lambda;; batch) echo --extra simulator;; esac) \
	    pyproject.toml -o locks/$$name.txt; \
	done
	@# One machine, with backups in S3 and signals in Redis; what `local` has too is the same version.
	@$(COMPILE) --extra local --extra aws --extra redis -c locks/local.txt pyproject.toml -o locks/machine.txt
	@# The feed's image needs only LightGBM's shared library (pingfeed/core/ranker.py), so it leaves SciPy out.
	@$(COMPILE) --extra feed --extra lambda --extra redis --no-emit-package scipy pyproject.toml -o locks/feed.txt
	@# What the functions need beside those (deploy/package.py): AWS's runtime client, and a wheel that carries libgomp.
	@echo 'awslambdaric>=4' | $(COMPILE) - -o locks/lambda.txt
	@echo 'scikit-learn' | $(COMPILE) --no-deps - -o locks/libgomp.txt
	@echo 'setuptools>=77' | $(COMPILE) - -o locks/build.txt
	@echo 'ministack[full]>=1.5' | $(COMPILE) - -o locks/ministack.txt
	@printf 'aws-sam-cli\ncfn-lint\n' | $(COMPILE) - -o locks/deploy-tools.txt
	@echo checkov | $(COMPILE) - -o locks/checkov.txt

openapi: $(VENV)/.dev ## regenerate docs/openapi/ from the code
	@$(BIN)/python -m tests.openapi_documents

settings-docs: $(VENV)/.dev ## regenerate the tables of docs/settings.md from the code
	@$(BIN)/python -m tests.settings_document

digest: $(VENV)/.dev ## update the fingerprint of features and SQL after a change in batch/sql/
	@$(BIN)/python -m batch.engine pingfeed/core/feature_set.py

.PHONY: package stage-named deploy diff rollback destroy
RELEASE = $(if $(REGION),AWS_REGION=$(REGION)) $(BIN)/python -m deploy.release
stage-named:
	@test -n "$(STAGE)" || { echo "Name the stage: make deploy STAGE=dev"; exit 1; }

deploy: stage-named $(VENV)/.dev lint-template ## deploy to AWS: STAGE=dev [REGION= ARCH= PARAMS='Auth=jwt ...' YES=1] (docs/aws.md)
	@$(RELEASE) deploy $(STAGE) --architecture "$(ARCH)" --params "$(PARAMS)" $(if $(YES),--yes)

diff: stage-named $(VENV)/.dev ## show what `make deploy` with the same arguments would change
	@$(RELEASE) diff $(STAGE) --architecture "$(ARCH)" --params "$(PARAMS)"

rollback: stage-named $(VENV)/.dev ## let the release before the one that serves STAGE= serve again
	@$(RELEASE) rollback $(STAGE) $(if $(YES),--yes)

destroy: stage-named $(VENV)/.dev ## delete the stack of STAGE=; buckets and table stay unless DATA=1
	@$(RELEASE) destroy $(STAGE) $(if $(YES),--yes) $(if $(DATA),--with-data)

package: $(VENV)/.dev ## build build/{ingest,feed}.zip for AWS Lambda; ARCH=x86_64 for that processor
	@$(BIN)/python -m deploy.package --architecture $(or $(ARCH),arm64)

clean: ## remove the environments and the demo's state (var/demo, var/current-home)
	rm -rf $(VENV) $(MINISTACK) $(DEPLOY) $(CHECKOV) var/demo var/current-home build *.egg-info

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; (3, 11) <= sys.version_info < (3, 14) or sys.exit("pingfeed needs Python 3.11, 3.12 or 3.13; name one with PYTHON=python3.12")'
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.local: locks/local.txt pyproject.toml | $(VENV)/bin/python
	@echo "Installing the dependencies (about 400 MB, once) ..."
	@$(INSTALL) --require-hashes -r locks/local.txt
	@$(INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: locks/dev.txt $(VENV)/.local
	@echo "Installing the test tools ..."
	@$(INSTALL) --require-hashes -r locks/dev.txt
	@touch $@

$(VENV)/.browser: locks/browser.txt $(VENV)/.dev
	@echo "Installing the browser driver ..."
	@$(INSTALL) --require-hashes -r locks/browser.txt
	@touch $@

# MiniStack pins another botocore than aioboto3 does, so it needs its own environment.
$(MINISTACK)/.installed: locks/ministack.txt | $(VENV)/bin/python
	@echo "Installing MiniStack, which emulates AWS ..."
	@$(PYTHON) -m venv $(MINISTACK)
	@$(MINISTACK)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r locks/ministack.txt
	@touch $@

# The linters of the template: sam and checkov pin two other versions of boto3.
# `--no-deps`: a lock is complete, and pip rejects the extras of boto3-stubs beside hashes.
$(DEPLOY)/.installed: locks/deploy-tools.txt | $(VENV)/bin/python
	@echo "Installing cfn-lint and sam ..."
	@$(PYTHON) -m venv $(DEPLOY)
	@$(DEPLOY)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r locks/deploy-tools.txt
	@touch $@

$(CHECKOV)/.installed: locks/checkov.txt | $(VENV)/bin/python
	@echo "Installing checkov ..."
	@$(PYTHON) -m venv $(CHECKOV)
	@$(CHECKOV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r locks/checkov.txt
	@touch $@
