"""The page in Django's admin, rendered by Django's test client."""

from __future__ import annotations

import contextlib
import re
from typing import Any, Callable, Iterator

import pytest
from django.conf import settings
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.test.utils import override_settings

from elk_coordinator import Coordinator, CreatePartition, RedisDataStore, StrategyType, create_strategy
from elk_coordinator.contrib.django import build, get_admin
from tests.contrib.djsite.shelf.models import Book

PAGE = "/admin/elk_coordinator/coordinators/"
pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture
def site(configure: Callable[..., None], redis_url: str, namespace: str) -> None:
    configure(REDIS_URL=redis_url, NAMESPACE=namespace)


@pytest.fixture
def failed(site: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Coordinator]:
    """Run a coordinator whose only two partitions have failed, and would not fail again."""
    Book.objects.bulk_create([Book(pk=pk) for pk in range(1, 21)])
    monkeypatch.setenv("TEST_SITE_BREAKS", "1")
    with build() as coordinator:
        assert coordinator.wait_idle(20)
        monkeypatch.delenv("TEST_SITE_BREAKS")
        yield coordinator


def logged_in(name: str, *permissions: str, **is_what: bool) -> Client:
    user = User.objects.create_user(name, password="x", **is_what)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(user)
    return client


def newest() -> Any:
    with get_admin() as admin:
        return admin.commands()


def test_the_page_shows_progress_workers_and_what_failed_with_its_text_escaped(failed: Coordinator) -> None:
    page = logged_in("boss", is_staff=True, is_superuser=True).get(PAGE)
    text = page.content.decode()
    assert page.status_code == 200
    assert failed.worker_id in text and failed.namespace in text
    assert "&lt;b&gt;broken&lt;/b&gt;" in text and "<b>broken" not in text
    assert "<summary>ValueError: &lt;b&gt;broken&lt;/b&gt;</summary>" in text
    assert 'elk-failed" style="width: 100.00%"' in text and "11 &ndash; 20" in text
    assert text.count('value="Retry"') == 2 and "Retry all that failed" in text
    assert "<script" not in text.split('id="content-main"')[1]


def test_the_index_leads_to_the_page() -> None:
    text = logged_in("staff", is_staff=True).get("/admin/").content.decode()
    assert 'href="%s"' % PAGE in text


def test_a_button_makes_one_failed_partition_pending_again(failed: Coordinator) -> None:
    client = logged_in("boss", is_staff=True, is_superuser=True)
    answer = client.post(PAGE + "default/retry/", {"partition": "1"}, follow=True)
    assert "retry is queued" in answer.content.decode()
    (command,) = newest()
    with get_admin() as admin:
        assert admin.wait(command.command_id).done == 1 and command.by == "boss (admin)"
    client.post(PAGE + "default/retry/")
    with get_admin() as admin:
        assert admin.wait(newest()[0].command_id).done == 1
    assert failed.wait_idle(20)
    assert set(Book.objects.values_list("visits", flat=True)) == {1}


def test_pause_and_resume(failed: Coordinator) -> None:
    client = logged_in("boss", is_staff=True, is_superuser=True)
    for action, paused in (("pause", True), ("resume", False)):
        client.post(PAGE + "default/%s/" % action)
        with get_admin() as admin:
            admin.wait(newest()[0].command_id)
        assert ("Paused: nothing is claimed" in client.get(PAGE).content.decode()) is paused


@pytest.mark.usefixtures("site")
def test_who_may_look_and_who_may_operate(redis_url: str, namespace: str) -> None:
    with contextlib.closing(RedisDataStore.from_url(redis_url)) as store:
        strategy = create_strategy(StrategyType.HASH, namespace, store)
        strategy.create_partitions_if_not_exist([CreatePartition(1, 1, 10)])
        strategy.stop()
    pause = PAGE + "default/pause/"
    for stranger in (Client(), logged_in("customer")):
        assert stranger.get(PAGE).status_code == stranger.post(pause).status_code == 302
    staff = logged_in("staff", is_staff=True)
    page = staff.get(PAGE)
    assert page.status_code == 200 and "<form" not in page.content.decode().split('id="content-main"')[1]
    assert staff.post(pause).status_code == 403
    operator = logged_in("operator", "operate", is_staff=True)
    assert "<form" in operator.get(PAGE).content.decode().split('id="content-main"')[1]
    assert operator.get(pause).status_code == 405
    assert operator.post(PAGE + "default/purge/").status_code == 404
    assert operator.post(PAGE + "other/pause/").status_code == 404
    assert newest() == []
    assert operator.post(pause).status_code == 302
    assert [command.kind for command in newest()] == ["pause"]
    guarded = Client(enforce_csrf_checks=True)
    guarded.force_login(User.objects.get(username="operator"))
    assert guarded.post(pause).status_code == 403 and len(newest()) == 1


@pytest.mark.usefixtures("site")
def test_a_namespace_nobody_used_is_said_on_the_page() -> None:
    assert "nobody has used the namespace" in logged_in("staff", is_staff=True).get(PAGE).content.decode()


def test_a_store_that_does_not_answer_is_said_on_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("elk_coordinator.contrib.django.conf.ANSWER_WITHIN", 0.2)
    page = logged_in("staff", is_staff=True).get(PAGE)
    assert page.status_code == 200 and "could not be reached" in page.content.decode()


@pytest.mark.parametrize("partition", ["x", "-1", "9" * 40])
def test_a_form_that_nobody_wrote_is_a_message(partition: str, failed: Coordinator) -> None:
    client = logged_in("boss", is_staff=True, is_superuser=True)
    answer = client.post(PAGE + "default/retry/", {"partition": partition}, follow=True)
    assert answer.status_code == 200 and "errorlist" not in answer.content.decode() and newest() == []


@pytest.mark.parametrize("alias", ["shop/orders", "a b", "x_2F", "50%", "?"])
def test_an_alias_with_odd_letters_has_buttons_that_work(
    alias: str, failed: Coordinator, settings_of: Callable[[str], None]
) -> None:
    settings_of(alias)
    client = logged_in("boss", is_staff=True, is_superuser=True)
    page = client.get(PAGE)
    assert page.status_code == 200
    actions = re.findall(r'action="([^"]*/pause/)"', page.content.decode())
    assert len(actions) == 1
    client.post(actions[0])
    with get_admin(alias) as admin:
        assert [command.kind for command in admin.commands()] == ["pause"]


@pytest.fixture
def settings_of(site: None) -> Iterator[Callable[[str], None]]:
    """Return a function that gives the only coordinator of the settings another alias."""
    overrides = []

    def rename(alias: str) -> None:
        override = override_settings(ELK_COORDINATOR={alias: settings.ELK_COORDINATOR["default"]})
        override.enable()
        overrides.append(override)

    yield rename
    while overrides:
        overrides.pop().disable()


def test_a_store_function_that_raises_is_said_on_the_page_without_its_text(configure: Callable[..., None]) -> None:
    def store() -> Any:
        raise KeyError("redis://:secret@host")

    configure(REDIS_URL=None, STORE=store)
    page = logged_in("staff", is_staff=True).get(PAGE)
    assert page.status_code == 200
    assert "It cannot be asked: KeyError" in page.content.decode() and "secret" not in page.content.decode()
