"""The part of the environment that distributed launchers set."""

from __future__ import annotations

import re
from collections.abc import Mapping

from t9k.em.capture.secrets import is_secret_name, scrub

MAX_VALUE_CHARS = 1000
"""Longer values are cut: a SLURM node list of a large job."""

_LAUNCHERS = {
    "torchrun": r"(?:LOCAL_|GROUP_|ROLE_)?(?:RANK|WORLD_SIZE)|GROUP_WORLD_SIZE|ROLE_NAME|MASTER_(?:ADDR|PORT)"
    r"|TORCHELASTIC_(?:RUN_ID|RESTART_COUNT|MAX_RESTARTS)",
    "mpi": r"OMPI_COMM_WORLD_\w+|PMI_(?:RANK|SIZE|LOCAL_RANK|LOCAL_SIZE)|PMIX_RANK|MPI_LOCAL(?:RANKID|NRANKS)"
    r"|MV2_COMM_WORLD_\w+",
    "slurm": r"SLURM_(?:ARRAY_\w+|CLUSTER_NAME|CPUS_\w+|GPUS\w*|JOB_\w+|JOBID|LOCALID|MEM_\w+|NNODES|NODEID|NODELIST"
    r"|NPROCS|NTASKS\w*|PROCID|RESTART_COUNT|STEP_(?:ID|NODELIST|NUM_\w+)|SUBMIT_HOST|TASKS_PER_NODE)",
    "kubernetes": r"KUBERNETES_SERVICE_(?:HOST|PORT)|POD_(?:NAME|NAMESPACE|IP|UID)|NODE_NAME|JOB_COMPLETION_INDEX"
    r"|PET_\w+|TF_CONFIG",
    "devices": r"(?:CUDA|NVIDIA|HIP|ROCR)_VISIBLE_DEVICES|OMP_NUM_THREADS",
}
_PATTERNS = {launcher: re.compile(pattern) for launcher, pattern in _LAUNCHERS.items()}


def read_launcher(environ: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Returns the variables of each launcher that set any, without secrets."""
    found: dict[str, dict[str, str]] = {}
    for name, value in sorted(environ.items()):
        if is_secret_name(name):
            continue
        for launcher, pattern in _PATTERNS.items():
            if pattern.fullmatch(name):
                found.setdefault(launcher, {})[name] = scrub(value)[:MAX_VALUE_CHARS]
    return found
