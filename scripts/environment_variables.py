"""The environment variables of docs/options.md. The code reads each where it needs it, so they are listed here."""

from __future__ import annotations

from scripts.markdown_table import table

OWN = {
    "GRPO_HOME": "folder of what runs leave behind: adapters, checkpoints, events, baselines, traces. Default: `.grpo` "
    "in the working folder",
    "GRPO_CACHE": "folder of what is built once: the embedded models, the compiled kernels, environments with other "
    "packages. Default: `pytest-grpo` in the user's cache folder",
    "GRPO_THRESHOLD": "replaced bounds, as `--grpo-threshold`, separated by commas or spaces: "
    "`batched_speedup=1.5,panel_latency_s=3`. Wins over the ini value, not over the option",
    "GRPO_MODAL_GPU": "GPU of the Modal app: `L4` (default), `H100`, `H100:8`, …, or `none` for a CPU",
    "GRPO_LAUNCHER": "process id of `grpo train --processes`, which sets it for the processes that it starts: they end "
    "with it",
    "GRPO_MODAL_SECRETS": "names of Modal secrets to attach to its containers, separated by commas: "
    "`wandb-secret,axiom-secrets`",
    "CC": "C compiler of the kernels. Default: the first of `cc`, `gcc`, `clang` that is there. Without one the slower "
    "torch path runs",
}
CREDENTIALS = {
    "WANDB_API_KEY": "logs training to Weights & Biases, unless `telemetry.wandb` says otherwise",
    "WANDB_MODE": "`online`, `offline` or `disabled`; wins over the presence of the key",
    "WANDB_PROJECT": "project there. Default: `pytest-grpo`",
    "WANDB_BASE_URL": "a W&B server of one's own. Default: W&B's cloud",
    "WANDB_ENTITY": "team or user there. Default: what the key's user has chosen",
    "WANDB_RUN_GROUP": "group of the runs there. Default: the environment",
    "WANDB_RUN_ID": "id of the run there. Default: a new one, and the same when the run is resumed",
    "WANDB_TAGS": "tags of the runs there, separated by commas. Default: environment, engine, loss and method",
    "AXIOM_TOKEN": "sends events to Axiom, together with `AXIOM_DATASET`; one without the other is an error",
    "AXIOM_DATASET": "dataset there",
    "AXIOM_URL": "another address of Axiom; it starts with `https://` or `http://`",
    "AXIOM_ORG_ID": "organisation there, which personal tokens need",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "sends spans and metrics there over OTLP/HTTP, unless `telemetry.otel` is `off`",
    "OTEL_EXPORTER_OTLP_HEADERS": "headers of these requests, such as a key: `name=value,name=value`",
    "OTEL_SERVICE_NAME": "name of the service there. Default: `pytest-grpo`",
    "OTEL_RESOURCE_ATTRIBUTES": "more attributes of the run there: `name=value,name=value`",
    "OTEL_SDK_DISABLED": "`true`: nothing is sent there",
    "MODAL_TOKEN_ID": "account of Modal, read by its SDK. `modal token new` stores it in a file instead",
    "MODAL_TOKEN_SECRET": "the second half of it",
}
FOREIGN = {
    "CUDA_VISIBLE_DEVICES": "empty or `-1`: no GPU is used, and the thresholds are those of `cpu`",
    "OMP_NUM_THREADS": "threads of torch and of the kernels",
    "HF_HOME": "folder of models that transformers downloads",
    "XDG_CACHE_HOME": "the user's cache folder, in which `GRPO_CACHE` is by default. Default: `~/.cache`",
    "WORLD_SIZE": "number of training processes; set by torchrun",
    "RANK": "number of this training process; set by torchrun",
    "LOCAL_RANK": "which of this machine's GPUs is the process's own; set by torchrun",
    "GITHUB_ACTIONS": "`true`: red gates become annotations of the workflow",
    "GITHUB_STEP_SUMMARY": "file to which the table of verdicts is added",
    "GITHUB_WORKSPACE": "folder that the paths of annotations begin at",
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "set: phases in a process of their own load the plugin by `PYTEST_PLUGINS`",
    "PYTHONPATH": "folders outside of the repository stay on it during `grpo bisect`",
}
INTERNAL = {
    "GRPO_BISECT_ROWS": "file for the verdicts of a commit",
    "GRPO_BISECT_MAIN_TREE": "the user's working tree, from which nothing may be imported",
}
GROUPS = {
    "For you to set": OWN,
    "Credentials": CREDENTIALS,
    "Of other programs, and read here": FOREIGN,
    "Set by `grpo bisect` for its own processes": INTERNAL,
}


def environment_tables() -> str:
    parts = []
    for title, variables in GROUPS.items():
        rows = [(f"`{name}`", text) for name, text in variables.items()]
        parts.append(f"{title}:\n\n{table(('variable', 'what for'), rows)}\n")
    return "\n".join(parts)
