#!/bin/sh
# A worker of this checkout for a Dask scheduler, and what else `dask worker` takes:
#   sh scripts/cluster/worker.sh tls://head:8786 --nworkers 16 --nthreads 1
set -eu
cd "$(dirname "$0")/../.."
export PYTHONPATH=scripts:. PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=1
export DASK_DISTRIBUTED__WORKER__DAEMON=False # a worker has processes of its own
exec .venv/bin/python -m dask worker "$@"
