# Every target is one line over a script; `make` alone prints them.
PYTHON ?= python3
PAYLOAD ?= payloads/pulsar-realtime.json
IMAGE := $(shell sed -n 's/^image: *\([^ \#]*\).*/\1/p' params.yaml)
LOCK := requirements$(if $(filter-out 1.9-0,$(IMAGE)),-$(IMAGE)).txt
VENV := .venv
PY := $(VENV)/bin/python
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

# On AWS there is nothing to start.
PLACE := $(if $(filter aws,$(TARGET)),setup,sandbox)

.DEFAULT_GOAL := help
.NOTPARALLEL:

# A Python snippet and not awk: awk and sed differ between Linux and macOS.
define PRINT_HELP
import re
text = open("Makefile").read()
for group, body in re.findall(r"^##@ (.+)\n((?:(?!^##@).*\n?)*)", text, re.M):
    print(f"\n{group}")
    for doc, name in re.findall(r"^## (.+)\n([a-z-]+):", body, re.M):
        print(f"  {name:14}{doc}")
endef
export PRINT_HELP

.PHONY: help
help:
	@$(PYTHON) -c "$$PRINT_HELP"

##@ the way

.PHONY: setup
## make .venv from the locked pins
setup: $(VENV)/ready-$(IMAGE)

.PHONY: train
## candidates, training, evaluation, model.tar.gz: whatever of it is stale (HTRU2=file: your own copy)
train: setup
	@! python scripts/fetch.py --stale || dvc repro -q --force --single-item fetch
	@dvc repro -q

.PHONY: deploy
## the whole way: train, package, upload, provision, wait, predict
deploy: upload provision wait predict

.PHONY: status
## how the pipeline is doing
status: setup
	@python scripts/status.py $(PAYLOAD)

.PHONY: predict
## ask the endpoint about a pulsar and a piece of noise (INPUT=file.csv: about yours; OPTIONS=--drop-bad)
predict: setup
	@python scripts/predict.py $(if $(INPUT),--input "$(INPUT)") $(OPTIONS)

.PHONY: score
## score INPUT=night.csv into OUTPUT=scored.csv with the packaged model, millions of rows
score: setup
	@python scripts/score.py "$(INPUT)" -o "$(OUTPUT)" $(OPTIONS)

.PHONY: destroy
## delete every pipeline and stop the sandbox
destroy: setup
	@python scripts/destroy.py
	@$(if $(filter aws,$(TARGET)),true,python scripts/sandbox.py down)

##@ single steps

.PHONY: fetch
## get the candidates again
fetch: setup
	@dvc repro --force --single-item fetch

.PHONY: evaluate
## scores, plots and evaluation/report.html
evaluate: setup
	@dvc repro report

.PHONY: package
## models/model.tar.gz, if the gate lets the model through
package: train

.PHONY: report
## print the scores as a table
report: setup
	@python scripts/report.py --show

.PHONY: upload
## aws s3 cp model.tar.gz to the assets bucket
upload: train $(PLACE)
	@python scripts/upload.py

.PHONY: provision
## POST /provisionpipeline with PAYLOAD
provision: $(PLACE)
	@python scripts/provision.py $(PAYLOAD)

.PHONY: wait
## follow the pipeline until it is in service or has failed
wait: $(PLACE)
	@python scripts/status.py --wait $(PAYLOAD)

##@ the sandbox

.PHONY: sandbox
## start AWS's stand-in on this machine
sandbox: setup
	@python scripts/sandbox.py up

.PHONY: sandbox-down
## stop it; its state stays
sandbox-down: setup
	@python scripts/sandbox.py down

.PHONY: env
## variables for aws, boto3 and curl: eval "$(make -s env)"
env: setup
	@python scripts/sandbox.py env

##@ on AWS

.PHONY: launch
## the orchestrator into your account: TARGET=aws, asks before anything is billed (STACK=, EMAIL=)
launch: setup
	@python scripts/launch.py

.PHONY: land
## take it off again, with all that is billed: TARGET=aws
land: setup
	@python scripts/land.py

.PHONY: cost
## what the orchestrator and PAYLOAD's endpoint cost on AWS
cost: setup
	@python scripts/cost.py $(PAYLOAD)

##@ development

.PHONY: test
## the quick tests (ALL=1: the slow ones too; ONLY=tests/test_model.py: these)
test: $(VENV)/ready-dev-$(IMAGE)
	@python -m pytest $(if $(ALL),-m "") $(ONLY)

.PHONY: lint
## ruff: lint and format
lint: $(VENV)/ready-dev-$(IMAGE)
	@ruff check . && ruff format --check .

.PHONY: bench
## serving, store, batch, the way, growth: measured beside peers and floors (SECTION=serving: that one)
bench: train
	@$(MAKE) -s .venv-peers/ready || echo "bench: the peers cannot be installed here, and are left out" >&2
	@python scripts/dev/bench.py $(SECTION)

.PHONY: soak
## torture for SECONDS=60: kills, full disks, jumping clocks, hostile clients (SEED=7: these again)
soak: setup
	@python scripts/dev/torture.py --seconds $(or $(SECONDS),60) $(if $(SEED),--seed $(SEED))

.PHONY: fuzz
## any input at all, EXAMPLES=10000 for each parser, server and unpacker: a 4xx, never a crash
fuzz: $(VENV)/ready-dev-$(IMAGE)
	@EXAMPLES=$(or $(EXAMPLES),10000) python -m pytest -n0 -m fuzz --hypothesis-profile=fuzz --hypothesis-show-statistics

.PHONY: security
## checkov over the CloudFormation template, in an environment of its own
security: .venv-security/ready
	@.venv-security/bin/checkov -f orchestrator/template.yaml --framework cloudformation --compact --quiet

.PHONY: format
## let ruff mend what it can
format: $(VENV)/ready-dev-$(IMAGE)
	@ruff check --fix . && ruff format .

.PHONY: lock
## resolve the requirements anew
lock: $(VENV)/ready-dev-$(IMAGE)
	@python scripts/dev/lock.py

.PHONY: calls
## write docs/aws-calls.md anew: what the sandbox answers of AWS
calls: $(VENV)/ready-dev-$(IMAGE)
	@python scripts/dev/calls.py

.PHONY: clean
## remove what was made: models, evaluation, data, the sandbox's state
clean:
	@[ ! -d .sandbox ] || [ ! -x $(PY) ] || $(PY) scripts/sandbox.py down
	@rm -rf data/candidates.csv data/source.json data/prepared models/*.* evaluation/*.* evaluation/plots .sandbox

$(VENV)/ready-$(IMAGE): $(LOCK)
	@$(PYTHON) scripts/setup.py $(VENV) $(LOCK) --image $(IMAGE)
	@touch $@

$(VENV)/ready-dev-$(IMAGE): $(VENV)/ready-$(IMAGE) requirements-dev.txt
	@$(PY) scripts/setup.py $(VENV) requirements-dev.txt --add
	@touch $@

.venv-%/ready: requirements-%.txt
	@$(PYTHON) scripts/setup.py .venv-$* $<
	@touch $@
