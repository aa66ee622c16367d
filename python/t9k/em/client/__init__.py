"""The client's half of `docs/protocol.md`, over requests. Nothing here is imported by `from t9k import em`.

- `connection` knows the session that this process is logged in with.
- `session` sends one request, and again where that is safe.
- `problems` turns what a server refuses into the errors of `t9k.em.errors`.
- `artifacts`, `nodes` and `runs` have a function for each request of the protocol.
"""
