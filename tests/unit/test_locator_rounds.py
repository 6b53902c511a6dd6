"""Where is to be searched next? Rounds to a fixpoint, bounded, and never silent about a system."""

from dataclasses import replace
from typing import Any

from services.locator.connectors.base import Code
from services.locator.rounds import Atlas, Known, Limits, NewTask, Plan, Standing, plan_person, plan_search
from shared.vocabulary import Assurance, TaskState
from tests.support.registers import entity, manual, register, sql

LIMITS = Limits(rounds=3, identifiers=20)
MAIL = Known("i1", "email", Assurance.CONTROLLED, 0)
NUMBER = Known("i2", "customer_number", Assurance.CONTROLLED, 1)


def house(**systems: Any) -> Atlas:
    return Atlas(
        register(
            {
                "crm": sql(
                    {"c": entity(["email", "number"], find_by={"email": "email"}, yields={"customer_number": "number"})}
                ),
                "invoices": sql({"i": entity(["number"], find_by={"customer_number": "number"})}),
                **systems,
            }
        )
    )


def standing(task: NewTask, state: TaskState, **more: Any) -> Standing:
    return Standing(
        f"t-{task.system}-{task.round}", task.system, task.round, state, frozenset(task.identifiers), **more
    )


def brief(plan: Plan) -> set[tuple[str, int, TaskState, str | None]]:
    return {(task.system, task.round, task.state, task.code) for task in plan.tasks}


def test_the_first_round_searches_what_the_given_identifiers_open() -> None:
    plan = plan_search(house(), [MAIL], [], LIMITS)
    assert brief(plan) == {("crm", 1, TaskState.QUEUED, None)}
    assert not plan.located


def test_a_discovered_identifier_opens_the_next_system_in_the_next_round() -> None:
    crm = Standing("t1", "crm", 1, TaskState.FOUND, frozenset({"i1"}))
    plan = plan_search(house(), [MAIL, NUMBER], [crm], LIMITS)
    assert brief(plan) == {("invoices", 2, TaskState.QUEUED, None)}


def test_nothing_new_is_the_end() -> None:
    tasks = [
        Standing("t1", "crm", 1, TaskState.FOUND, frozenset({"i1"})),
        Standing("t2", "invoices", 2, TaskState.NOTHING, frozenset({"i2"})),
    ]
    assert plan_search(house(), [MAIL, NUMBER], tasks, LIMITS) == Plan(located=True)


def test_a_claimed_identifier_never_locates() -> None:
    plan = plan_search(house(), [replace(MAIL, assurance=Assurance.CLAIMED)], [], LIMITS)
    assert brief(plan) == {
        ("crm", 1, TaskState.NOTHING, Code.NO_IDENTIFIER),
        ("invoices", 1, TaskState.NOTHING, Code.NO_IDENTIFIER),
    }
    assert plan.located


def test_a_system_that_nothing_opened_is_told_as_nothing_found_with_its_reason() -> None:
    crm = Standing("t1", "crm", 1, TaskState.NOTHING, frozenset({"i1"}))
    plan = plan_search(house(), [MAIL], [crm], LIMITS)
    assert brief(plan) == {("invoices", 1, TaskState.NOTHING, Code.NO_IDENTIFIER)}
    assert plan.located


def test_a_system_behind_one_that_was_not_searched_is_not_searched_either() -> None:
    crm = Standing("t1", "crm", 1, TaskState.NOT_SEARCHED, frozenset({"i1"}))
    plan = plan_search(house(), [MAIL], [crm], LIMITS)
    assert brief(plan) == {("invoices", 1, TaskState.NOT_SEARCHED, Code.SOURCE_NOT_SEARCHED)}


def test_a_system_behind_doubtful_records_goes_to_a_person() -> None:
    crm = Standing("t1", "crm", 1, TaskState.FOUND, frozenset({"i1"}), doubtful=1)
    plan = plan_search(house(), [MAIL], [crm], LIMITS)
    assert brief(plan) == {("invoices", 1, TaskState.NEEDS_PERSON, Code.DOUBTFUL_SOURCE)}
    assert not plan.located


def test_a_system_waits_for_what_others_may_still_yield() -> None:
    for state in (TaskState.QUEUED, TaskState.RUNNING, TaskState.RETRY, TaskState.NEEDS_PERSON):
        crm = Standing("t1", "crm", 1, state, frozenset({"i1"}))
        assert plan_search(house(), [MAIL], [crm], LIMITS) == Plan()


def test_it_waits_along_the_whole_chain() -> None:
    chain = house(
        invoices=sql(
            {"i": entity(["number", "account"], find_by={"customer_number": "number"}, yields={"account": "account"})}
        ),
        bank=sql({"b": entity(["account"], find_by={"account": "account"})}),
    )
    crm = Standing("t1", "crm", 1, TaskState.RUNNING, frozenset({"i1"}))
    assert plan_search(chain, [MAIL], [crm], LIMITS) == Plan()
    over = replace(crm, state=TaskState.NOTHING)
    assert {task.system for task in plan_search(chain, [MAIL], [over], LIMITS).tasks} == {"invoices", "bank"}


def test_a_running_task_is_not_joined_by_another_at_the_same_system() -> None:
    twice = house(crm=sql({"c": entity(["email"], find_by={"email": "email", "customer_number": "email"})}))
    crm = Standing("t1", "crm", 1, TaskState.RUNNING, frozenset({"i1"}))
    invoices = Standing("t2", "invoices", 2, TaskState.RUNNING, frozenset({"i2"}))
    assert plan_search(twice, [MAIL, NUMBER], [crm, invoices], LIMITS) == Plan()
    done = replace(crm, state=TaskState.FOUND)
    assert brief(plan_search(twice, [MAIL, NUMBER], [done, invoices], LIMITS)) == {("crm", 2, TaskState.QUEUED, None)}


def test_a_person_at_work_gets_what_comes_up_meanwhile() -> None:
    both = house(archive=manual({"d": entity(["t"], find_by={"email": "t", "customer_number": "t"})}))
    archive = Standing("t3", "archive", 1, TaskState.NEEDS_PERSON, frozenset({"i1"}))
    crm = Standing("t1", "crm", 1, TaskState.FOUND, frozenset({"i1"}))
    plan = plan_search(both, [MAIL, NUMBER], [crm, archive], LIMITS)
    assert plan.absorbed == {"t3": ("i2",)}
    assert brief(plan) == {("invoices", 2, TaskState.QUEUED, None)}


def test_a_manual_system_opens_by_its_identifiers_or_always_if_it_names_none() -> None:
    closed = house(archive=manual({"d": entity(["t"], find_by={"customer_number": "t"})}))
    assert {task.system for task in plan_search(closed, [MAIL], [], LIMITS).tasks} == {"crm"}
    open_ = house(archive=manual({"d": entity(["t"])}))
    assert ("archive", 1, TaskState.NEEDS_PERSON, Code.MANUAL) in brief(plan_search(open_, [MAIL], [], LIMITS))
    # Even for somebody of whom nothing but a name is known, and only once.
    nobody = plan_search(open_, [], [], LIMITS)
    assert ("archive", 1, TaskState.NEEDS_PERSON, Code.MANUAL) in brief(nobody)
    tasks = [standing(task, TaskState.NOTHING) for task in nobody.tasks]
    assert plan_search(open_, [], tasks, LIMITS) == Plan(located=True)


def test_hops_are_bounded_and_a_person_takes_over() -> None:
    far = replace(NUMBER, hop=3)
    crm = Standing("t1", "crm", 1, TaskState.FOUND, frozenset({"i1"}))
    plan = plan_search(house(), [MAIL, far], [crm], LIMITS)
    assert brief(plan) == {("invoices", 4, TaskState.NEEDS_PERSON, Code.TOO_MANY_ROUNDS)}


def test_identifiers_are_bounded_and_a_person_takes_over() -> None:
    many = [MAIL, *(replace(NUMBER, id=f"n{number}") for number in range(19))]
    crm = Standing("t1", "crm", 1, TaskState.FOUND, frozenset({"i1"}))
    plan = plan_search(house(), many, [crm], LIMITS)
    assert brief(plan) == {("invoices", 2, TaskState.NEEDS_PERSON, Code.TOO_MANY_IDENTIFIERS)}


def test_rounds_of_one_system_never_repeat_a_number() -> None:
    crm = Standing("t1", "crm", 1, TaskState.FOUND, frozenset({"i1"}))
    done = Standing("t2", "invoices", 3, TaskState.FOUND, frozenset({"i2"}))
    plan = plan_search(house(), [MAIL, NUMBER, replace(NUMBER, id="i3")], [crm, done], LIMITS)
    assert brief(plan) == {("invoices", 4, TaskState.QUEUED, None)}


def test_a_right_that_people_carry_out_gives_one_task_for_each_system() -> None:
    claimed = replace(MAIL, assurance=Assurance.CLAIMED)
    plan = plan_person(house(), [claimed], [])
    assert brief(plan) == {
        ("crm", 1, TaskState.NEEDS_PERSON, Code.PERSON),
        ("invoices", 1, TaskState.NEEDS_PERSON, Code.PERSON),
    }
    half = [standing(plan.tasks[0], TaskState.FOUND), standing(plan.tasks[1], TaskState.NEEDS_PERSON)]
    assert plan_person(house(), [claimed], half) == Plan()
    assert plan_person(house(), [claimed], [replace(task, state=TaskState.FOUND) for task in half]).located
