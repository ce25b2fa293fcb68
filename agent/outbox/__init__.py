"""What a device must not forget: cases, answers, egress and spending, in one file."""

from agent.outbox import answers, cases, idempotency, ledger, spending

VERSION = 3  # of the tables; a file of a later one is refused
SCHEMA = "".join(
    (
        *(cases.SCHEMA, answers.SCHEMA, ledger.SCHEMA),
        *(spending.SCHEMA, idempotency.SCHEMA),
        f"PRAGMA user_version = {VERSION};",
    )
)
