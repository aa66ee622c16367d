"""A run's record on its way to the server while it grows, from a process of its own.

```text
script ─ files of the run's directory ─ helper process ─ server
                  └── .sync.json: what the server has acknowledged of them
```

The directory is the queue. Nothing is copied, so nothing can be lost between a queue and the record, and a queue cannot
grow beyond the record: a limit of its size would be a second limit of the disk. The script writes files and nothing
else; whatever happens to the network or the server happens to the helper.

- `state` is what `.sync.json` holds, `lock` lets one process at a time send a run.
- `push` sends what the server lacks, `artifacts` those that the run has marked.
- `send` pushes all that there is, for `Run.upload`, `em upload` and `em sync`.
- `helper` is the process, `auto` the script's hold on it.
"""
