"""How often somebody may try, and what passwords, keys and callers must look like."""

from datetime import timedelta

import pytest
from pwdlib.hashers.argon2 import Argon2Hasher

from gateway.accounts import NOBODY, WeakPassword, check_password, normal_name
from gateway.callers import BadCredentials, Caller, anonymous, bearer
from gateway.idempotency import BadKey, check_key
from gateway.keys import SCOPES, Scope, WiderThanYou, granted
from gateway.limits import ACCOUNT, CLIENT, MAX_COUNTED, Floodgate
from gateway.sessions import digest, new_token
from shared.problems import Forbidden, NotFound, TooMany, Unauthenticated
from shared.vocabulary import Role
from tests.contract.gateway_house import Moment


def test_a_minute_s_worth_may_come_at_once_and_then_an_even_trickle() -> None:
    clock = Moment()
    gate = Floodgate({"open": 30}, clock)
    for _ in range(30):
        gate.take("open", "192.0.2.1")
    with pytest.raises(TooMany) as refused:
        gate.take("open", "192.0.2.1")
    assert refused.value.retry_after == 2
    clock.forward(seconds=2)
    gate.take("open", "192.0.2.1")
    with pytest.raises(TooMany):
        gate.take("open", "192.0.2.1")


def test_one_client_s_flood_is_nobody_else_s_and_no_other_rule_s() -> None:
    gate = Floodgate({"open": 1, "prove": 1}, Moment())
    gate.take("open", "192.0.2.1")
    gate.take("open", "192.0.2.2")
    gate.take("prove", "192.0.2.1")
    with pytest.raises(TooMany):
        gate.take("open", "192.0.2.1")


def test_a_flood_of_addresses_takes_bounded_memory() -> None:
    gate = Floodgate({"open": 1}, Moment())
    for number in range(MAX_COUNTED + 100):
        gate.take("open", str(number))
    assert len(gate._buckets) == MAX_COUNTED


def test_a_clock_that_is_set_back_gives_nothing_away() -> None:
    clock = Moment()
    gate = Floodgate({"open": 1}, clock)
    gate.take("open", "a")
    clock.forward(hours=-1)
    with pytest.raises(TooMany):
        gate.take("open", "a")


def test_waiting_doubles_after_the_free_tries_and_ends_at_a_quarter_of_an_hour() -> None:
    seconds = [int(ACCOUNT.wait(failures).total_seconds()) for failures in range(1, 13)]
    assert seconds == [0, 0, 0, 0, 30, 60, 120, 240, 480, 900, 900, 900]
    assert ACCOUNT.wait(10_000) == timedelta(seconds=900)
    assert CLIENT.wait(19) == timedelta()


def test_lockouts_are_kept_under_digests_separate_per_organisation() -> None:
    assert ACCOUNT.key("nordlys", "søren") != ACCOUNT.key("vestas", "søren")
    assert "søren" not in ACCOUNT.key("nordlys", "søren")


def test_passwords_are_long_varied_and_not_the_name() -> None:
    check_password("søren", "en lang sætning om vejret")
    for bad in ("kort", "a" * 40, "abcabcabcabcabc", "min søren-kode 123", "x" + "abcde" * 50):
        with pytest.raises(WeakPassword):
            check_password("Søren", bad)


def test_names_are_compared_as_people_read_them() -> None:
    assert normal_name("  SØREN ") == normal_name("søren")
    assert normal_name("ﬁn") == "fin"


def test_a_wrong_name_costs_what_a_wrong_password_costs() -> None:
    """The stand-in hash must have the parameters of today's hasher."""
    assert NOBODY.rsplit("$", 2)[0] == Argon2Hasher().hash("x").rsplit("$", 2)[0]


def test_tokens_are_256_random_bits_and_only_their_digest_is_kept() -> None:
    token, kept = new_token("hbh")
    assert len(token) == 4 + 43
    assert kept == digest(token)
    assert token not in kept


def test_a_key_gets_only_scopes_that_its_maker_holds() -> None:
    assert granted([Role.HANDLER], [Scope.REQUESTS]) == ["requests"]
    assert granted([Role.HANDLER, Role.AUDITOR], [Scope.REQUESTS, Scope.EVENTS]) == ["events", "requests"]
    for roles in ([Role.HANDLER], [Role.RESPONDENT], []):
        with pytest.raises(WiderThanYou):
            granted(roles, [Scope.EVENTS])
    assert set(SCOPES) == set(Role)


@pytest.mark.parametrize(
    "header",
    ["Basic dXNlcjpwYXNz", "Bearer", "Bearer ", "Bearer x", "Bearer hbh_short", "hbh_" + "a" * 43,
     "Bearer hbx_" + "a" * 43, "Bearer hbh_" + "a" * 43 + " ", "Bearer eyJhbGciOiJub25lIn0.e30."],
)  # fmt: skip
def test_only_our_own_credentials_are_credentials(header: str) -> None:
    with pytest.raises(BadCredentials):
        bearer(header)


def test_no_header_is_nobody_and_a_scheme_has_no_case() -> None:
    assert bearer("") is None
    assert bearer("bearer hbs_" + "a" * 43) == "hbs_" + "a" * 43


def person(reference: str = "7KQ4-M2XB-9", *grants: str) -> Caller:
    return Caller("nordlys", "subject:1", frozenset(grants or {"subject"}), "1", reference, "verified")


def test_a_person_gets_at_their_own_reference_only_and_a_foreign_one_looks_like_none() -> None:
    person("7KQ4-M2XB-9").authorise(frozenset({"subject"}), "7KQ4-M2XB-9")
    with pytest.raises(NotFound):
        person("7KQ4-M2XB-9").authorise(frozenset({"subject", "anonymous"}), "AAAA-BBBB-C")


def test_a_verified_person_may_not_collect_without_the_second_proof() -> None:
    with pytest.raises(Forbidden):
        person().authorise(frozenset({"subject-collect"}), "7KQ4-M2XB-9")


def test_nobody_is_asked_to_sign_in_and_somebody_is_told_no() -> None:
    with pytest.raises(Unauthenticated):
        anonymous("nordlys").authorise(frozenset({"handler"}), None)
    with pytest.raises(Forbidden):
        Caller("nordlys", "handler:1", frozenset({"auditor"})).authorise(frozenset({"handler"}), None)


def test_service_tokens_carry_roles_and_scopes_but_no_words_of_the_door() -> None:
    assert person("7KQ4-M2XB-9", "subject", "subject-collect").roles == frozenset()
    assert Caller("nordlys", "system:1", frozenset({"system", "events"})).roles == {"system", "events"}


def test_an_account_id_belongs_to_handlers_only() -> None:
    assert Caller("nordlys", "handler:7", frozenset({"dpo"})).account_id == "7"
    with pytest.raises(Forbidden):
        _ = person().account_id


def test_idempotency_keys_are_visible_ascii_of_some_length() -> None:
    check_key("0192f3a4-1111-7222-8333-444455556666")
    for bad in ("", "short", "a" * 201, "with space 1", "æøåæøåæøå", "line\nbreak"):
        with pytest.raises(BadKey):
            check_key(bad)
