"""The durable state of a device in one SQLite file.

Tables: cases, cached answers, egress ledger, spending, requests without an answer.
"""

from agent.outbox import answers, cases, idempotency, ledger, spending

OUTBOX = "outbox.db"  # the file, below state.dir
VERSION = 3  # of the tables; a file with a later version is refused
SCHEMA = "".join(
    (
        cases.SCHEMA,
        answers.SCHEMA,
        ledger.SCHEMA,
        spending.SCHEMA,
        idempotency.SCHEMA,
        f"PRAGMA user_version = {VERSION};",
    )
)
