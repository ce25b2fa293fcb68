"""What a device must not forget: cases, answers, egress and spending, in one file."""

from agent.outbox import answers, cases, ledger, repeats, spending

VERSION = 3  # of the tables; a file of a later one is refused
SCHEMA = "".join(
    (
        *(cases.SCHEMA, answers.SCHEMA, ledger.SCHEMA),
        *(spending.SCHEMA, repeats.SCHEMA),
        f"PRAGMA user_version = {VERSION};",
    )
)
