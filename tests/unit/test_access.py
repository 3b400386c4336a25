"""Tokens, roles, scopes and rates, without a service."""

from __future__ import annotations

import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import ValidationError

from sampler_service.access import (
    EVERYBODY,
    AuthSettings,
    Credential,
    Gate,
    PermissionDenied,
    Principal,
    RateLimiter,
    Role,
    Throttled,
    TokenFileError,
    Unauthenticated,
)
from sampler_service.access import gate as gate_module
from sampler_service.access.credentials import digest, new_token, read_token_file, write_token_file

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


def credential(
    name: str = "a", token: str = "token of a", role: Role = Role.TRAIN, **more: object
) -> Credential:
    return Credential.model_validate({"name": name, "sha256": digest(token), "role": role, **more})


def gate_for(*credentials: Credential, now: datetime = NOON) -> Gate:
    return Gate(AuthSettings(tokens=credentials), now=now.timestamp)


def show(gate: Gate, token: str, address: str = "10.0.0.1") -> Principal:
    return gate.authenticate(f"Bearer {token}", (), address)


def test_without_credentials_in_the_settings_everybody_may_do_everything():
    assert Gate(AuthSettings()).authenticate("", (), "") is EVERYBODY
    EVERYBODY.require(Role.ADMIN, "anything", "any curriculum")


def test_a_known_token_names_its_holder():
    principal = show(gate_for(credential()), "token of a")
    assert (principal.name, principal.role) == ("a", Role.TRAIN)


@pytest.mark.parametrize(
    ("authorization", "reason"),
    [
        ("", "TOKEN_MISSING"),
        ("Bearer ", "TOKEN_MALFORMED"),
        ("Basic dG9rZW4=", "TOKEN_MALFORMED"),
        ("Bearer token of b", "TOKEN_UNKNOWN"),
        (f"Bearer {digest('token of a')}", "TOKEN_UNKNOWN"),
    ],
)
def test_anything_else_is_refused(authorization: str, reason: str):
    with pytest.raises(Unauthenticated) as refused:
        gate_for(credential()).authenticate(authorization, (), "10.0.0.1")
    assert refused.value.reason == reason


def test_an_expired_token_is_refused_and_says_so():
    held = credential(expires=NOON)
    assert show(gate_for(held, now=NOON.replace(hour=11)), "token of a").name == "a"
    with pytest.raises(Unauthenticated, match="expired"):
        show(gate_for(held), "token of a")


def test_a_verified_certificate_stands_for_a_token():
    known = Credential(name="pod", certificate="trainer.example.org", role=Role.TRAIN)
    gate = gate_for(known)
    assert gate.authenticate("", ("else", "trainer.example.org"), "").name == "pod"
    with pytest.raises(Unauthenticated):
        gate.authenticate("", ("mallory.example.org",), "")


@pytest.mark.parametrize(
    ("has", "may"), [("read", {"read"}), ("train", {"read", "train"}), ("admin", set(Role))]
)
def test_a_role_may_what_the_ones_before_it_may(has: str, may: set[str]):
    principal = Principal("a", Role(has), credential(role=Role(has)))
    for role in Role:
        if role in may:
            principal.require(role, "It", "math")
        else:
            with pytest.raises(PermissionDenied, match=f"needs the role {role}") as refused:
                principal.require(role, "It", "math")
            assert refused.value.reason == "ROLE_TOO_LOW"


@pytest.mark.parametrize(
    ("patterns", "inside", "outside"),
    [
        (["*"], ["math", ""], []),
        (["math"], ["math"], ["math2", "mat", "Math"]),
        (["team-a/*", "shared"], ["team-a/x", "team-a/", "shared"], ["team-a", "team-b/x", "shared/x"]),
    ],
)
def test_a_credential_covers_ids_and_beginnings(patterns: list[str], inside: list[str], outside: list[str]):
    held = credential(curricula=patterns)
    assert all(map(held.covers, inside))
    assert not any(map(held.covers, outside))


@pytest.mark.parametrize(
    "wrong", [{"curricula": []}, {"curricula": ["a*b"]}, {"certificate": "x"}, {"role": "root"}]
)
def test_a_credential_that_means_nothing_is_refused(wrong: dict[str, object]):
    with pytest.raises(ValidationError):
        credential(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["short", "holds a space in the middle", "ümlaut-ümlaut-ümlaut"])
def test_a_weak_token_from_the_environment_is_refused(text: str):
    with pytest.raises(ValidationError, match="openssl rand"):
        AuthSettings.model_validate({"admin_token": text})


def test_the_file_holds_hashes_and_only_its_owner_reads_it(tmp_path: Path):
    file = tmp_path / "tokens.yaml"
    made = new_token()
    written = (credential(), Credential(name="new", sha256=made.sha256, role=Role.READ, expires=NOON))
    write_token_file(file, written)
    assert read_token_file(file) == written
    assert made.token not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["tokens.yaml"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "tokens create"),
        ("{", "not YAML"),
        ("tokens: [{name: a}]", "tokens.0.role"),
        ("colour: red", "colour"),
        ("tokens: [{name: a, certificate: x, role: read}, {name: a, certificate: y, role: read}]", "two"),
    ],
)
def test_a_file_that_cannot_be_used_is_said_at_the_start(tmp_path: Path, text: str | None, said: str):
    file = tmp_path / "tokens.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(TokenFileError, match=said):
        Gate(AuthSettings(token_file=file))


def test_a_changed_file_is_read_again_and_a_broken_one_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(gate_module, "_LOOK_SECONDS", 0.0)
    file = tmp_path / "tokens.yaml"
    write_token_file(file, [credential()])
    gate = Gate(AuthSettings(token_file=file), now=NOON.timestamp)
    held = show(gate, "token of a")
    assert gate.is_current(held)

    file.write_text("{")
    assert gate.is_current(held)

    write_token_file(file, [credential("b", "token of b")])
    assert show(gate, "token of b").name == "b"
    assert not gate.is_current(held)
    with pytest.raises(Unauthenticated):
        gate.require_current(held)


def test_guessing_is_throttled_for_its_address_and_nobody_else():
    gate = Gate(AuthSettings(tokens=(credential(),), refusals_per_minute=3), now=NOON.timestamp)
    seen = []
    for _ in range(5):
        with pytest.raises((Unauthenticated, Throttled)) as refused:
            show(gate, "a guess")
        seen.append(refused.value.reason)
    assert seen == ["TOKEN_UNKNOWN"] * 3 + ["TOO_MANY_REFUSALS"] * 2
    assert show(gate, "token of a").name == "a"
    with pytest.raises(Unauthenticated):
        show(gate, "a guess", address="10.0.0.2")


def test_a_bucket_gives_its_burst_and_then_its_rate():
    now = 0.0
    rate = RateLimiter(2.0, 4.0, now=lambda: now)
    assert [rate.wait_seconds("a") for _ in range(5)] == [0, 0, 0, 0, 0.5]
    assert rate.wait_seconds("b") == 0
    now = 0.5
    assert [rate.wait_seconds("a") for _ in range(2)] == [0, 0.5]


def test_callers_without_number_do_not_fill_the_memory():
    rate = RateLimiter(1.0, 1.0, now=lambda: 0.0, max_keys=10)
    for i in range(1000):
        assert rate.wait_seconds(str(i)) == 0
    assert len(rate._buckets) == 10
