"""Pipelines: what was asked for, by the threshold that the bundle knows."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from agent.cli.demo_session import read_messages
from agent.config.load import Config, load
from agent.core.errors import ConfigError
from agent.core.types import (
    Entity,
    Form,
    Guarantee,
    Prediction,
    Reason,
    Resolved,
    Tier,
    Unresolved,
)
from agent.inference.calibration import Calibration, Threshold
from agent.inference.decide import Forms, Policy
from agent.inference.pipeline import bundles_of, open_pipelines, policy
from harness.tiny import arrived, seal, write_bundle, write_calibration

GUESS = Prediction(
    Tier.ENCODER, "lamp_on", 0.95, (Entity("place", "kitchen", 0, 7, 0.99),), 0.96
)


def configured(tmp_path: Path, on_mismatch: str = "refuse", **pipelines: str) -> Config:
    """Return a configuration with these pipelines; `tiny` is the one bundle."""
    if not (tmp_path / "models" / "tiny").exists():
        write_bundle(tmp_path / "models" / "tiny")
    (tmp_path / "pipelines").mkdir(exist_ok=True)
    for name, toml in pipelines.items():
        (tmp_path / "pipelines" / f"{name}.toml").write_text(toml)
    path = tmp_path / "agent.toml"
    path.write_text(
        'device = {id = "pi-3"}\n'
        f'models = {{dir = "models", on_mismatch = "{on_mismatch}"}}\n'
        f'pipelines = {{dir = "pipelines", enable = {list(pipelines)}}}\n'
    )
    return load(path)


def toml(kind: str = "understand", more: str = "", bundle: str = "tiny") -> str:
    """Return a pipeline file."""
    return (
        f'kind = "{kind}"\ninput = {{topics = ["home/+/utterance"]}}\n'
        f'model = {{bundle = "{bundle}"}}\n{more}'
    )


@pytest.mark.parametrize("name", ["home", "maintenance"])
def test_an_answer_depends_on_the_text_alone(name: str) -> None:
    """Shipped int8 bundles answer alone as in company, by no bit otherwise."""
    [pipeline] = open_pipelines(load(None, enable=(name,)))
    texts = [text for text in read_messages(None) if len(text) < 200]
    alone = [pipeline.bundle.predict([text], lambda _: False)[0] for text in texts]
    assert pipeline.bundle.predict(texts, lambda _: False) == alone


OLD = Forms(
    frozenset({Form.REQUEST, Form.QUESTION, Form.STATEMENT, Form.CONDITIONAL})
    | {Form.DELAYED}
)


def test_open(tmp_path: Path) -> None:
    """A pipeline is its file, its bundle, and topics with sensible names."""
    [pipeline] = open_pipelines(configured(tmp_path, home=toml()))
    assert pipeline.name == "home"
    assert pipeline.bundle.id == "tiny@1.0.0"
    assert pipeline.result_topic == "slm/pi-3/result/home"
    assert pipeline.dead_letter_topic == "slm/pi-3/deadletter/home"
    assert pipeline.policy == Policy(Guarantee.LABEL, 0.5, 0.05, forms=OLD)


def test_own_result_topic(tmp_path: Path) -> None:
    """A pipeline may say where its results go."""
    config = configured(tmp_path, home=toml(more='output = {topic = "intents"}'))
    [pipeline] = open_pipelines(config)
    assert pipeline.result_topic == "intents"
    assert pipeline.dead_letter_topic == "slm/pi-3/deadletter/home"


def test_one_bundle_is_loaded_once(tmp_path: Path) -> None:
    """Pipelines of one bundle share it."""
    config = configured(tmp_path, one=toml(), two=toml("classify"))
    one, two = open_pipelines(config)
    assert one.bundle is two.bundle
    assert bundles_of([one, two]) == [one.bundle]


def test_two_bundles_of_one_name(tmp_path: Path) -> None:
    """Two folders that call themselves the same would be taken for one another."""
    write_bundle(tmp_path / "models" / "copy")
    seal(tmp_path / "models" / "copy", name="tiny")
    config = configured(tmp_path, one=toml(), two=toml(bundle="copy"))
    with pytest.raises(
        ConfigError, match=r"copy: another bundle is called tiny@1\.0\.0"
    ):
        open_pipelines(config)


@pytest.mark.parametrize(
    ("kind", "has", "said"),
    [
        ("understand", {"labels": []}, "wants the bundle tiny@1.0.0 to classify"),
        ("understand", {"entities": []}, "to extract"),
        ("classify", {"labels": []}, "to classify"),
        ("extract", {"entities": []}, "to extract"),
        ("classify", {"entities": []}, None),
        ("extract", {"labels": []}, None),
    ],
)
def test_bundle_must_be_able(
    tmp_path: Path, kind: str, has: dict[str, list[str]], said: str | None
) -> None:
    """A pipeline cannot want what its bundle cannot do."""
    write_bundle(tmp_path / "models" / "tiny", **has)
    config = configured(tmp_path, home=toml(kind))
    if said is None:
        assert len(open_pipelines(config)) == 1
    else:
        with pytest.raises(ConfigError, match=said):
            open_pipelines(config)


@pytest.mark.parametrize(
    ("kind", "label", "entities"),
    [("understand", "lamp_on", 1), ("classify", "lamp_on", 0), ("extract", None, 1)],
)
def test_judge(tmp_path: Path, kind: str, label: str | None, entities: int) -> None:
    """What a pipeline did not ask for is left out of its decisions."""
    [pipeline] = open_pipelines(configured(tmp_path, home=toml(kind)))
    decision = pipeline.decide(GUESS)
    assert isinstance(decision, Resolved)
    assert decision.prediction.label == label
    assert (decision.prediction.score is None) == (label is None)
    assert len(decision.prediction.entities) == entities
    assert (decision.prediction.entities_score is None) == (entities == 0)


def calibration(*rows: tuple[float, float], of: Guarantee) -> Calibration:
    """Return a calibration of (max_error, threshold) for one guarantee."""
    return Calibration(
        fingerprint="0" * 64,
        runtime="none",
        data="none",
        fitted_on=1,
        certified_on=1,
        confidence=0.95,
        tiers=[],
        tables={
            of: [
                Threshold(max_error=e, threshold=t, coverage=0.5, error=e)
                for e, t in rows
            ]
        },
    )


LABEL, ENTITIES, BOTH = Guarantee


@pytest.mark.parametrize(
    ("kind", "decide", "rows", "expected"),
    [
        ("understand", "max_error=0.05", [(0.02, 0.9), (0.05, 0.5)], (LABEL, 0.5)),
        ("understand", "max_error=0.04", [(0.02, 0.9), (0.05, 0.5)], (LABEL, 0.9)),
        ("understand", "max_error=0.99", [(0.05, 0.5), (0.02, 0.9)], (LABEL, 0.5)),
        ("understand", "max_error=0.01", [(0.02, 0.9)], (LABEL, None)),
        ("classify", "max_error=0.05", [], (LABEL, None)),
        ("extract", "max_error=0.05", [(0.05, 0.7)], (ENTITIES, 0.7)),
        ("understand", 'guarantee="both"', [(0.05, 0.7)], (BOTH, 0.7)),
        ("understand", 'guarantee="entities"', [(0.05, 0.7)], (ENTITIES, 0.7)),
    ],
)
def test_policy(
    tmp_path: Path,
    kind: str,
    decide: str,
    rows: list[tuple[float, float]],
    expected: tuple[Guarantee, float | None],
) -> None:
    """The threshold is that of the largest error which is still allowed.

    It is from the table of what is guaranteed, and its bound is stated: that of the
    row, not what was asked.
    """
    config = configured(tmp_path, home=toml(kind, f"decide = {{{decide}}}"))
    guarantee, threshold = expected
    made = calibration(*rows, of=guarantee)
    bounds = {t: e for e, t in rows}
    found = policy(config.pipelines["home"], made)
    assert found == Policy(guarantee, threshold, threshold and bounds[threshold])
    for other in {*Guarantee} - {guarantee}:
        made = calibration((0.01, 0.1), of=other)
        assert policy(config.pipelines["home"], made) == Policy(guarantee, None)


@pytest.mark.parametrize(
    ("fits", "certified", "bound"),
    [(True, True, 0.03), (False, True, None), (True, False, None)],
)
def test_bound_is_stated_where_it_holds(
    tmp_path: Path, *, fits: bool, certified: bool, bound: float | None
) -> None:
    """A calibration of something else or on made-up texts keeps its threshold only."""
    config = configured(tmp_path, home=toml())
    made = calibration((0.03, 0.7), of=LABEL)
    made = made.model_copy(update={"certified": certified})
    found = policy(config.pipelines["home"], made, fits=fits)
    assert found == Policy(LABEL, 0.7, bound)


@pytest.mark.parametrize(
    ("floor", "threshold", "bound"),
    [
        (0.0, 0.5, 0.05),
        (0.4, 0.5, 0.05),  # never lowers what is certified
        (0.6, 0.6, 0.05),
        (0.9, 0.9, 0.05),  # the strictest that was certified, for 0.01
        (0.91, 0.91, None),  # nobody tried
    ],
)
def test_operators_may_ask_for_surer_answers(
    tmp_path: Path, floor: float, threshold: float, bound: float | None
) -> None:
    """`min_score` only raises the threshold; bounds stand where they were certified."""
    decide = f"decide = {{max_error = 0.06, min_score = {floor}}}"
    config = configured(tmp_path, home=toml(more=decide))
    made = calibration((0.01, 0.9), (0.05, 0.5), (0.1, 0.2), of=LABEL)
    found = policy(config.pipelines["home"], made)
    assert found == Policy(LABEL, threshold, bound)
    none = policy(config.pipelines["home"], calibration((0.1, 0.2), of=LABEL))
    assert (none.threshold, none.error_bound) == (None, None)


@pytest.mark.parametrize(
    ("floor", "floored"), [(0.0, False), (0.4, False), (0.6, True)]
)
def test_it_is_known_which_key_decides(
    tmp_path: Path, floor: float, *, floored: bool
) -> None:
    """`check` and `explain` name `min_score` only where it is the stricter one."""
    config = configured(tmp_path, home=toml(more=f"decide = {{min_score = {floor}}}"))
    [pipeline] = open_pipelines(config)
    assert pipeline.policy.threshold == max(0.5, floor)
    assert pipeline.floored is floored


# -- a calibration that was made with something else


def mismatched(tmp_path: Path, on_mismatch: str) -> Config:
    """Return a configuration whose bundle's calibration is for another model."""
    folder = write_bundle(tmp_path / "models" / "tiny", cascade=True)
    write_calibration(folder, fingerprint="0" * 64)
    return configured(tmp_path, on_mismatch, home=toml())


def test_mismatch_is_refused(tmp_path: Path) -> None:
    """Unless told otherwise, the daemon does not start with scores it cannot trust."""
    write_bundle(tmp_path / "models" / "tiny")
    write_calibration(tmp_path / "models" / "tiny", fingerprint="0" * 64)
    config = configured(tmp_path, home=toml())
    with pytest.raises(ConfigError, match=r"tiny: the calibration .*slm-agent calibra"):
        open_pipelines(config)


def test_mismatch_escalates_all(tmp_path: Path) -> None:
    """`escalate_all` resolves nothing, says why, and asks no tier in vain."""
    [pipeline] = open_pipelines(mismatched(tmp_path, "escalate_all"))
    for decision in pipeline.answer(["turn on", "turn on in the kitchen"]):
        assert isinstance(decision, Unresolved)
        assert decision.reason is Reason.UNCALIBRATED
        assert decision.prediction is not None
        assert decision.prediction.by is Tier.ENCODER  # the best guess there is
        assert decision.prediction.label == "lamp_on"


def test_mismatch_warns(tmp_path: Path) -> None:
    """`warn` resolves as before, without stating a bound, and says so once a bundle."""
    with capture_logs() as logs:
        [pipeline] = open_pipelines(mismatched(tmp_path, "warn"))
    [warning] = logs
    assert (warning["event"], warning["log_level"]) == (
        "calibration_mismatch",
        "warning",
    )
    assert warning["bundle"] == "tiny@1.0.0"
    [decision] = pipeline.answer(["turn on"])
    assert isinstance(decision, Resolved)
    assert decision.error_bound is None


def test_own_calibration(tmp_path: Path) -> None:
    """An operator's calibration beside the pipeline's file is used, for it alone."""
    config = configured(tmp_path, one=toml(), two=toml())
    rows = [{"max_error": 0.03, "threshold": 0.75, "coverage": 0.9, "error": 0.01}]
    write_calibration(
        tmp_path / "models" / "tiny",
        tmp_path / "pipelines" / "one.calibration.json",
        tables={"label": rows},
    )
    one, two = open_pipelines(config)
    assert one.policy == Policy(LABEL, 0.75, 0.03, forms=OLD)
    assert two.policy == Policy(LABEL, 0.5, 0.05, forms=OLD)


def test_own_calibration_of_another_model(tmp_path: Path) -> None:
    """An operator's calibration is left behind by a new model: that is found."""
    config = configured(tmp_path, home=toml())
    write_calibration(
        tmp_path / "models" / "tiny",
        tmp_path / "pipelines" / "home.calibration.json",
        fingerprint="0" * 64,
    )
    with pytest.raises(ConfigError, match="made with another model"):
        open_pipelines(config)


def test_damaged_own_calibration(tmp_path: Path) -> None:
    """A file that is no calibration is named, and the bundle's own is no substitute."""
    config = configured(tmp_path, home=toml())
    (tmp_path / "pipelines" / "home.calibration.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"home\.calibration\.json"):
        open_pipelines(config)


@pytest.mark.parametrize("on_mismatch", ["refuse", "escalate_all", "warn"])
def test_flipped_probe_is_refused(tmp_path: Path, on_mismatch: str) -> None:
    """A model that answers otherwise here than where it was made is never started."""
    folder = write_bundle(tmp_path / "models" / "tiny")
    path = folder / "probes.jsonl"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"label": "chat"}))
    seal(folder)
    config = configured(tmp_path, on_mismatch, home=toml())
    with pytest.raises(
        ConfigError,
        match=r"differently on this machine .*\(1 of 1 probes\), first "
        r"'turn on the lamp in the kitchen': lamp_on, expected chat",
    ):
        open_pipelines(config)
    assert len(open_pipelines(config, probe=False)) == 1


# -- at work


def test_answer(tmp_path: Path) -> None:
    """The first tier that the policy lets stand answers; its bound is stated."""
    write_bundle(tmp_path / "models" / "tiny", cascade=True)
    [pipeline] = open_pipelines(configured(tmp_path, home=toml()))
    texts = ["turn on", "turn on in the kitchen", "the"]
    found = pipeline.answer(texts)
    assert [d.prediction and d.prediction.by for d in found] == [
        Tier.LINEAR,
        Tier.ENCODER,
        Tier.ENCODER,
    ]
    assert [isinstance(d, Resolved) for d in found] == [True, True, False]
    assert isinstance(found[0], Resolved)
    assert found[0].error_bound == 0.05


def test_a_stricter_pipeline_asks_further(tmp_path: Path) -> None:
    """What is sure enough for one pipeline may not be for another of its bundle."""
    write_bundle(tmp_path / "models" / "tiny", cascade=True)
    both = toml(more='decide = {guarantee = "both", max_error = 0.02}')
    lax, strict = open_pipelines(configured(tmp_path, lax=toml(), strict=both))
    # sure of the label, but not that nothing else is to be found: 0.9987 x 0.92
    text = "turn on the lamp"
    policy = replace(strict.policy, threshold=0.99)
    [one], [other] = lax.answer([text]), replace(strict, policy=policy).answer([text])
    assert one.prediction is not None
    assert other.prediction is not None
    assert one.prediction.by is Tier.LINEAR
    assert other.prediction.by is Tier.ENCODER


@pytest.mark.parametrize(
    ("own", "topic", "told", "wanted"),
    [
        (("home/+/utterance",), "home/x/utterance", None, True),
        (("$share/g/home/+/utterance",), "home/x/utterance", None, True),
        (("a", "home/#"), "home/x/utterance", None, True),
        (("home/+",), "home/x/utterance", None, False),
        (("home/#",), "home/x/utterance", ["home/+/utterance"], False),
        (("home/#",), "home/x/utterance", ["home/+/utterance", "home/#"], True),
        (("$share/g/a",), "a", ["$share/g/a"], True),
        (("a",), "a", ["$share/g/a"], False),
    ],
)
def test_wants(
    tmp_path: Path,
    own: tuple[str, ...],
    topic: str,
    told: list[str] | None,
    *,
    wanted: bool,
) -> None:
    """The broker's word on which filter matched counts; without it the topic does."""
    [pipeline] = open_pipelines(configured(tmp_path, home=toml()))
    message = arrived(topic=topic)
    assert replace(pipeline, filters=own).wants(message, told) is wanted


UPSTREAM = '\n[upstream]\ntransport = "http"\nurl = "http://127.0.0.1:1"\nmodel = "m"\n'


def redacting(tmp_path: Path, privacy: str) -> Config:
    """Return a configuration that may ask upstream, with this table `privacy`."""
    configured(tmp_path, home=toml(more=f"[privacy]\n{privacy}\n"))
    path = tmp_path / "agent.toml"
    path.write_text(path.read_text() + UPSTREAM)
    return load(path)


def test_patterns_and_scripts_of_an_operator(tmp_path: Path) -> None:
    """They come compiled with what the pipeline may send."""
    text = 'patterns = { BADGE = "B-[0-9]{5}" }\nscripts = ["CYRILLIC"]'
    [pipeline] = open_pipelines(redacting(tmp_path, text))
    assert pipeline.plan is not None
    assert pipeline.plan.scripts == {"CYRILLIC"}
    assert list(pipeline.plan.patterns["BADGE"].spans("is B-12345.")) == [(3, 10)]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('patterns = { BADGE = "(?=a)b" }', r"privacy.patterns.BADGE.*RE2.*\(\?="),
        ('patterns = { BADGE = "(a)\\\\1" }', r"privacy.patterns.BADGE.*linear time"),
        ('patterns = { badge = "a" }', "privacy.patterns.badge"),
        ('scripts = ["KLINGON"]', "privacy.scripts: 'KLINGON' is unknown to Unicode"),
        ('scripts = ["LATIN"]', "privacy.scripts: 'LATIN'"),
    ],
)
def test_what_cannot_be_hidden_is_refused(
    tmp_path: Path, text: str, error: str
) -> None:
    """A pattern without linear time, a type in small letters, no script: one line."""
    with pytest.raises(ConfigError, match=error):
        open_pipelines(redacting(tmp_path, text))


def test_a_catastrophic_rule_is_judged_at_once(tmp_path: Path) -> None:
    """An operator's pattern takes linear time on whatever words a sender chose."""
    rule = '[fields.place]\npattern = "(a+)+b"\n'
    [pipeline] = open_pipelines(configured(tmp_path, home=toml(more=rule)))
    words = "a" * 50_000
    place = Entity("place", words, 0, len(words), 0.99)
    found = pipeline.decide(replace(GUESS, entities=(place,)))
    assert isinstance(found, Unresolved)
    assert found.reason is Reason.INVALID_FIELD


def test_a_rule_without_linear_time_is_refused(tmp_path: Path) -> None:
    """Look-around in a rule for entities is an error that names its key."""
    rule = '[fields.place]\npattern = "a(?!b)"\n'
    with pytest.raises(ConfigError, match=r"fields.place.pattern.*look-around"):
        configured(tmp_path, home=toml(more=rule))


def claimed(label: int, wrong: int, number: int = 400) -> list[str]:
    """Return lines of claims with a label: surer ones first, the last ones wrong."""
    return [
        f"{label},{9999 - place},{place < number - wrong:d}" for place in range(number)
    ]


def test_labels_with_an_error_of_their_own(tmp_path: Path) -> None:
    """Labels with a stricter error are certified as a group, the others without them.

    The last ten of 400 answers with `lamp_on` are wrong: 0.01 is certified above them.
    """
    lines = [*claimed(1, wrong=10), *claimed(0, wrong=0), *claimed(2, wrong=0)]
    more = "decide.labels.lamp_on.max_error = 0.01"
    config = configured(tmp_path, home=toml(more=more))
    write_calibration(
        tmp_path / "models" / "tiny",
        tmp_path / "pipelines" / "home.calibration.json",
        claims={"label": "\n".join(lines)},
    )
    [pipeline] = open_pipelines(config)
    own, other = (pipeline.policy.limit_of(label) for label in ("lamp_on", "chat"))
    assert own.error_bound == 0.01
    assert own.threshold is not None
    assert 0.9609 < own.threshold < 0.9700
    assert other == pipeline.policy.limit_of("lamp_off")
    assert other.error_bound == 0.05
    assert other.threshold == 0.9600  # all that there are


def test_too_few_claims_certify_nothing(tmp_path: Path) -> None:
    """A label whose answers cannot carry its error is never resolved here."""
    config = configured(
        tmp_path, home=toml(more="decide.labels.lamp_on.max_error = 0.01")
    )
    write_calibration(
        tmp_path / "models" / "tiny",
        tmp_path / "pipelines" / "home.calibration.json",
        claims={"label": "\n".join(claimed(1, wrong=0, number=200))},
    )
    [pipeline] = open_pipelines(config)
    assert pipeline.policy.limit_of("lamp_on").threshold is None
    assert isinstance(pipeline.answer(["turn on"])[0], Unresolved)


@pytest.mark.parametrize(
    ("more", "label", "allowed"),
    [
        ("", "chat", OLD.default),
        ('decide.forms = ["request"]', "chat", {Form.REQUEST}),
        (
            'decide = {forms = ["request"], labels.chat.forms = ["question"]}',
            "chat",
            {Form.QUESTION},
        ),
        (
            'decide = {forms = ["request"], labels.chat.forms = ["question"]}',
            "lamp_on",
            {Form.REQUEST},
        ),
    ],
)
def test_forms_of_a_pipeline(
    tmp_path: Path, more: str, label: str, allowed: set[Form]
) -> None:
    """The operator says which forms are answered, for all labels or for one."""
    [pipeline] = open_pipelines(configured(tmp_path, home=toml(more=more)))
    assert pipeline.policy.forms.of(label) == allowed


def test_a_form_that_is_not_allowed_is_not_resolved(tmp_path: Path) -> None:
    """A command that is negated ends unresolved, with that as the reason."""
    [pipeline] = open_pipelines(configured(tmp_path, home=toml()))
    plain, negated = pipeline.answer(["turn on", "don't turn on"])
    assert isinstance(plain, Resolved)
    assert isinstance(negated, Unresolved)
    assert negated.reason is Reason.NEGATED


def test_a_bound_is_for_the_forms_it_was_certified_with(tmp_path: Path) -> None:
    """A pipeline that answers other forms than were certified states no bound."""
    config = configured(tmp_path, home=toml(more='decide.forms = ["request"]'))
    folder = tmp_path / "models" / "tiny"
    own = tmp_path / "pipelines" / "home.calibration.json"
    bounds = []
    for forms in ({"": ["request"]}, {"": ["request", "question"]}):
        write_calibration(folder, own, forms=forms)
        [pipeline] = open_pipelines(config)
        bounds.append(pipeline.policy.error_bound)
    assert bounds == [0.05, None]
