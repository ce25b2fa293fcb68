"""Training off a terminal: a log that tells how far it is, and how long it takes."""

from agent.workshop.command import ProgressLines


def test_a_line_for_each_epoch() -> None:
    """Of ten batches an epoch one is told, with the time that is left."""
    told: list[str] = []
    now = iter(range(1000))
    lines = ProgressLines(told.append, clock=lambda: next(now) * 60.0)
    for batch in range(1, 31):
        detail = f"epoch {(batch - 1) // 10 + 1} of 3, loss 0.5"
        lines.report("training", batch, 30, detail)
    assert told == [
        "training: 3%, epoch 1 of 3, loss 0.5",
        "training: 37%, epoch 2 of 3, loss 0.5, 0:01:54 left",
        "training: 70%, epoch 3 of 3, loss 0.5, 0:00:54 left",
        "training: 100%, epoch 3 of 3, loss 0.5",
    ]


def test_stages_without_epochs() -> None:
    """Other stages tell that they begin and that they end."""
    told: list[str] = []
    lines = ProgressLines(told.append)
    for done in range(6):
        lines.report("opinions", done, 5, "")
    lines.report("linear", 0, 0, "")
    assert told == ["opinions: 0%", "opinions: 100%", "linear"]
