# Every target is one line over a script; `make` alone prints them.
PYTHON ?= python3
IMAGE := $(shell sed -n 's/^image: *\([^ \#]*\).*/\1/p' params.yaml)
LOCK := requirements$(if $(filter-out 1.9-0,$(IMAGE)),-$(IMAGE)).txt
VENV := .venv
PY := $(VENV)/bin/python
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# What the user's shell says of another Python, or of how to run one.
unexport PYTHONHOME PYTHONPATH PYTHONSAFEPATH PYTHONINSPECT PYTHONOPTIMIZE PYTHONWARNINGS
# As modules: the scripts in bin/ name their Python by its path, which a checkout that was moved or
# copied has no longer. -P: a file in this folder is none of its modules.
DVC := python -P -m dvc
# The shell takes values as they are, spaces and quotes included.
NAMED := $${PAYLOAD:+"$$PAYLOAD"}
FILES := INPUT=night.csv OUTPUT=scored.csv

# DVC wants to be told where Git does not know it: in an archive that was downloaded, say.
ifneq ($(shell git ls-files --error-unmatch dvc.yaml 2>&1),dvc.yaml)
export DVC_SYSTEM_CONFIG_DIR := $(CURDIR)/.dvc/without-git
endif

# Work by Dask wants its packages, wherever that is.
WORKERS := $(if $(CLUSTER),cluster-setup,setup)
BY := $${CLUSTER:+--cluster "$$CLUSTER"}

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
	@python scripts/fetch.py --stale; case $$? in \
	0) $(DVC) repro -q --force --single-item fetch ;; 3) ;; *) exit 1 ;; esac
	@$(DVC) repro -q

.PHONY: deploy
## the whole way: train, package, upload, provision, wait, predict
deploy: upload provision wait predict

.PHONY: status
## every pipeline: how it is doing, which version, since when (PAYLOAD=file or name: one in detail)
status: setup
	@python scripts/status.py $(NAMED)

.PHONY: predict
## ask the endpoint about a pulsar and a piece of noise (INPUT=a table or candidate file: about yours)
predict: setup
	@python scripts/predict.py $${PAYLOAD:+--payload "$$PAYLOAD"} $${INPUT:+--input "$$INPUT"} $(OPTIONS)

.PHONY: score
## score INPUT=night.csv into OUTPUT=scored.csv with the packaged model, millions of rows (CLUSTER=local)
score: $(WORKERS)
	@python scripts/score.py "$${INPUT:?is missing. Next: make score $(FILES)}" \
	-o "$${OUTPUT:?is missing. Next: make score $(FILES)}" $(BY) $(OPTIONS)

.PHONY: rank
## candidate files (.phcx, .phcx.gz, .pfd) in INPUT=folder to a list, best first, OUTPUT=ranked.csv
rank: $(WORKERS)
	@python scripts/rank.py "$${INPUT:?is missing. Next: make rank INPUT=folder OUTPUT=ranked.csv}" \
	-o "$${OUTPUT:?is missing. Next: make rank INPUT=folder OUTPUT=ranked.csv}" $(BY) $(OPTIONS)

.PHONY: sheets
## a picture of each candidate of INPUT=ranked.csv (or of files), and a page of the best, in OUTPUT=sheets
sheets: setup
	@python scripts/sheets.py "$${INPUT:?is missing. Next: make sheets INPUT=ranked.csv OUTPUT=sheets}" \
	-o "$${OUTPUT:?is missing. Next: make sheets INPUT=ranked.csv OUTPUT=sheets}" $(OPTIONS)

.PHONY: batch
## the same by a batch pipeline: upload, provision, wait, fetch (INPUT=folder of candidate files, OUTPUT=folder)
batch: upload
	@python scripts/batch.py "$${INPUT:?is missing. Next: make batch $(FILES)}" \
	-o "$${OUTPUT:?is missing. Next: make batch $(FILES)}" $${PAYLOAD:+--payload "$$PAYLOAD"} $(OPTIONS)

.PHONY: monitor
## check now what the endpoint has captured: payloads/pulsar-data-quality.json, or PAYLOAD=
monitor: train $(PLACE)
	@python scripts/monitor.py $(NAMED)

.PHONY: destroy
## delete every pipeline and stop the sandbox (PAYLOAD=file: that pipeline alone)
destroy: setup
	@python scripts/destroy.py $(NAMED)
	@$(if $(PAYLOAD)$(filter aws,$(TARGET)),true,python scripts/sandbox.py down)

##@ single steps

.PHONY: fetch
## get the candidates again
fetch: setup
	@$(DVC) repro --force --single-item fetch

.PHONY: evaluate
## scores, plots and evaluation/report.html (ON=labelled.csv: what the models are worth on that table)
evaluate: setup
	@$(if $(ON),python scripts/evaluate.py --on "$$ON" $(OPTIONS),$(DVC) repro report)

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
	@python scripts/provision.py $(NAMED)

.PHONY: wait
## follow the pipeline until it is in service or has failed
wait: $(PLACE)
	@python scripts/status.py --wait $(NAMED)

.PHONY: cluster-setup
## add Dask to it: for CLUSTER=local, slurm, htcondor or tls://host:port of score and rank
cluster-setup: $(VENV)/ready-cluster-$(IMAGE)

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
	@python scripts/cost.py $(NAMED)

##@ development

.PHONY: test
## the quick tests (ALL=1: the slow ones too; ONLY=tests/test_model.py: these)
test: $(VENV)/ready-dev-$(IMAGE) $(VENV)/ready-cluster-$(IMAGE)
	@python -m pytest $(if $(ALL),-m "") $(ONLY)

.PHONY: lint
## ruff: lint and format
lint: $(VENV)/ready-dev-$(IMAGE)
	@python -m ruff check . && python -m ruff format --check .

.PHONY: bench
## serving, store, batch, cluster, the way, growth: measured beside peers and floors (SECTION=serving: that one)
bench: train cluster-setup
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
	@.venv-security/bin/python -m checkov.main -f orchestrator/template.yaml --framework cloudformation --compact --quiet

.PHONY: format
## let ruff mend what it can
format: $(VENV)/ready-dev-$(IMAGE)
	@python -m ruff check --fix . && python -m ruff format .

.PHONY: lock
## resolve the requirements anew
lock: $(VENV)/ready-dev-$(IMAGE)
	@python scripts/dev/lock.py

.PHONY: calls
## write docs/aws-calls.md anew: what the sandbox answers of AWS
calls: $(VENV)/ready-dev-$(IMAGE)
	@python scripts/dev/calls.py

.PHONY: clean
## remove what was made: models, evaluation, data, .sandbox; DVC's cache stays
clean:
	@[ ! -d .sandbox ] || $(MAKE) -s sandbox-down SANDBOX_DIR=
	@rm -rf data/candidates.csv data/source.json data/prepared models/*.* evaluation/*.* evaluation/plots .sandbox

# An environment whose Python is gone, or has become another, is made anew.
ifneq ($(wildcard $(VENV)/ready-$(IMAGE)),)
ifneq ($(shell $(PY) -I -c 'import yaml' 2>/dev/null || echo broken),)
.PHONY: $(VENV)/ready-$(IMAGE)
endif
endif

$(VENV)/ready-$(IMAGE): $(LOCK)
	@$(PYTHON) scripts/setup.py $(VENV) $(LOCK) --image $(IMAGE)
	@touch $@

$(VENV)/ready-dev-$(IMAGE) $(VENV)/ready-cluster-$(IMAGE): \
$(VENV)/ready-%-$(IMAGE): $(VENV)/ready-$(IMAGE) requirements-%.txt
	@$(PY) scripts/setup.py $(VENV) requirements-$*.txt --add
	@touch $@

.venv-%/ready: requirements-%.txt
	@$(PYTHON) scripts/setup.py .venv-$* $<
	@touch $@
